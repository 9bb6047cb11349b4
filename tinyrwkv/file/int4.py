"""Matrices in int4: each row in groups of 64 columns, with a scale and a zero point for each group.

::

    W[i, j] = s[i, g] (q[i, j] - z[i, g]),  g = j // 64,  q and z from 0 to 15

A row is a run of bytes. First come 32 bytes for each group: byte j holds q of column j in its low
half and q of column j + 32 in its high half. Then come the scales s of all groups, float16, and then
the zero points z, two in a byte, the even one in the low half. 64 weights take 34.5 bytes.
"""

from __future__ import annotations

import numpy as np

GROUP = 64
"""Columns that share a scale and a zero point."""

LEVELS = 16
"""Values of a weight in int4."""

_HALF = GROUP // 2


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


def pack(q: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """Write rows as the file has them.

    Parameters
    ----------
    q : ndarray, uint8, shape (out, in)
        From 0 to 15; `in` is a multiple of 64.
    scale : ndarray, float16, shape (out, in / 64)
    zero : ndarray, uint8, shape (out, in / 64)
        From 0 to 15.

    Returns
    -------
    ndarray, uint8, shape (out, row_bytes(in))
    """
    count, groups = scale.shape
    halves = q.reshape(count, groups, 2, _HALF)
    weights = halves[:, :, 0] | halves[:, :, 1] << 4  # (out, groups, 32)
    pairs = np.zeros((count, groups + groups % 2), np.uint8)
    pairs[:, :groups] = zero
    zeros = pairs[:, ::2] | pairs[:, 1::2] << 4
    scales = np.ascontiguousarray(scale, "<f2").view(np.uint8)
    return np.concatenate([weights.reshape(count, -1), scales, zeros], axis=1)


def unpack(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read rows as `pack` writes them.

    Parameters
    ----------
    rows : ndarray, uint8, shape (out, row_bytes(in))

    Returns
    -------
    q : ndarray, uint8, shape (out, in)
    scale : ndarray, float16, shape (out, in / 64)
    zero : ndarray, uint8, shape (out, in / 64)
    """
    count, width = rows.shape
    groups = columns(width) // GROUP
    scales, zeros = _HALF * groups, (_HALF + 2) * groups
    weights = rows[:, :scales].reshape(count, groups, 1, _HALF)
    q = np.concatenate([weights & 15, weights >> 4], axis=2)  # (out, groups, 2, 32)
    scale = np.ascontiguousarray(rows[:, scales:zeros]).view("<f2")
    pairs = rows[:, zeros:, None]
    zero = np.concatenate([pairs & 15, pairs >> 4], axis=2).reshape(count, -1)[:, :groups]
    return q.reshape(count, -1), scale, zero


def dequantize(rows: np.ndarray) -> np.ndarray:
    """Return the weights of rows: float32, shape (out, in).

    Parameters
    ----------
    rows : ndarray, uint8, shape (out, row_bytes(in))
    """
    q, scale, zero = unpack(rows)
    differences = q.reshape(*scale.shape, GROUP) - zero[..., None].astype(np.float32)
    return (differences * scale[..., None].astype(np.float32)).reshape(q.shape)
