"""Find the scale and zero point of groups whose weights are values of int4 already.

Weights that were trained in int4 are ``s (q - z)`` exactly. The largest of a group is one of 15
multiples of the scale, so that scale is found among 15 candidates, and no search by error is
needed.
"""

from __future__ import annotations

import numpy as np

from tinyrwkv.file.int4 import GROUP, LARGEST, order, pack

Array = np.ndarray

SMALLEST_SCALE = 2.0**-14
"""The smallest scale but 0: what ARMv7's vectors would take for 0 is never written."""

_SEEN_FIRST = 16
"""Rows that tell whether a look at the others is worth the time."""


def exact_rows(matrix: Array) -> Array | None:
    """Return a matrix as int4 packs it, if all its weights are values of int4; else None.

    Parameters
    ----------
    matrix : ndarray, float32, shape (out, in)

    Returns
    -------
    ndarray, uint8, shape (out, row_bytes(in)), or None
        `tinyrwkv.file.int4.dequantize` gives the matrix again, exactly.
    """
    rows, columns = matrix.shape
    if columns % GROUP or _find_all(matrix[:_SEEN_FIRST]) is None:
        return None
    found = _find_all(matrix)
    if found is None:
        return None
    groups, scale, zero = found
    s = np.where(scale > 0, scale, 1).astype(np.float32)
    q = np.rint(groups / s[:, None]) + zero[:, None]
    by_columns = np.empty(matrix.shape, np.uint8)
    by_columns[:, order(columns)] = q.reshape(rows, columns)
    return pack(by_columns, scale.reshape(rows, -1), zero.reshape(rows, -1))


def _find_all(matrix: Array) -> tuple[Array, Array, Array] | None:
    """Return the groups of a matrix, their scales and zero points; None if one is not exact."""
    groups = matrix[:, order(matrix.shape[1])].reshape(-1, GROUP)
    scale, zero, is_exact = find_grid(groups)
    return (groups, scale, zero) if is_exact.all() else None


def find_grid(groups: Array) -> tuple[Array, Array, Array]:
    """Return the scale and zero point of each group that has an exact one.

    ::

        w = s (q - z),  s float16,  q and z from 0 to 15
        max|w| = s n,   n from 1 to 15

    Parameters
    ----------
    groups : ndarray, float32, shape (n, 64)

    Returns
    -------
    scale : ndarray, float16, shape (n,)
        0 where a group is not exact, and for a group of zeros.
    zero : ndarray, uint8, shape (n,)
    is_exact : ndarray, bool, shape (n,)

    Examples
    --------
    >>> scale, zero, is_exact = find_grid(np.array([[-1.5, 0.5, 3.0], [1, 2, 3.7]], np.float32))
    >>> scale.tolist(), zero.tolist(), is_exact.tolist()
    ([0.5, 0.0], [3, 0], [True, False])
    """
    largest = np.abs(groups).max(axis=1, initial=0)  # (n,)
    scale = np.zeros(len(groups), np.float16)
    zero = np.zeros(len(groups), np.uint8)
    is_exact = largest == 0
    for n in range(1, LARGEST + 1):
        left = np.flatnonzero(~is_exact)
        s, z, found = _on_multiples(groups[left], largest[left], n)
        here = left[found]
        scale[here] = s[found]
        zero[here] = z[found]
        is_exact[here] = True
    return scale, zero, is_exact


def _on_multiples(groups: Array, largest: Array, n: int) -> tuple[Array, Array, Array]:
    """Try the scale of which the largest weight is `n` times."""
    with np.errstate(over="ignore"):  # infinity is refused below
        scale = (largest / np.float32(n)).astype(np.float16)
    s = scale.astype(np.float32)
    is_usable = np.isfinite(s) & (s >= SMALLEST_SCALE)
    s = np.where(is_usable, s, 1)[:, None]
    steps = np.rint(groups / s)
    low = steps.min(axis=1, initial=0)
    high = steps.max(axis=1, initial=0)
    fits = high - low <= LARGEST
    is_same = (steps * s == groups).all(axis=1)
    zero = np.clip(-low, 0, LARGEST)
    return scale, zero.astype(np.uint8), is_usable & fits & is_same
