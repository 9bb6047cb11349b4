"""The head by a preview: cheap logits for every token, then exact rows for the few that matter.

Most tokens are improbable after any given text, and their logits need not be exact. The head's rows are sorted by how
probable their tokens are. For every row a few bits hold an approximation of it, fitted to the vectors that the model
really makes (x, the output of the last layer norm); the most probable rows get more bits. One pass over these gives the
preview. Then the exact int8 rows are read where the error of the preview would show: where the probability times the
variance of the error is largest. All other tokens keep their previewed logit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinyrwkv.errors import ArgumentError
from tinyrwkv.file import quant
from tinyrwkv.file.quant import dequantize_rows, quantize_rows
from tinyrwkv.file.table import FILE_PAGE
from tinyrwkv.versions import reference
from tinyrwkv.versions.layout import CODE_BITS

from .pack_codes import pack_codes

Array = np.ndarray
Parts = Mapping[str, Array]

_BLOCK = 512  # states at a time: their float32 logits over 65,536 tokens take 128 MB
_FEW = 64  # the same where several such arrays are needed
_ROWS = 8192  # rows of the head at a time


class Level(NamedTuple):
    """One part of the preview.

    Attributes
    ----------
    rows : int
        How many rows have it, the most probable first.
    rank : int
        Coordinates of x that it uses; a multiple of 32 // bits.
    bits : int
        4 in the first level, 2 in the second.
    """

    rows: int
    rank: int
    bits: int


def fit_preview(
    weight: Array,
    states: Array,
    *,
    levels: Sequence[tuple[int, int, int]] | None = None,
    rows: int = 1024,
    seed: int = 0,
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Make the preview of a head.

    Parameters
    ----------
    weight : ndarray, float32, shape (V, C)
    states : ndarray, float32, shape (n, C)
        Inputs of the head after calibration text; 8,192 are enough.
    levels : sequence of (rows, rank, bits), optional
        One or two: codes of 4 bits for all V rows, of 2 for some; `default_levels` where left out.
    rows : int
        Exact rows to read for each token.
    seed : int
        Of the rotations that spread each row's weights over its coordinates.

    Returns
    -------
    parts : dict of str to ndarray
        What a model file has as ``head.<part>`` in the place of ``head.weight``, see docs/format.md.
    report : dict
        ``bytes`` read for a token by part, ``bytes_per_token``, and the preview's mean variance of ``error``.

    Raises
    ------
    ArgumentError
        A setting or a shape is out of range.
    """
    weight, states = matrix("weight", weight), matrix("states", states)
    V, C = weight.shape
    if states.shape[1] != C:
        raise ArgumentError(
            "fit_preview", "states", states.shape, f"(n, {C})", "give inputs of this head"
        )
    p = mean_probabilities(weight, states)
    order = np.argsort(-p, kind="stable")
    plan = _check_levels(default_levels(p, C) if levels is None else levels, V, C)
    W, importance = weight[order], (p[order] + 1 / (16 * V)) ** 0.25
    importance /= importance.sum()

    # z_t = m . x + a_t . y + b_t with y = B x + bias, so that y has mean 0 and variance 1 over the states
    mean = (importance @ W).astype(np.float32)  # (C,)
    W -= mean
    centre = states.mean(axis=0, dtype=np.float64)  # (C,)
    G = np.cov(states, rowvar=False, dtype=np.float64, ddof=0)  # (C, C)
    basis, basis_scale = quantize_rows(_basis(W, importance, G, plan, seed))
    B = dequantize_rows(basis, basis_scale).astype(np.float64)  # (R, C)

    parts: dict[str, Array] = {}
    tables, error = _fit_rows(W, G, B, plan, parts)
    bias, bias_range = _uniform_codes((W @ centre).astype(np.float32) + error / 2)
    spread, spread_range = _uniform_codes(np.log(np.maximum(error, np.float32(1e-12))))
    q, scale = quantize_rows(np.ascontiguousarray(weight[order]))
    parts |= {
        "places": np.argsort(order).astype(np.int32), "mean": mean,
        "basis.weight": basis, "basis.weight.scale": basis_scale, "basis.bias": -(B @ centre).astype(np.float32),
        "bias_codes": bias, "spread_codes": spread, "ranges": np.stack([bias_range, spread_range]),
        "tables": np.stack(tables),
        "wanted": np.array([rows], np.int32),
        "rows.weight.scale": scale, "rows.weight": q,
    }  # fmt: skip
    return parts, {"rows": rows, "error": float(p[order] @ error), **count_bytes(parts)}


def seen_bytes(parts: Mapping[str, Array], states: Array) -> int:
    """Return the bytes of the pages with the exact rows that all of some states, (n, C), need together."""
    head = {
        **parts,
        "basis.weight": dequantize_rows(parts["basis.weight"], parts["basis.weight.scale"]),
    }
    V, C = parts["rows.weight"].shape
    seen = np.zeros(V, bool)
    for i in range(0, len(states), 16):
        z = reference.preview(head, states[i : i + 16])  # (n, V)
        scores = reference.steps(z + reference.even(head["ranges"][1], head["spread_codes"]))
        seen |= (scores >= reference.lowest_score(scores, int(head["wanted"][0]))).any(axis=0)
    rows = np.flatnonzero(seen)
    return len(np.union1d(rows * C // FILE_PAGE, ((rows + 1) * C - 1) // FILE_PAGE)) * FILE_PAGE


def default_levels(p: Array, C: int) -> list[Level]:
    """Return 16 coordinates of 4 bits for all rows, 112 of 2 bits for those that hold 0.999 of the probability."""
    V = len(p)
    first, second = Level(V, min(16, C // 8 * 8), 4), min(112, (C - 16) // 16 * 16)
    missing = 1 - np.cumsum(-np.sort(-p)) / p.sum()
    likely = int(np.searchsorted(-missing, -0.001)) + 1
    return [first, Level(min(V, -(-likely // 1024) * 1024), second, 2)] if second > 0 else [first]


def mean_probabilities(weight: Array, states: Array) -> Array:
    """Return the mean probability of every token over the states, float64, shape (V,)."""
    total = np.zeros(len(weight))
    for _, p in softmax_blocks(weight, states):
        total += p.sum(axis=0, dtype=np.float64)
    return total / len(states)


def softmax_blocks(weight: Array, states: Array) -> Iterator[tuple[int, Array]]:
    """Yield the number of a state and the probabilities after it and those that follow, float32, (block, V)."""
    for i in range(0, len(states), _BLOCK):
        yield i, softmax(states[i : i + _BLOCK] @ weight.T)


def _basis(W: Array, importance: Array, G: Array, plan: Sequence[Level], seed: int) -> Array:
    """Return the directions of x, (R, C), that explain most of the logits, rotated within each level.

    With G = S S (S symmetric) the logits of states are those of white vectors under W S. Its leading right singular
    vectors, rows weighted by importance, are the best basis of every rank at once; the rotations make the
    coefficients of a row alike in size, so that one scale serves them all.
    """
    values, vectors = np.linalg.eigh(G)
    root = np.sqrt(np.maximum(values, max(values[-1], 1e-30) * 1e-7))
    S, inverse = vectors * root @ vectors.T, vectors / root @ vectors.T  # (C, C) each
    M = np.zeros_like(G)
    for i in range(0, len(W), _ROWS):
        g = W[i : i + _ROWS] @ S  # (rows, C)
        M += (g * importance[i : i + _ROWS, None]).T @ g
    leading = np.linalg.eigh(M)[1][:, ::-1]  # (C, C)
    random, first, basis = np.random.default_rng(seed), 0, []
    for level in plan:
        rotation = np.linalg.qr(random.standard_normal((level.rank, level.rank)))[0]
        basis.append(rotation.T @ leading[:, first : first + level.rank].T @ inverse)
        first += level.rank
    return np.concatenate(basis).astype(np.float32)


def _fit_rows(
    W: Array, G: Array, B: Array, plan: list[Level], parts: dict[str, Array]
) -> tuple[list[Array], Array]:
    """Fill in codes and scales of every level; return the tables of scales and each row's variance of error, (V,)."""
    V, BG, first = len(W), B @ G, 0
    A = np.zeros((V, len(B)), np.float32)
    # The best coefficients of W in the first r rows of B: W G B^T (B G B^T)^-1
    ends = np.cumsum([level.rank for level in plan])
    for k, level in enumerate(plan):
        begin, r = (plan[k + 1].rows if k + 1 < len(plan) else 0), ends[k]
        solve = np.linalg.solve(BG[:r] @ B[:r].T, BG[:r]).T  # (C, r)
        for i in range(begin, level.rows, _ROWS):
            rows = slice(i, min(i + _ROWS, level.rows))
            A[rows, :r] = W[rows] @ solve
    tables = [np.zeros(256, np.float32)] * len(CODE_BITS)
    for k, level in enumerate(plan):
        columns = slice(first, first + level.rank)
        codes, scale, table, stored = _quantize(A[: level.rows, columns], level.bits)
        parts[f"codes.{level.bits}"], parts[f"scale_codes.{level.bits}"] = codes, scale
        A[: level.rows, columns] = stored
        tables[k] = table
        first += level.rank
    error = np.empty(V, np.float32)
    for i in range(0, V, _ROWS):
        d = W[i : i + _ROWS] - A[i : i + _ROWS] @ B  # (rows, C)
        error[i : i + _ROWS] = np.einsum("ij,ij->i", d @ G, d)
    return tables, np.maximum(error, 0)


def _quantize(A: Array, bits: int) -> tuple[Array, Array, Array, Array]:
    """Round rows to 2^bits levels, (code - (2^bits - 1) / 2) * scale, the scale of each chosen from 256.

    Returns packed codes, scale (rows,), the table of scales (256,) and the rows as stored.
    """
    half = np.float32((2**bits - 1) / 2)
    top = np.maximum(np.abs(A).max(axis=1), np.float32(1e-12))  # (rows,)
    low, high = np.log(top.min() * 0.3 / half), np.log(top.max() / half)
    table = np.exp(np.linspace(low, max(high, low + 1e-3), 256)).astype(np.float32)
    best, scale, stored = (
        np.full(len(A), np.inf, np.float32),
        np.zeros(len(A), np.uint8),
        np.empty_like(A),
    )
    for clip in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.42, 0.35):
        index = np.clip(
            np.rint((np.log(top * clip / half) - low) / (max(high, low + 1e-3) - low) * 255), 0, 255
        )
        index = index.astype(np.uint8)
        s = table[index][:, None]
        values = (np.clip(np.floor(A / s + half + 0.5), 0, 2**bits - 1) - half) * s
        error = np.square(values - A).sum(axis=1)
        better = error < best
        best[better], scale[better], stored[better] = error[better], index[better], values[better]
    codes = np.rint(stored / table[scale][:, None] + half).astype(np.uint8)  # (rows, rank)
    return pack_codes(codes, bits), scale, table, stored


def _uniform_codes(values: Array) -> tuple[Array, Array]:
    """Round to 256 numbers from the least to the largest; return the codes, the least and the step."""
    step = max(float(values.max() - values.min()) / 255, 1e-12)
    codes = np.rint((values - values.min()) / step).astype(np.uint8)
    return codes, np.array([values.min(), step], np.float32)


def preview_logits(parts: Parts, x: Array) -> tuple[Array, Array]:
    """Return the logits of the head, exact where it matters, and which rows of the file are exact.

    Parameters
    ----------
    parts : mapping of str to ndarray
        From `fit_preview`.
    x : ndarray, float32, shape (n, C)

    Returns
    -------
    logits : ndarray, float32, shape (n, V)
        By token.
    rows : ndarray, bool, shape (n, V)
        By row of the file: ``rows[t].sum()`` were read, of the tokens whose place is one of them.
    """
    head = weights(parts)
    blocks = [reference.preview_logits(head, x[i : i + _FEW]) for i in range(0, len(x), _FEW)]
    logits, rows = (np.concatenate(listed) for listed in zip(*blocks, strict=True))
    return logits, rows


def weights(parts: Parts) -> dict[str, Array]:
    """Return parts as the functions of `reference` take them, matrices in float32."""
    return reference.part(
        quant.dequantize({f"head.{name}": a for name, a in parts.items()}), "head."
    )


def count_bytes(parts: Parts) -> dict[str, Any]:
    """Return the bytes that one token reads, by part."""
    V, C = parts["rows.weight"].shape
    read = {name: a.nbytes for name, a in parts.items() if not name.startswith("rows.")}
    read["rows"] = min(int(parts["wanted"][0]), V) * (C + 4)
    return {"bytes": read, "bytes_per_token": sum(read.values())}


def softmax(z: Array) -> Array:
    """Return the probabilities, overwriting z: exp(z - max), each row divided by its sum."""
    z -= z.max(axis=1, keepdims=True)
    np.exp(z, out=z)
    z /= z.sum(axis=1, keepdims=True)
    return z


def matrix(name: str, a: Array) -> Array:
    """Return a matrix of finite float32; ArgumentError where it is something else."""
    if (
        not isinstance(a, np.ndarray)
        or a.ndim != 2
        or a.dtype != np.float32
        or not a.size
        or not np.isfinite(a).all()
    ):
        found = f"{a.dtype} {a.shape}" if isinstance(a, np.ndarray) else type(a).__name__
        raise ArgumentError("head", name, found, "a matrix of finite float32", "convert it first")
    return a


def _check_levels(levels: Sequence[tuple[int, int, int]], V: int, C: int) -> list[Level]:
    plan = [Level(*level) for level in levels]
    good = (
        [level.bits for level in plan] in ([*CODE_BITS[:1]], [*CODE_BITS])
        and plan[0].rows == V
        and sum(p.rank for p in plan) <= C
    )
    for level in plan:
        fits = level.rank > 0 and level.rank * level.bits % 32 == 0
        good = good and fits and 0 < level.rows <= V
    if not good:
        expected = f"codes of 4 bits for {V} rows, perhaps 2 bits for some; ranks up to {C} in all, that fill 32 bits"
        raise ArgumentError("fit_preview", "levels", levels, expected, "choose other levels")
    return plan
