"""The head by a preview: cheap logits for every token, then exact rows for the few that matter.

Most tokens are improbable after any given text, and their logits need not be exact. So the head's
rows are sorted by how probable their tokens are, and for every row a few bits hold an approximation
of it. It is fitted to the vectors that the model really makes: x, the output of the last layer
norm. The most probable rows get more bits. One pass over these gives the preview.

Then the exact rows of the candidates are read: those where the error of the preview would
show, because the probability times the variance of the error is largest. All other tokens keep
their previewed logit.

The preview of the logit of token t is::

    z_t = m . x + a_t . y + b_t,  y = B x - B c

with m the mean row, c the mean of x, B a basis of R directions, a_t the codes of few bits with a
scale, and b_t a bias. Letters here: V tokens, C channels, R directions, n vectors x.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tinyrwkv.errors import ArgumentError
from tinyrwkv.file import quant
from tinyrwkv.file.quant import dequantize_rows, quantize_rows
from tinyrwkv.file.table import FILE_PAGE
from tinyrwkv.versions import reference
from tinyrwkv.versions.forms import CODE_BITS

from .preview_codes import Level, basis_of, fit_rows, uniform_codes

Array = np.ndarray
HeadParts = Mapping[str, Array]
"""What a model file has as ``head.<part>`` in the place of ``head.weight``."""

_BLOCK = 512
"""Vectors at a time: their float32 logits over 65,536 tokens take 128 MB."""

_FEW = 64
"""The same if several such arrays are needed."""

DAMPING = 0.2
"""Added to the covariance of the inputs, by its mean variance: other text has other directions."""

LIKELY = 0.9998
"""Share of the probability that the rows of the second level hold.

A token without this level is rarely missed, but a single miss can cost 12 nats. So the level goes
on where tokens are rare, and ends where the model hardly knows them.
"""


def fit_preview(
    weight: Array,
    states: Array,
    *,
    levels: Sequence[tuple[int, int, int]] | None = None,
    rows: int = 1024,
    seed: int = 0,
    packed: Array | None = None,
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Make the preview of a head.

    Parameters
    ----------
    weight : ndarray, float32, shape (V, C)
    states : ndarray, float32, shape (n, C)
        Inputs of the head after calibration text; 8,192 are enough.
    levels : sequence of (rows, rank, bits), optional
        One or two: codes of 4 bits for all V rows, of 2 for some; `default_levels` if left out.
    rows : int
        Candidates: exact rows to read for each token.
    seed : int
        Of the rotations that spread each row's weights over its coordinates.
    packed : ndarray, uint8, shape (V, row_bytes(C)), optional
        The rows in int4, which `weight` has in float32. They are the exact rows then; by default,
        these are in int8.

    Returns
    -------
    parts : dict of str to ndarray
        What a model file has as ``head.<part>`` in the place of ``head.weight``, see
        docs/format.md.
    report : dict
        ``bytes`` read for a token by part, ``bytes_per_token``, and the preview's mean variance of
        ``error``.

    Raises
    ------
    ArgumentError
        A setting or a shape is out of range.
    """
    weight, states = matrix("weight", weight), matrix("states", states)
    V, C = weight.shape
    if states.shape[1] != C:
        fix = "give inputs of this head"
        raise ArgumentError("fit_preview", "states", states.shape, f"(n, {C})", fix)
    p = mean_probabilities(weight, states)
    order = np.argsort(-p, kind="stable")
    plan = _check_levels(default_levels(p, C) if levels is None else levels, V, C)

    p = p[order]
    W = weight[order]
    importance = (p + 1 / (16 * V)) ** 0.25
    importance /= importance.sum()
    mean = (importance @ W).astype(np.float32)  # m, (C,)
    W -= mean
    centre = states.mean(axis=0, dtype=np.float64)  # c, (C,)
    G = _damped_covariance(states)  # (C, C)
    basis, basis_scale = quantize_rows(basis_of(W, importance, G, plan, seed))
    B = dequantize_rows(basis, basis_scale).astype(np.float64)  # (R, C)

    codes, tables, error = fit_rows(W, G, B, plan)
    # Half the variance of its error on every logit keeps the mean of exp(z).
    bias, bias_range = uniform_codes((W @ centre).astype(np.float32) + error / 2)
    spread, spread_range = uniform_codes(np.log(np.maximum(error, np.float32(1e-12))))
    parts = {
        **codes,
        "places": places_of(order),
        "mean": mean,
        "basis.weight": basis,
        "basis.weight.scale": basis_scale,
        "basis.bias": -(B @ centre).astype(np.float32),
        "bias_codes": bias,
        "spread_codes": spread,
        "ranges": np.stack([bias_range, spread_range]),
        "tables": np.stack(tables),
        "wanted": np.array([rows], np.int32),
        **_exact_rows(weight if packed is None else packed, order),
    }
    return parts, {"rows": rows, "error": float(p @ error), **count_bytes(parts)}


def _damped_covariance(states: Array) -> Array:
    """Return how the inputs spread, float64, shape (C, C).

    ::

        G = Cov(x) + damping tr(Cov(x)) / C
    """
    G = np.cov(states, rowvar=False, dtype=np.float64, ddof=0)
    C = len(G)
    G.flat[:: C + 1] += DAMPING * G.trace() / C
    return G


def _exact_rows(rows: Array, order: Array) -> HeadParts:
    """Return the exact rows in another order: int4 as it is, floats in int8."""
    ordered = np.ascontiguousarray(rows[order])
    if rows.dtype == np.uint8:
        return {"rows.weight": ordered}
    exact, scale = quantize_rows(ordered)
    return {"rows.weight.scale": scale, "rows.weight": exact}


def seen_bytes(parts: HeadParts, states: Array) -> int:
    """Return the bytes of the pages with the candidates of some inputs.

    Parameters
    ----------
    parts : mapping of str to ndarray
        From `fit_preview`.
    states : ndarray, float32, shape (n, C)

    Returns
    -------
    int
        Pages that several of the inputs need count once.
    """
    basis = dequantize_rows(parts["basis.weight"], parts["basis.weight.scale"])
    head = {**parts, "basis.weight": basis}
    candidates = int(parts["wanted"][0])
    V, row_bytes = parts["rows.weight"].shape
    seen = np.zeros(V, bool)
    for i in range(0, len(states), 16):
        z = reference.preview(head, states[i : i + 16])  # (16, V)
        log_variance = reference.even(head["ranges"][1], head["spread_codes"])
        scores = reference.steps(z + log_variance)
        seen |= (scores >= reference.lowest_score(scores, candidates)).any(axis=0)
    rows = np.flatnonzero(seen)
    first_pages, last_pages = (
        rows * row_bytes // FILE_PAGE,
        ((rows + 1) * row_bytes - 1) // FILE_PAGE,
    )
    return len(np.union1d(first_pages, last_pages)) * FILE_PAGE


def default_levels(p: Array, C: int, likely: float = LIKELY) -> list[Level]:
    """Return the levels for probabilities of tokens and a width.

    Parameters
    ----------
    p : ndarray, shape (V,)
    C : int
    likely : float, optional

    Returns
    -------
    list of Level
        16 coordinates of 4 bits for all rows; 112 of 2 bits for the rows that hold `likely` of
        the probability.
    """
    V = len(p)
    first = Level(V, min(16, C // 8 * 8), 4)
    rank = min(112, (C - 16) // 16 * 16)
    if rank <= 0:
        return [first]
    missing = 1 - np.cumsum(-np.sort(-p)) / p.sum()
    rows = int(np.searchsorted(-missing, likely - 1)) + 1
    rounded = -(-rows // 1024) * 1024
    return [first, Level(min(V, rounded), rank, 2)]


def places_of(order: Array) -> Array:
    """Return the row of each token, as files have it, from the token of each row."""
    return np.argsort(order).astype(np.uint16 if len(order) <= 1 << 16 else np.int32)


def mean_probabilities(weight: Array, states: Array) -> Array:
    """Return the mean probability of every token over the states, float64, shape (V,)."""
    total = np.zeros(len(weight))
    for _, p in softmax_blocks(weight, states):
        total += p.sum(axis=0, dtype=np.float64)
    return total / len(states)


def softmax_blocks(weight: Array, states: Array) -> Iterator[tuple[int, Array]]:
    """Yield the probabilities after blocks of states, each with the number of its first state.

    Parameters
    ----------
    weight : ndarray, float32, shape (V, C)
    states : ndarray, float32, shape (n, C)

    Yields
    ------
    first : int
    p : ndarray, float32, shape (512, V)
        The last block may be shorter.
    """
    for i in range(0, len(states), _BLOCK):
        yield i, softmax(states[i : i + _BLOCK] @ weight.T)


def preview_logits(parts: HeadParts, x: Array) -> tuple[Array, Array]:
    """Return the logits of the head, and which rows of the file were read for them.

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
        By row of the file: True for the ``rows[t].sum()`` rows that were read after vector t.
    """
    head = weights(parts)
    blocks = [reference.preview_logits(head, x[i : i + _FEW]) for i in range(0, len(x), _FEW)]
    logits, rows = zip(*blocks, strict=True)
    return np.concatenate(logits), np.concatenate(rows)


def weights(parts: HeadParts) -> dict[str, Array]:
    """Return parts as the functions of `reference` take them, matrices in float32."""
    named = {f"head.{name}": array for name, array in parts.items()}
    return reference.part(quant.dequantize(named), "head.")


def count_bytes(parts: HeadParts) -> dict[str, Any]:
    """Return the bytes that one token reads, by part.

    Parameters
    ----------
    parts : mapping of str to ndarray
        From `fit_preview`.

    Returns
    -------
    dict
        ``bytes`` by part, and their sum, ``bytes_per_token``.
    """
    exact = [array for name, array in parts.items() if name.startswith("rows.")]
    V = len(parts["rows.weight"])
    candidates = min(int(parts["wanted"][0]), V)
    read = {name: array.nbytes for name, array in parts.items() if not name.startswith("rows.")}
    read["rows"] = candidates * sum(array.nbytes for array in exact) // V
    return {"bytes": read, "bytes_per_token": sum(read.values())}


def softmax(z: Array) -> Array:
    """Return the probabilities, overwriting z: exp(z - max), each row divided by its sum."""
    z -= z.max(axis=1, keepdims=True)
    np.exp(z, out=z)
    z /= z.sum(axis=1, keepdims=True)
    return z


def matrix(name: str, a: Array) -> Array:
    """Return a matrix of finite float32; ArgumentError if it is something else."""
    is_matrix = isinstance(a, np.ndarray) and a.ndim == 2 and a.dtype == np.float32 and a.size > 0
    if not is_matrix or not np.isfinite(a).all():
        found = f"{a.dtype} {a.shape}" if isinstance(a, np.ndarray) else type(a).__name__
        raise ArgumentError("head", name, found, "a matrix of finite float32", "convert it first")
    return a


def _check_levels(levels: Sequence[tuple[int, int, int]], V: int, C: int) -> list[Level]:
    plan = [Level(*level) for level in levels]
    bits = [level.bits for level in plan]
    good = (
        bits in ([CODE_BITS[0]], [*CODE_BITS])
        and plan[0].rows == V
        and sum(level.rank for level in plan) <= C
        and all(_fits(level, V) for level in plan)
    )
    if not good:
        expected = (
            f"codes of 4 bits for {V} rows, perhaps 2 bits for some; "
            f"ranks up to {C} in all, that fill 32 bits"
        )
        raise ArgumentError("fit_preview", "levels", levels, expected, "choose other levels")
    return plan


def _fits(level: Level, V: int) -> bool:
    return level.rank > 0 and level.rank * level.bits % 32 == 0 and 0 < level.rows <= V
