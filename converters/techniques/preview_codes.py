"""The rows of a previewed head in a few bits: directions to see them in, coefficients, codes.

Letters are those of `converters.techniques.preview_head`: V tokens, C channels, R directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tinyrwkv.versions.forms import CODE_BITS

from .pack_codes import pack_codes

Array = np.ndarray

_ROWS = 8192
"""Rows of the head at a time."""

_CLIPS = tuple(fortieths / 40 for fortieths in range(44, 13, -1))
"""The range of a row's codes, in parts of its largest coefficient: from 1.1 to 0.35 are tried."""


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


def basis_of(W: Array, importance: Array, G: Array, plan: Sequence[Level], seed: int) -> Array:
    """Return the directions of x, (R, C), that explain most of the logits.

    With G = S S, S symmetric, the logits of the states are those of white vectors under W S. The
    leading right singular vectors of W S, with rows weighted by importance, are the best basis of
    every rank at once::

        M = sum_t importance_t (S w_t) (S w_t)^T = U diag(values) U^T,  B = R^T U^T S^-1

    R is a random rotation within each level, so that the coefficients of a row are alike in size
    and one scale serves them all. The coefficients of one row are all equal: of the mean of those
    rows that have no second level. Training has hardly seen their tokens, so they are nearly the
    same, and an error in one of them is an error in all. It is smallest where no coefficient is
    larger than the others.
    """
    values, vectors = np.linalg.eigh(G)
    root = np.sqrt(np.maximum(values, max(values[-1], 1e-30) * 1e-7))
    S = vectors * root @ vectors.T  # (C, C)
    inverse = vectors / root @ vectors.T  # (C, C)
    M = np.zeros_like(G)
    for i in range(0, len(W), _ROWS):
        g = W[i : i + _ROWS] @ S  # (rows, C)
        M += (g * importance[i : i + _ROWS, None]).T @ g
    leading = np.linalg.eigh(M)[1][:, ::-1]  # U, the largest first, (C, C)

    random = np.random.default_rng(seed)
    least_likely = W[plan[-1].rows :] if plan[-1].rows < len(W) else W
    mean = least_likely.mean(axis=0, dtype=np.float64) @ S  # (C,)
    first, basis = 0, []
    for level in plan:
        directions = leading[:, first : first + level.rank]
        basis.append(_rotation(mean @ directions, random).T @ directions.T @ inverse)
        first += level.rank
    return np.concatenate(basis).astype(np.float32)


def _rotation(mean: Array, random: np.random.Generator) -> Array:
    """Return a random orthogonal R with all coordinates of R^T mean equal, (rank, rank).

    Q is random, and a mirror follows::

        R = Q (1 - 2 d d^T / |d|^2),  d = Q^T mean / |mean| - e,  e = (1, ..., 1) / sqrt(rank)
    """
    rank = len(mean)
    rotation = np.linalg.qr(random.standard_normal((rank, rank)))[0]  # Q
    length = np.linalg.norm(mean)
    if not length:
        return rotation
    d = rotation.T @ (mean / length) - 1 / np.sqrt(rank)
    return rotation @ (np.eye(rank) - 2 * np.outer(d, d) / (d @ d))


def fit_rows(
    W: Array, G: Array, B: Array, plan: Sequence[Level]
) -> tuple[dict[str, Array], list[Array], Array]:
    """Return codes and scales by level, the tables of scales, and each row's variance of error.

    ::

        error_t = (w_t - a_t B) G (w_t - a_t B)^T

    The tables have shape (256,), the variances (V,).
    """
    A = _coefficients(W, G, B, plan)  # (V, R)
    parts: dict[str, Array] = {}
    tables = [np.zeros(256, np.float32)] * len(CODE_BITS)
    first = 0
    for k, level in enumerate(plan):
        columns = slice(first, first + level.rank)
        rounded = _quantize(A[: level.rows, columns], level.bits)
        parts[f"codes.{level.bits}"] = pack_codes(rounded.codes, level.bits)
        parts[f"scale_codes.{level.bits}"] = rounded.scale_codes
        tables[k] = rounded.table
        A[: level.rows, columns] = rounded.values
        first += level.rank

    error = np.empty(len(W), np.float32)
    for i in range(0, len(W), _ROWS):
        d = W[i : i + _ROWS] - A[i : i + _ROWS] @ B  # (rows, C)
        error[i : i + _ROWS] = np.einsum("ij,ij->i", d @ G, d)
    return parts, tables, np.maximum(error, 0)


def _coefficients(W: Array, G: Array, B: Array, plan: Sequence[Level]) -> Array:
    """Return the best coefficients of each row in the directions that its levels have, (V, R).

    In the first r directions B_r they are::

        a = w G B_r^T (B_r G B_r^T)^-1
    """
    A = np.zeros((len(W), len(B)), np.float32)
    BG = B @ G  # (R, C)
    ranks = np.cumsum([level.rank for level in plan])
    next_rows = [level.rows for level in plan[1:]] + [0]  # rows that have more than this level
    for level, r, begin in zip(plan, ranks, next_rows, strict=True):
        solve = np.linalg.solve(BG[:r] @ B[:r].T, BG[:r]).T  # (C, r)
        for i in range(begin, level.rows, _ROWS):
            rows = slice(i, min(i + _ROWS, level.rows))
            A[rows, :r] = W[rows] @ solve
    return A


class _Rounded(NamedTuple):
    """Rows of coefficients in few bits.

    Attributes
    ----------
    codes : ndarray, uint8, shape (rows, rank)
    scale_codes : ndarray, uint8, shape (rows,)
        The place of each row's scale in the table.
    table : ndarray, float32, shape (256,)
    values : ndarray, float32, shape (rows, rank)
        The coefficients that the codes stand for.
    """

    codes: Array
    scale_codes: Array
    table: Array
    values: Array


def _quantize(A: Array, bits: int) -> _Rounded:
    """Round the coefficients of each row to 2^bits levels, with the scale that suits it best.

    ::

        value = (code - half) scale,  half = (2^bits - 1) / 2,  scale one of 256 in a table
    """
    half = np.float32((2**bits - 1) / 2)
    top = np.maximum(np.abs(A).max(axis=1), np.float32(1e-12))  # (rows,)
    low = np.log(top.min() * _CLIPS[-1] / half)
    high = max(np.log(top.max() * _CLIPS[0] / half), low + 1e-3)
    table = np.exp(np.linspace(low, high, 256)).astype(np.float32)

    best = np.full(len(A), np.inf, np.float32)
    scale_codes = np.zeros(len(A), np.uint8)
    values = np.empty_like(A)
    for clip in _CLIPS:
        place = (np.log(top * clip / half) - low) / (high - low) * 255
        tried_codes = np.clip(np.rint(place), 0, 255).astype(np.uint8)
        scale = table[tried_codes][:, None]
        tried = (np.clip(np.floor(A / scale + half + 0.5), 0, 2**bits - 1) - half) * scale
        error = np.square(tried - A).sum(axis=1)
        better = error < best
        best[better] = error[better]
        scale_codes[better] = tried_codes[better]
        values[better] = tried[better]

    codes = np.rint(values / table[scale_codes][:, None] + half).astype(np.uint8)
    return _Rounded(codes, scale_codes, table, values)


def uniform_codes(values: Array) -> tuple[Array, Array]:
    """Round to 256 numbers from the least to the largest; return codes, least and step."""
    least = values.min()
    step = max(float(values.max() - least) / 255, 1e-12)
    codes = np.rint((values - least) / step).astype(np.uint8)
    return codes, np.array([least, step], np.float32)
