"""Tables of int8 rows, each with its scale behind it, so that one page has all that a row needs."""

from __future__ import annotations

import numpy as np

SCALE_BYTES = 4
"""Bytes of a scale."""


def with_scales(q: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Put the scale of each row behind it, so that one page has both.

    Parameters
    ----------
    q : ndarray, int8, shape (rows, n)
    scale : ndarray, float32, shape (rows,)

    Returns
    -------
    ndarray, uint8, shape (rows, n + 4)

    Examples
    --------
    >>> table = with_scales(np.array([[127, -32]], np.int8), np.array([0.5], np.float32))
    >>> table.shape, without_scales(table).tolist()
    ((1, 6), [[63.5, -16.0]])
    """
    behind = scale.astype("<f4")[:, None].view(np.uint8)  # (rows, 4)
    return np.concatenate([q.view(np.uint8), behind], axis=1)


def without_scales(table: np.ndarray) -> np.ndarray:
    """Return the float32 rows of what `with_scales` made, (..., n + 4) to (..., n)."""
    q = table[..., :-SCALE_BYTES].view(np.int8)
    weights: np.ndarray = q * scales_behind(table)[..., None]
    return weights


def is_table(table: np.ndarray) -> bool:
    """Tell whether an array can be such a table: rows of uint8, with a number before each scale."""
    return table.dtype == np.uint8 and table.ndim > 1 and table.shape[-1] > SCALE_BYTES


def scales_behind(table: np.ndarray) -> np.ndarray:
    """Return the scales that stand behind the rows of a table, float32, shape (...)."""
    bytes_of_scales = np.ascontiguousarray(table[..., -SCALE_BYTES:])
    return bytes_of_scales.view("<f4")[..., 0]
