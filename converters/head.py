"""The head by a preview: cheap logits for every token, then exact rows for the few that matter.

Most tokens are improbable after any given text, and their logits need not be exact. The head's rows are sorted by how
probable their tokens are. For every row a few bits hold an approximation of it, fitted to the vectors that the model
really makes (x, the output of the last layer norm); the most probable rows get more bits. One pass over these gives the
preview. Then the exact int8 rows are read where the error of the preview would show: where the probability times the
variance of the error is largest. All other tokens keep their previewed logit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinyrwkv.errors import ArgumentError
from tinyrwkv.quant import dequantize_rows, quantize_rows

Array = np.ndarray
Parts = Mapping[str, Array]

QMAX = 127
"""Largest integer of a coordinate of x in the preview."""

BUCKETS, STEPS = 1024, 16
"""Logits are counted in buckets of 1 / STEPS; what lies BUCKETS of them below the largest has no weight."""

_BLOCK = 512  # states at a time: their float32 logits over 65,536 tokens take 128 MB
_ROWS = 8192  # rows of the head at a time


class Level(NamedTuple):
    """One part of the preview.

    Attributes
    ----------
    rows : int
        How many rows have it, the most probable first.
    rank : int
        Coordinates of x that it uses; a multiple of 8 // bits.
    bits : int
        1, 2, 4 or 8 for each of them.
    """

    rows: int
    rank: int
    bits: int


def fit_preview(
    weight: Array,
    states: Array,
    *,
    levels: Sequence[tuple[int, int, int]] | None = None,
    rows: int = 1000,
    most: int = 4096,
    seed: int = 0,
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Make the preview of a head and choose how many exact rows are read.

    Parameters
    ----------
    weight : ndarray, float32, shape (V, C)
    states : ndarray, float32, shape (n, C)
        Inputs of the head after calibration text; 8,192 are enough.
    levels : sequence of (rows, rank, bits), optional
        The parts of the preview, not growing in rows, the first for all V rows; `default_levels` where left out.
    rows : int
        Exact rows to read for a token, on average over the states.
    most : int
        Exact rows to read for any one token.
    seed : int
        Of the rotations that spread each row's weights over its coordinates.

    Returns
    -------
    parts : dict of str to ndarray
        ``rows`` int8 (V, C) and ``rows.scale`` float32 (V,), the most probable first; ``ids`` int32 (V,), the token
        of each; ``mean`` float32 (C,); ``basis`` int8 (R, C), ``basis.scale`` and ``shift`` float32 (R,), R the ranks
        of all levels together; ``bias``, ``spread`` uint8 (V,); for level k ``k.codes`` uint8 (rows, rank * bits / 8),
        ``k.scale`` uint8 (rows,); ``tables`` float32 (2 + levels, 256): values of the codes of bias, spread and each
        level's scale; ``levels`` int32 (levels, 3); ``threshold`` float32 (1,); ``most`` int32 (1,).
    report : dict
        ``bytes`` read for a token by part and ``bytes_per_token`` with the rows, for the mean of the states.

    Raises
    ------
    ArgumentError
        A setting or a shape is out of range.
    """
    weight, states = matrix("weight", weight), matrix("states", states)
    V, C = weight.shape
    if states.shape[1] != C:
        raise ArgumentError("fit_preview", "states", states.shape, f"(n, {C})", "give inputs of this head")
    p = mean_probabilities(weight, states)
    order = np.argsort(-p, kind="stable")
    plan = _check_levels(default_levels(p) if levels is None else levels, V, C)
    W, importance = weight[order], (p[order] + 1 / (16 * V)) ** 0.25
    importance /= importance.sum()

    # z_t = m . x + a_t . y + b_t with y = B x - shift, so that y has mean 0 and variance 1 over the states
    mean = (importance @ W).astype(np.float32)  # (C,)
    W -= mean
    centre = states.mean(axis=0, dtype=np.float64)  # (C,)
    G = np.cov(states, rowvar=False, dtype=np.float64, ddof=0)  # (C, C)
    basis, basis_scale = quantize_rows(_basis(W, importance, G, plan, seed))
    B = dequantize_rows(basis, basis_scale).astype(np.float64)  # (R, C)

    parts: dict[str, Array] = {}
    scales, error = _fit_rows(W, G, B, plan, parts)
    bias, bias_table = _uniform_codes((W @ centre).astype(np.float32) + error / 2)
    spread, spread_table = _uniform_codes(np.log(np.maximum(error, np.float32(1e-12))))
    q, scale = quantize_rows(np.ascontiguousarray(weight[order]))
    parts |= {
        "rows": q, "rows.scale": scale, "ids": order.astype(np.int32), "mean": mean,
        "basis": basis, "basis.scale": basis_scale, "shift": (B @ centre).astype(np.float32),
        "bias": bias, "spread": spread, "tables": np.stack([bias_table, spread_table, *scales]),
        "levels": np.array(plan, np.int32), "threshold": np.zeros(1, np.float32), "most": np.array([most], np.int32),
    }  # fmt: skip
    parts["threshold"][0] = choose_threshold(parts, states, rows)
    return parts, {"rows": rows, "error": float(p[order] @ error), **count_bytes(parts, rows)}


def default_levels(p: Array) -> list[Level]:
    """Return 16 coordinates of 4 bits for all rows, 112 of 2 bits for those that hold 0.999 of the probability."""
    V = len(p)
    missing = 1 - np.cumsum(-np.sort(-p)) / p.sum()
    likely = int(np.searchsorted(-missing, -0.001)) + 1
    return [Level(V, 16, 4), Level(min(V, -(-likely // 1024) * 1024), 112, 2)]


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


def _fit_rows(W: Array, G: Array, B: Array, plan: list[Level], parts: dict[str, Array]) -> tuple[list[Array], Array]:
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
    tables = []
    for k, level in enumerate(plan):
        columns = slice(first, first + level.rank)
        codes, scale, table, stored = _quantize(A[: level.rows, columns], level.bits)
        parts[f"{k}.codes"], parts[f"{k}.scale"] = codes, scale
        A[: level.rows, columns] = stored
        tables.append(table)
        first += level.rank
    error = np.empty(V, np.float32)
    for i in range(0, V, _ROWS):
        d = W[i : i + _ROWS] - A[i : i + _ROWS] @ B  # (rows, C)
        error[i : i + _ROWS] = np.einsum("ij,ij->i", d @ G, d)
    return tables, np.maximum(error, 0)


def _quantize(A: Array, bits: int) -> tuple[Array, Array, Array, Array]:
    """Round rows to 2^bits levels, (code - (2^bits - 1) / 2) * scale, the scale of each chosen from 256.

    Returns codes (rows, rank * bits / 8), scale (rows,), the table of scales (256,) and the rows as stored.
    """
    half = np.float32((2**bits - 1) / 2)
    top = np.maximum(np.abs(A).max(axis=1), np.float32(1e-12))  # (rows,)
    low, high = np.log(top.min() * 0.3 / half), np.log(top.max() / half)
    table = np.exp(np.linspace(low, max(high, low + 1e-3), 256)).astype(np.float32)
    best, scale, stored = np.full(len(A), np.inf, np.float32), np.zeros(len(A), np.uint8), np.empty_like(A)
    for clip in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.42, 0.35):
        index = np.clip(np.rint((np.log(top * clip / half) - low) / (max(high, low + 1e-3) - low) * 255), 0, 255)
        index = index.astype(np.uint8)
        s = table[index][:, None]
        values = (np.clip(np.floor(A / s + half + 0.5), 0, 2**bits - 1) - half) * s
        error = np.square(values - A).sum(axis=1)
        better = error < best
        best[better], scale[better], stored[better] = error[better], index[better], values[better]
    codes = np.rint(stored / table[scale][:, None] + half).astype(np.uint8)  # (rows, rank)
    return pack(codes, bits), scale, table, stored


def pack(codes: Array, bits: int) -> Array:
    """Put 8 // bits codes into each byte: byte j of n holds codes j, j + n, j + 2n ..., the first in the low bits."""
    planes = codes.reshape(len(codes), 8 // bits, -1)  # (rows, per byte, bytes)
    packed = np.zeros((len(codes), planes.shape[2]), np.uint8)
    for k in range(8 // bits):
        packed |= planes[:, k] << np.uint8(bits * k)
    return packed


def unpack(packed: Array, bits: int) -> Array:
    """Undo `pack`."""
    mask = np.uint8(2**bits - 1)
    return np.concatenate([packed >> np.uint8(bits * k) & mask for k in range(8 // bits)], axis=1)


def _uniform_codes(values: Array) -> tuple[Array, Array]:
    """Round to 256 values from the least to the largest; return the codes and the table."""
    table = np.linspace(values.min(), values.max(), 256).astype(np.float32)
    step = max(float(table[-1] - table[0]) / 255, 1e-12)
    return np.rint((values - table[0]) / step).astype(np.uint8), table


def preview(parts: Parts, x: Array) -> Array:
    """Return the logits that the preview gives, rows in their order in the file.

    ::

        y = B @ x - shift;  q = round(y / s), s = max|y| / 127                             integers q
        z_i = mean . x + bias_i + sum over levels of s * scale_i * (c_i . q - h * sum(q))  h = (2^bits - 1) / 2

    Parameters
    ----------
    parts : mapping of str to ndarray
        From `fit_preview`.
    x : ndarray, float32, shape (n, C)

    Returns
    -------
    ndarray, float32, shape (n, V)
    """
    tables = parts["tables"]
    y = x @ dequantize_rows(parts["basis"], parts["basis.scale"]).T - parts["shift"]  # (n, R)
    s = np.abs(y).max(axis=1, keepdims=True) / np.float32(QMAX)  # (n, 1)
    q = np.rint(y * np.where(s > 0, 1 / np.where(s > 0, s, 1), 0).astype(np.float32))  # (n, R), whole numbers
    z = np.tile(tables[0][parts["bias"]], (len(x), 1))  # (n, V)
    z += (x @ parts["mean"])[:, None]
    first = 0
    for k, (rows, rank, bits) in enumerate(parts["levels"].tolist()):
        part, half = q[:, first : first + rank], np.float32((2**bits - 1) / 2)
        scale = tables[2 + k][parts[f"{k}.scale"]]  # (rows,)
        for i in range(0, rows, _ROWS):
            end = min(i + _ROWS, rows)
            # Products of small whole numbers: float32 sums them exactly, in any order.
            sums = part @ unpack(parts[f"{k}.codes"][i:end], bits).astype(np.float32).T
            z[:, i:end] += (sums - half * part.sum(axis=1, keepdims=True)) * (scale[i:end] * s)
        first += rank
    return z


def log_sum(z: Array) -> Array:
    """Return log(sum(exp(z))) of each row from counts, with 1,024 exponentials instead of one for every logit.

    Parameters
    ----------
    z : ndarray, float32, shape (n, V)

    Returns
    -------
    ndarray, float32, shape (n, 1)
    """
    top = z.max(axis=1, keepdims=True)
    bucket = np.minimum((top - z) * np.float32(STEPS), np.float32(BUCKETS)).astype(np.int64)  # (n, V)
    bucket += np.arange(len(z))[:, None] * (BUCKETS + 1)
    counts = np.bincount(bucket.reshape(-1), minlength=len(z) * (BUCKETS + 1)).reshape(len(z), -1)[:, :BUCKETS]
    mass = counts @ np.exp(-(np.arange(BUCKETS) + 0.5) / STEPS)
    return (top + np.log(mass)[:, None]).astype(np.float32)


def scores(parts: Parts, z: Array) -> Array:
    """Return log(probability * variance of the error) of every row by its preview, float32, shape (n, V)."""
    return z + parts["tables"][1][parts["spread"]] - log_sum(z)


def choose(parts: Parts, z: Array) -> Array:
    """Return which rows to read: scores from the threshold on, in steps of 1 / STEPS higher where these are too many.

    Parameters
    ----------
    parts : mapping of str to ndarray
    z : ndarray, float32, shape (n, V)
        From `preview`.

    Returns
    -------
    ndarray, bool, shape (n, V)
    """
    above = scores(parts, z) - parts["threshold"][0]  # (n, V)
    chosen, most = above >= 0, int(parts["most"][0])
    for t in np.flatnonzero(chosen.sum(axis=1) > most):
        bucket = np.minimum(above[t, chosen[t]] * np.float32(STEPS), np.float32(BUCKETS - 1)).astype(np.int64)
        at_least = np.bincount(bucket, minlength=BUCKETS)[::-1].cumsum()[::-1]  # rows in this bucket or a higher one
        lowest = int(np.argmax(at_least <= most)) if (at_least <= most).any() else BUCKETS
        chosen[t, np.flatnonzero(chosen[t])[bucket < lowest]] = False
    return chosen


def choose_threshold(parts: Parts, states: Array, rows: int) -> float:
    """Return the threshold that reads this many rows on average over at most 2,048 of the states."""
    V, most = len(parts["ids"]), int(parts["most"][0])
    if rows >= V:
        return float(np.finfo(np.float32).min)
    if rows <= 0:
        return float(np.finfo(np.float32).max)
    sample = states[:: max(1, len(states) // 2048)]
    edges = np.linspace(-40, 10, 3201)
    counts = np.stack(
        [np.histogram(np.clip(s, -40, 10), edges)[0] for x in _blocks(sample) for s in scores(parts, preview(parts, x))]
    )
    above = np.minimum(counts[:, ::-1].cumsum(axis=1), most).mean(axis=0)  # rows from each edge on, highest first
    return float(edges[::-1][1:][min(int(np.searchsorted(above, rows)), len(above) - 1)])


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
        By row of the file: ``rows[t].sum()`` were read, of the tokens ``parts["ids"][rows[t]]``.
    """
    z = preview(parts, x)
    chosen = choose(parts, z)
    for t, rows in enumerate(chosen):
        z[t, rows] = (parts["rows"][rows] @ x[t]) * parts["rows.scale"][rows]
    logits = np.empty_like(z)
    logits[:, parts["ids"]] = z
    return logits, chosen


def count_bytes(parts: Parts, rows: float) -> dict[str, Any]:
    """Return the bytes that one token reads, by part, when this many exact rows are read."""
    C = parts["rows"].shape[1]
    fixed = {name: a.nbytes for name, a in parts.items() if not name.startswith("rows")}
    fixed["rows"] = round(rows * (C + 4))
    return {"bytes": fixed, "bytes_per_token": sum(fixed.values())}


def softmax(z: Array) -> Array:
    """Return the probabilities, overwriting z: exp(z - max), each row divided by its sum."""
    z -= z.max(axis=1, keepdims=True)
    np.exp(z, out=z)
    z /= z.sum(axis=1, keepdims=True)
    return z


def _blocks(states: Array) -> Iterator[Array]:
    return (states[i : i + _BLOCK] for i in range(0, len(states), _BLOCK))


def matrix(name: str, a: Array) -> Array:
    """Return a matrix of finite float32; ArgumentError where it is something else."""
    if not isinstance(a, np.ndarray) or a.ndim != 2 or a.dtype != np.float32 or not a.size or not np.isfinite(a).all():
        found = f"{a.dtype} {a.shape}" if isinstance(a, np.ndarray) else type(a).__name__
        raise ArgumentError("head", name, found, "a matrix of finite float32", "convert it first")
    return a


def _check_levels(levels: Sequence[tuple[int, int, int]], V: int, C: int) -> list[Level]:
    plan = [Level(*level) for level in levels]
    good = bool(plan) and plan[0].rows == V and sum(level.rank for level in plan) <= C
    good = good and all(a.rows >= b.rows for a, b in itertools.pairwise(plan))
    for level in plan:
        good = good and level.rows > 0 and level.bits in (1, 2, 4, 8) and level.rank > 0
        good = good and level.rank % (8 // level.bits) == 0
    if not good:
        expected = f"the first for {V} rows, then not more; ranks up to {C} in all, whole bytes of 1, 2, 4 or 8 bits"
        raise ArgumentError("fit_preview", "levels", levels, expected, "choose other levels")
    return plan
