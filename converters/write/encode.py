"""Write the tensors of a model file in the type asked for, and measure what the type costs."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from tinyrwkv.errors import ArgumentError, FormatError, show
from tinyrwkv.file.quant import quantize_rows
from tinyrwkv.file.writer import Writer
from tinyrwkv.versions.layout import MATRIX

from ..techniques.round_int4 import round_int4
from .content import Recipe
from .parts import is_int4

DTYPES = ("f32", "f16", "int8", "int4")

Array = np.ndarray


class Loss:
    """Relative error ``|w - stored| / |w|`` of matrices: of all together, and of the worst."""

    def __init__(self) -> None:
        self._error = self._norm = 0.0
        self._worst = (0.0, "")

    def add(self, name: str, error: float, norm: float) -> None:
        """Count a matrix by the squared norms of its error and of itself."""
        self._error += error
        self._norm += norm
        self._worst = max(self._worst, (math.sqrt(error / norm), name))

    def report(self) -> dict[str, Any]:
        """Return the figures for the metadata."""
        relative = math.sqrt(self._error / self._norm) if self._norm else 0.0
        return {
            "relative_error": relative,
            "worst_relative_error": self._worst[0],
            "worst_tensor": self._worst[1],
        }


def encode(writer: Writer, recipe: Recipe, dtype: str, loss: Loss, parts: str = "body") -> None:
    """Make one tensor and write it: matrices as `dtype`, vectors as float32.

    Parameters
    ----------
    writer : Writer
    recipe : Recipe
    dtype : str
        One of `DTYPES`.
    loss : Loss
        Gets the error of a matrix.
    parts : str, optional
        Which matrices become int4, if `dtype` is that; the others become int8. See ``parts``.

    Raises
    ------
    FormatError
        A value is not finite, or too large for `dtype`.
    """
    out = np.empty(0)
    scales: list[Array] = []
    error = norm = 0.0
    first = 0
    for block in recipe.blocks():
        part = block
        if dtype != "f32" and MATRIX.search(recipe.name) and block.ndim == 2:
            part, scale, back = _narrow(recipe, block, dtype, parts)
            if scale is not None:
                scales.append(scale)
            error += squares(block - back)
            norm += squares(block)
        if first == 0:
            rows = recipe.raw[0].shape[0] if recipe.by_rows else len(part)
            out = np.empty((rows, *part.shape[1:]), part.dtype)
        out[first : first + len(part)] = part
        first += len(part)
    writer.add(recipe.name, out)
    if scales:
        writer.add(recipe.name + ".scale", np.concatenate(scales))
    if norm:
        loss.add(recipe.name, error, norm)


class _Narrow(NamedTuple):
    """Rows of a matrix in a smaller type, their scales if these lie apart, and their weights."""

    rows: Array
    scale: Array | None
    back: Array


def _narrow(recipe: Recipe, block: Array, dtype: str, parts: str) -> _Narrow:
    """Return rows of a matrix as int8, int4 or float16."""
    if dtype == "f16":
        return _as_half(recipe, block)
    if dtype == "int4" and is_int4(recipe.name, block.shape[1], parts):
        return _as_int4(recipe, block)
    q, scale = quantize_rows(block)
    return _Narrow(q, scale, q * scale[:, None])


def _as_int4(recipe: Recipe, block: Array) -> _Narrow:
    try:
        rounded = round_int4(block)
    except ArgumentError as error:
        raw = recipe.raw[0]
        what = f"tensor {show(raw.name)}"
        sentence = f"{raw.path}: {what} has {error.found}, but int4 needs {error.expected}"
        found, expected = error.found, error.expected
        raise FormatError(raw.path, what, found, expected, error.fix, sentence) from None
    return _Narrow(rounded.packed(), None, rounded.weights())


def _as_half(recipe: Recipe, block: Array) -> _Narrow:
    with np.errstate(over="ignore"):
        half = block.astype(np.float16)
    if not np.isfinite(half).all():
        raw, found = recipe.raw[0], f"a value of {np.abs(block).max():.6g}"
        what, expected = f"tensor {show(raw.name)}", "at most 65504 for f16"
        sentence = f"{raw.path}: {what} has {found}, but f16 ends at 65504"
        raise FormatError(raw.path, what, found, expected, "store int8 or f32", sentence)
    return _Narrow(half, None, half)


def squares(x: np.ndarray) -> float:
    """Return the sum of the squares of all numbers."""
    return float(np.square(x, dtype=np.float64).sum())
