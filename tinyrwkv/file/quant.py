"""Matrices in int8 with one scale per row: W[i, j] ~ q[i, j] * scale[i]."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ArgumentError, UnsupportedError
from . import int4
from .row_table import without_scales

_BLOCK = 1 << 18  # weights at a time: a block's float32 temporaries stay under 8 MB
_LARGEST_SCALE = 2.679e36  # 127 times as much is still finite in float32


def quantize_rows(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round every row of a matrix to multiples of 1/127 of its largest weight.

    Parameters
    ----------
    w : ndarray, float32 or float16, shape (out, in)

    Returns
    -------
    q : ndarray, int8, shape (out, in)
        From -127 to 127; rounded half to even.
    scale : ndarray, float32, shape (out,)
        ``abs(w - q * scale) <= scale / 2`` up to float32 rounding. A row of zeros has scale 0.

    Raises
    ------
    ArgumentError
        `w` is not such a matrix, or holds NaN or infinity.

    Examples
    --------
    >>> q, scale = quantize_rows(np.array([[63.5, 31.75, -16.0], [0.0, 0.0, 0.0]], np.float32))
    >>> q.tolist(), scale.tolist()
    ([[127, 64, -32], [0, 0, 0]], [0.5, 0.0])
    """
    _check_matrix(w)
    q = np.empty(w.shape, np.int8)
    scale = np.empty(len(w), np.float32)
    step = max(1, _BLOCK // max(1, w.shape[1]))
    for first in range(0, len(w), step):
        rows = slice(first, first + step)
        block = w[rows].astype(np.float32)
        # s_i = max_j |w_ij| / 127
        largest = np.abs(block).max(axis=1, initial=0)  # (rows,)
        _check_finite(largest, first)
        s = np.minimum(largest / 127, _LARGEST_SCALE)
        # q_ij = round(w_ij / s_i); the clip is for rows so small that s_i is subnormal
        block /= np.where(s > 0, s, np.inf)[:, None]
        np.rint(block, out=block)
        q[rows] = np.clip(block, -127, 127, out=block)
        scale[rows] = s
    return q, scale


def _check_matrix(w: object) -> None:
    if not isinstance(w, np.ndarray):
        found = type(w).__name__
    elif w.ndim != 2 or w.dtype not in (np.float32, np.float16):
        found = f"{w.dtype} {w.shape}"
    else:
        return
    expected = "a float32 or float16 matrix"
    sentence = f"quantize_rows: w must be {expected}, not {found}"
    raise ArgumentError("quantize_rows", "w", found, expected, "convert it first", sentence)


def _check_finite(largest: np.ndarray, first: int) -> None:
    """Refuse a row, counted from `first`, whose largest weight is not finite."""
    is_finite = np.isfinite(largest)
    if not is_finite.all():
        row = f"w[{first + int(np.argmin(is_finite))}]"
        what = ("quantize_rows", row, "NaN or infinity", "finite weights", "repair the matrix")
        raise ArgumentError(*what, sentence=f"quantize_rows: {row} holds NaN or infinity")


def dequantize_rows(q: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the float32 matrix q * scale[:, None].

    Parameters
    ----------
    q : ndarray, int8, shape (out, in)
    scale : ndarray, float32, shape (out,)

    Returns
    -------
    ndarray, float32, shape (out, in)

    Raises
    ------
    ArgumentError
        The dtypes or shapes are not these.
    """
    _check_pair(q, scale)
    w: np.ndarray = np.multiply(q, scale[:, None], dtype=np.float32)
    return w


def _check_pair(q: object, scale: object) -> None:
    found = type(q).__name__
    if isinstance(q, np.ndarray) and isinstance(scale, np.ndarray):
        is_matrix = q.dtype == np.int8 and q.ndim == 2
        if is_matrix and scale.dtype == np.float32 and scale.shape == q.shape[:1]:
            return
        found = f"{q.dtype} {q.shape} and {scale.dtype} {scale.shape}"
    expected = "int8 (out, in) and float32 (out,)"
    fix = "give what quantize_rows returns"
    sentence = f"dequantize_rows: q and scale must be {expected}, not {found}"
    raise ArgumentError("dequantize_rows", "q, scale", found, expected, fix, sentence)


def dequantize(tensors: Any) -> dict[str, np.ndarray]:
    """Return the weights of a model file as float32 arrays, in memory.

    Parameters
    ----------
    tensors : TensorFile or mapping of str to ndarray
        Tensors of float32, float16, int8, or packed int4. An int8 tensor has the scales of its
        rows beside it: ``w = q * scale[row]``.

    Returns
    -------
    weights : dict of str to ndarray, float32
        By name; the tokenizer and the scales are left out.

    Raises
    ------
    UnsupportedError
        A tensor has another dtype, or an int8 tensor has no scale.
    """
    weights = {}
    for name in getattr(tensors, "tensors", tensors):
        if name.startswith("tokenizer.") or name.endswith("scale"):
            continue
        tensor = tensors[name]
        scale = tensors[f"{name}.scale"] if f"{name}.scale" in tensors else None
        if name.endswith(".rows") and (scale is not None or int4.is_packed(tensor)):
            # The transposed matrix: its columns have the scales of int8.
            rows = int4.dequantize(tensor) if scale is None else tensor * scale
            weights[name.removesuffix("rows") + "weight"] = rows.T
        elif tensor.dtype == np.int8 and scale is not None:
            weights[name] = tensor * scale[:, None]
        elif tensor.dtype in (np.float16, np.float32):
            weights[name] = tensor.astype(np.float32)
        elif name.endswith(("weight", "weight.a", "weight.b")) and int4.is_packed(tensor):
            weights[name] = int4.dequantize(tensor)
        elif name.endswith(".table"):
            weights[name] = without_scales(tensor)
        elif name.startswith("head."):  # codes and numbers of a preview
            weights[name] = tensor.copy()
        else:
            file = getattr(tensors, "path", "weights")
            expected = "float32, float16, int8 with a scale, or int4"
            raise UnsupportedError(file, name, tensor.dtype, expected, "convert again")
    if "head.likely.weight" in weights:
        rows = np.concatenate([weights.pop("head.likely.weight"), weights["head.weight"]])
        weights["head.weight"] = rows[weights.pop("head.places")]
    return weights
