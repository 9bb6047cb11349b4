"""Matrices in int4: the columns of a row in groups of 64, with a scale and a zero point each.

::

    W[i, j] = s[i, g] (q[i, j] - z[i, g]),  q and z from 0 to 15,  g the group of column j

The columns of a row are cut into spans of 256, which have four groups; of what is left, 128 columns
are a span of two, and 64 a span of one. In a span of m groups, group k has columns 8 k to 8 k + 7,
and again every 8 m columns: vectors of all processors hold whole groups in parts of equal size.

A row is a run of bytes, span by span. In a span, first come 32 bytes for every 64 columns that
follow each other: byte j holds q of the j-th in its low half and q of the one 32 columns later in
its high half. Then come the scales s of its groups, float16, and then their zero points z, two in a
byte, the even one in the low half. A span of four groups takes 138 bytes, 64 weights 34.5.
"""

from __future__ import annotations

import functools

import numpy as np

GROUP = 64
"""Columns that share a scale and a zero point."""

SPAN = 4 * GROUP
"""Columns of a span of four groups."""

LARGEST = 15
"""The largest value of a weight and of a zero point; the smallest is 0."""

_HALF = GROUP // 2
_RUN = 8  # columns of a group that follow each other


def row_bytes(columns: int) -> int:
    """Return the bytes of a row of `columns` weights.

    Examples
    --------
    >>> row_bytes(64), row_bytes(384)
    (35, 207)
    """
    groups = columns // GROUP
    return _HALF * groups + 2 * groups + (groups + 1) // 2


def columns(bytes_of_row: int) -> int:
    """Return how many weights a row of so many bytes has.

    Examples
    --------
    >>> columns(35), columns(207)
    (64, 384)
    """
    return 2 * bytes_of_row // 69 * GROUP


def is_packed(rows: np.ndarray) -> bool:
    """Tell whether an array can be rows of int4: uint8 of a width that such rows have."""
    if rows.dtype != np.uint8 or rows.ndim != 2:
        return False
    return columns(rows.shape[1]) > 0 and row_bytes(columns(rows.shape[1])) == rows.shape[1]


def spans(groups: int) -> list[tuple[int, int]]:
    """Return the first group of each span of a row, and how many it has.

    Examples
    --------
    >>> spans(11)
    [(0, 4), (4, 4), (8, 2), (10, 1)]
    """
    found = []
    first = 0
    for count in (4, 2, 1):
        while groups - first >= count:
            found.append((first, count))
            first += count
    return found


@functools.lru_cache(maxsize=64)
def order(columns: int) -> np.ndarray:
    """Return the columns of a row, group by group: int64, shape (columns,).

    Examples
    --------
    >>> order(128)[:16].tolist()
    [0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23]
    """
    parts = []
    for first, groups in spans(columns // GROUP):
        index = np.arange(first * GROUP, (first + groups) * GROUP)
        turns = index.reshape(GROUP // _RUN, groups, _RUN)
        parts.append(turns.swapaxes(0, 1).reshape(-1))
    return np.concatenate(parts)


def pack(q: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """Write rows as the file has them.

    Parameters
    ----------
    q : ndarray, uint8, shape (out, in)
        From 0 to 15; `in` is a multiple of 64.
    scale : ndarray, float16, shape (out, in / 64)
        Of each group, in the order of `order`.
    zero : ndarray, uint8, shape (out, in / 64)
        From 0 to 15.

    Returns
    -------
    ndarray, uint8, shape (out, row_bytes(in))
    """
    parts = []
    for first, groups in spans(scale.shape[1]):
        here = slice(first, first + groups)
        columns_here = slice(first * GROUP, (first + groups) * GROUP)
        halves = q[:, columns_here].reshape(len(q), groups, 2, _HALF)
        weights = halves[:, :, 0] | halves[:, :, 1] << 4  # (out, groups, 32)
        scales = np.ascontiguousarray(scale[:, here], "<f2").view(np.uint8)
        z = zero[:, here]
        zeros = z[:, ::2].copy()  # (out, groups / 2)
        zeros[:, : groups // 2] |= z[:, 1::2] << 4
        parts += [weights.reshape(len(q), _HALF * groups), scales, zeros]
    return np.concatenate(parts, axis=1)


def unpack(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what `pack` was given: q, scale and zero.

    Parameters
    ----------
    rows : ndarray, uint8, shape (out, row_bytes(in))
    """
    groups = columns(rows.shape[1]) // GROUP
    q = np.empty((len(rows), groups, 2, _HALF), np.uint8)
    scale = np.empty((len(rows), groups), np.float16)
    zero = np.empty((len(rows), groups), np.uint8)
    for first, count in spans(groups):
        here = slice(first, first + count)
        start = row_bytes(first * GROUP)
        weights, scales = start + _HALF * count, start + (_HALF + 2) * count
        both = rows[:, start:weights].reshape(len(rows), count, _HALF)
        q[:, here, 0], q[:, here, 1] = both & 15, both >> 4
        scale[:, here] = np.ascontiguousarray(rows[:, weights:scales]).view("<f2")
        pairs = rows[:, scales : start + row_bytes(count * GROUP)]
        zero[:, first : first + count : 2] = pairs & 15
        zero[:, first + 1 : first + count : 2] = pairs[:, : count // 2] >> 4
    return q.reshape(len(rows), groups * GROUP), scale, zero


def dequantize(rows: np.ndarray) -> np.ndarray:
    """Return the weights of rows: float32, shape (out, in).

    Parameters
    ----------
    rows : ndarray, uint8, shape (out, row_bytes(in))
    """
    q, scale, zero = unpack(rows)
    by_group = order(q.shape[1])
    groups = q[:, by_group].reshape(*scale.shape, GROUP)  # (out, in / 64, 64)
    differences = groups - zero[..., None].astype(np.float32)
    w = np.empty(q.shape, np.float32)
    w[:, by_group] = (differences * scale[..., None].astype(np.float32)).reshape(q.shape)
    return w


def products(rows: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return W x for a few rows, with the bits that the kernels compute: float32, shape (out,).

    ::

        y = (y_0 + y_2) + (y_1 + y_3),  y_g = sum over spans of s_g sum_j (q_j - z_g) x_j

    Parameters
    ----------
    rows : ndarray, uint8, shape (out, row_bytes(in))
    x : ndarray, int32, shape (in,)
        Within int16, so that the sums of a group are within int32.
    """
    q, scale, zero = unpack(rows)
    by_group = order(q.shape[1])
    differences = q[:, by_group].reshape(*scale.shape, GROUP) - zero[..., None].astype(np.int32)
    sums = (differences * x[by_group].reshape(-1, GROUP)).sum(axis=2)  # (out, in / 64)
    terms = sums.astype(np.float32) * scale.astype(np.float32)
    y = np.zeros((len(rows), 4), np.float32)
    for first, groups in spans(scale.shape[1]):
        y[:, :groups] += terms[:, first : first + groups]
    tree: np.ndarray = (y[:, 0] + y[:, 2]) + (y[:, 1] + y[:, 3])
    return tree
