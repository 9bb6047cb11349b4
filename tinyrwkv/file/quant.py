"""Matrices in int8 with one scale per row: W[i, j] ~ q[i, j] * scale[i]."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ArgumentError, UnsupportedError

_BLOCK = 1 << 18  # weights at a time: the float32 temporaries of a block stay under 8 MB


def quantize_rows(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round every row of a matrix to multiples of its largest weight / 127.

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
    if not isinstance(w, np.ndarray) or w.ndim != 2 or w.dtype not in (np.float32, np.float16):
        found = f"{w.dtype} {w.shape}" if isinstance(w, np.ndarray) else type(w).__name__
        raise ArgumentError(
            "quantize_rows", "w", found, "a float32 or float16 matrix", "convert it first"
        )
    q, scale = np.empty(w.shape, np.int8), np.empty(w.shape[0], np.float32)
    step = max(1, _BLOCK // max(1, w.shape[1]))
    for first in range(0, len(w), step):
        rows = slice(first, first + step)
        block = w[rows].astype(np.float32)
        # s_i = max_j |w_ij| / 127
        top = np.abs(block).max(axis=1, initial=0)  # (rows,)
        if not np.isfinite(top).all():
            row = first + int(np.argmin(np.isfinite(top)))
            raise ArgumentError(
                "quantize_rows",
                f"w[{row}]",
                "NaN or infinity",
                "finite weights",
                "repair the matrix",
            )
        s = scale[rows] = np.minimum(top / 127, 2.679e36)  # 127 times it is still finite
        # q_ij = round(w_ij / s_i); the clip is for rows so small that s_i is subnormal
        block /= np.where(s > 0, s, np.inf)[:, None]
        np.rint(block, out=block)
        q[rows] = np.clip(block, -127, 127, out=block)
    return q, scale


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
    pair = isinstance(q, np.ndarray) and isinstance(scale, np.ndarray)
    if (
        not pair
        or q.dtype != np.int8
        or q.ndim != 2
        or scale.dtype != np.float32
        or scale.shape != q.shape[:1]
    ):
        found = f"{q.dtype} {q.shape} and {scale.dtype} {scale.shape}" if pair else type(q).__name__
        raise ArgumentError(
            "dequantize_rows",
            "q, scale",
            found,
            "int8 (out, in) and float32 (out,)",
            "give both so",
        )
    w: np.ndarray = np.multiply(q, scale[:, None], dtype=np.float32)
    return w


def dequantize(tensors: Any) -> dict[str, np.ndarray]:
    """Return the weights of a model file as float32 arrays, in memory.

    Parameters
    ----------
    tensors : TensorFile or mapping of str to ndarray
        Tensors of float32, float16, or int8 with the scale of each row beside them: ``w = q * scale[row]``.

    Returns
    -------
    weights : dict of str to ndarray, float32
        By name; the tokenizer and the scales are left out.

    Raises
    ------
    UnsupportedError
        If a tensor has another dtype, or an int8 tensor has no scale.
    """
    file, names = getattr(tensors, "path", "weights"), list(getattr(tensors, "tensors", tensors))
    weights = {}
    for name in names:
        if name.startswith("tokenizer.") or name.endswith("scale"):
            continue
        tensor = tensors[name]
        if name.endswith(
            ".rows"
        ):  # the transposed matrix, with the scales that it has when it is not
            weights[name.removesuffix("rows") + "weight"] = (tensor * tensors[f"{name}.scale"]).T
        elif tensor.dtype == np.int8 and f"{name}.scale" in tensors:
            weights[name] = tensor * tensors[f"{name}.scale"][:, None]
        elif tensor.dtype in (np.float16, np.float32):
            weights[name] = tensor.astype(np.float32)
        elif name.startswith("head."):  # codes and numbers of a preview
            weights[name] = tensor.copy()
        else:
            raise UnsupportedError(
                file, name, tensor.dtype, "float32, float16 or int8 with a scale", "convert again"
            )
    return weights
