"""Apply the first layer norm of a model to its embedding, once and for all."""

from __future__ import annotations

import numpy as np


def fold_ln0(rows: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Apply the layer norm before the first block to rows of the embedding.

    Parameters
    ----------
    rows : ndarray, float32, shape (n, C)
    weight, bias : ndarray, float32, shape (C,)

    Returns
    -------
    ndarray, float32, shape (n, C)

    Examples
    --------
    >>> fold_ln0(np.array([[1.0, 3.0]], np.float32), np.ones(2), np.zeros(2)).round(4)
    array([[-1.,  1.]], dtype=float32)
    """
    x = rows.astype(np.float64)
    x -= x.mean(axis=1, keepdims=True)
    # y = (x - mean) / sqrt(var + 1e-5) * weight + bias
    x /= np.sqrt((x * x).mean(axis=1, keepdims=True) + 1e-5)
    return (x * weight + bias).astype(np.float32)
