"""What goes into a model file: its metadata, and how each of its tensors is made."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from tinyrwkv.errors import FormatError, show
from tinyrwkv.file.table import FILE_PAGE
from tinyrwkv.file.tensors import DTYPES, Tensor
from tinyrwkv.versions.forms import DEEP_TABLE

from ..read.source import InputFile, SourceTensor

Function = Callable[..., np.ndarray]

_BYTES = 4 << 20  # of a tensor that is copied, in memory at a time


class Recipe(NamedTuple):
    """A tensor that is computed from those of a checkpoint.

    Attributes
    ----------
    name : str
        The name in the file.
    raw : tuple of SourceTensor
        What the tensor is made from.
    function : callable
        Maps the arrays of `raw` to the array of the file.
    by_rows : bool
        `function` maps rows of the first array to rows of the result, so that a few can be done at
        a time.
    """

    name: str
    raw: tuple[SourceTensor, ...]
    function: Function
    by_rows: bool = False

    @property
    def work(self) -> int:
        """About how many numbers are read, to tell the progress."""
        return math.prod(self.raw[0].shape) * len(self.raw)

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield float32 arrays of consecutive rows; one array of all, unless `by_rows`.

        Raises
        ------
        FormatError
            A value is not finite, or too large to have a finite result.
        """
        first, *others = self.raw
        arrays = [tensor.load() for tensor in others]
        blocks = first.blocks() if self.by_rows else [first.load()]
        for block in blocks:
            with np.errstate(all="ignore"):  # what overflows is refused just below
                result = np.ascontiguousarray(self.function(block, *arrays), np.float32)
            if not np.isfinite(result).all():
                what = f"tensor {show(first.name)}"
                fix = "the checkpoint is damaged: take another"
                sentence = f"{first.path}: {what} has huge values, which would become infinity"
                raise FormatError(first.path, what, "huge values", "usual ones", fix, sentence)
            yield result


class DeepTable(NamedTuple):
    """The table of a deep embedding, before it is written.

    Attributes
    ----------
    path : str
        Of the checkpoint, for messages.
    shape : tuple of int
        (V, L, n)
    blocks : callable
        Yields float32 arrays (tokens, L, n) that together have this shape.
    """

    path: str
    shape: tuple[int, int, int]
    blocks: Callable[[], Iterator[np.ndarray]]

    @property
    def name(self) -> str:
        """Name of the tensor."""
        return DEEP_TABLE

    @property
    def work(self) -> int:
        """How many numbers there are, to tell the progress."""
        return math.prod(self.shape)


class Copy(NamedTuple):
    """A tensor that goes into the new file as it is in an old one."""

    file: InputFile
    tensor: Tensor

    @property
    def name(self) -> str:
        """Name of the tensor."""
        return self.tensor.name

    @property
    def page_aligned(self) -> bool:
        """Whether it begins on a page."""
        return self.tensor.offset % FILE_PAGE == 0

    @property
    def work(self) -> int:
        """How many bytes are read, to tell the progress."""
        return self.tensor.nbytes

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield consecutive rows of the tensor, some MiB at a time."""
        tensor = self.tensor
        row_bytes = tensor.nbytes // tensor.shape[0]
        step = max(1, _BYTES // row_bytes)
        for first in range(0, tensor.shape[0], step):
            rows = min(step, tensor.shape[0] - first)
            place = tensor.offset + first * row_bytes
            raw = self.file.read(place, rows * row_bytes, f"tensor '{self.name}'")
            yield raw.view(DTYPES[tensor.dtype]).reshape(rows, *tensor.shape[1:])


class Content(NamedTuple):
    """All of a model file, before anything is written.

    Attributes
    ----------
    metadata : dict
    tensors : list of Recipe, DeepTable or Copy
        In the order of the file.
    notes : list of str
        What a reader of the report should know.
    """

    metadata: dict[str, Any]
    tensors: list[Recipe | DeepTable | Copy]
    notes: list[str]
