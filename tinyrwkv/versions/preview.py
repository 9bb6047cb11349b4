"""A head with a preview, in NumPy: a few bits of every row, exact rows for likely tokens.

This is not from a paper; docs/format.md describes the tensors. As in `reference`, functions take
the tensors of the head by name. Sizes: n inputs of C channels, V tokens, R coordinates of the
basis.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .forms import CODE_BITS, code_qmax

Array = np.ndarray
Tensors = Mapping[str, Array]


def preview_logits(head: Tensors, x: Array) -> tuple[Array, Array]:
    """Compute logits, exactly for the rows that matter most.

    ::

        score_i  = z_i + spread_i            z: see `preview`; spread: log of its squared error
        z_i      = w_i . x                   for the rows with the highest scores
        logits   = z[places]

    Parameters
    ----------
    head : mapping of str to ndarray
        The tensors of the head; those of matrices are float32.
    x : ndarray, float32, shape (n, C)
        Inputs of the head.

    Returns
    -------
    logits : ndarray, float32, shape (n, V)
        By token.
    is_exact : ndarray, bool, shape (n, V)
        Which rows were computed exactly. Rows are in the order of the head, not of the tokens.
    """
    z = preview(head, x)  # (n, V)
    spread = even(head["ranges"][1], head["spread_codes"])  # (V,)
    scores = steps(z + spread)  # (n, V)
    wanted = int(head["wanted"][0])
    is_exact = scores >= lowest_score(scores, wanted)
    for t, rows in enumerate(is_exact):
        z[t, rows] = head["rows.weight"][rows] @ x[t]
    return z[:, head["places"]], is_exact


def lowest_score(scores: Array, wanted: int) -> Array:
    """Return the lowest score of the rows to compute exactly, at most `wanted` of them.

    If rows have the same score, all of them are computed or none.

    Parameters
    ----------
    scores : ndarray, int16, shape (n, V)
    wanted : int

    Returns
    -------
    ndarray, int16, shape (n, 1)
    """
    V = scores.shape[1]
    if wanted >= V:
        return scores.min(axis=1, keepdims=True)
    best_left_out = V - 1 - max(wanted, 0)  # a place in ascending order
    return np.sort(scores)[:, [best_left_out]] + 1


def preview(head: Tensors, x: Array) -> Array:
    """Guess the logit of every row from a few bits of it.

    ::

        y   = B x + b                                   coordinates; each level has its own ones
        u   = round(y / s),  s = max |y| / qmax         s and qmax for each level
        z_i = mean . x + bias_i + sum over levels of s scale_i (c_i . u - (2^bits - 1) / 2 sum(u))

    c_i are the codes of row i, from 0 to 2^bits - 1. Only likely rows, which come first, have codes
    of the second level.

    Parameters
    ----------
    head : mapping of str to ndarray
    x : ndarray, float32, shape (n, C)

    Returns
    -------
    ndarray, float32, shape (n, V)
    """
    bias = even(head["ranges"][0], head["bias_codes"])  # (V,)
    z = bias + (x @ head["mean"])[:, None]  # (n, V)
    B = head["basis.weight"]  # (R, C)
    y = x @ B.T + head["basis.bias"]  # (n, R)
    levels = [bits for bits in CODE_BITS if f"codes.{bits}" in head]
    first = 0
    for table, bits in zip(head["tables"], levels, strict=False):
        scale = table[head[f"scale_codes.{bits}"]]  # (rows,)
        c = unpack(head[f"codes.{bits}"], bits)[: len(scale)]  # (rows, rank)
        rank = c.shape[1]
        of_level = y[:, first : first + rank]
        u, s = round_coordinates(of_level, code_qmax(bits))  # (n, rank), (n, 1)
        middle = np.float32((2**bits - 1) / 2)
        sums = u @ c.astype(np.float32).T  # (n, rows), whole numbers
        sums -= middle * u.sum(axis=1, keepdims=True)
        z[:, : len(scale)] += sums * (s * scale)
        first += rank
    return z


def round_coordinates(y: Array, qmax: int) -> tuple[Array, Array]:
    """Return ``u = round(y / s)`` and ``s = max |y| / qmax``, (n, rank) and (n, 1).

    The kernels have 256 y / s as int16, so it is rounded first.
    """
    s = np.abs(y).max(axis=1, keepdims=True) / np.float32(qmax)
    scaled = np.rint(256 * (y / np.where(s > 0, s, np.inf)))
    return np.floor((scaled + 128) / 256), s


def unpack(codes: Array, bits: int) -> Array:
    """Return codes of `bits` bits, one in each uint8: (blocks, bytes, 64) to (rows, rank)."""
    by_row = codes.transpose(0, 2, 1)[..., None]  # (blocks, 64, bytes, 1)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    unpacked = (by_row >> shifts) & np.uint8(2**bits - 1)  # (blocks, 64, bytes, codes of a byte)
    return unpacked.reshape(-1, codes.shape[1] * 8 // bits)


def even(low_and_step: Array, codes: Array) -> Array:
    """Return the numbers that codes stand for, at even distances: ``low + step * code``."""
    low, step = low_and_step
    return low + step * codes.astype(np.float32)


def steps(x: Array) -> Array:
    """Round to multiples of 1/16; return how many, as int16."""
    return np.rint(16 * np.clip(x, -2047, 2047)).astype(np.int16)
