"""Read a .trwkv file as a source: to store it in another type, or to give it another vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from tinyrwkv.errors import FormatError, UnsupportedError
from tinyrwkv.file.mapped import open_file
from tinyrwkv.file.table import DTYPES, FILE_PAGE, Tensor
from tinyrwkv.versions.layout import MATRIX

from ..read.source import InputFile, SourceTensor, row_blocks
from .recipe import Entry

_KINDS = {"f32": "F32", "f16": "F16"}
_FIX = "convert the original checkpoint"


class Copy(NamedTuple):
    """A tensor that goes into the new file as it is in the old one."""

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

    def load(self) -> np.ndarray:
        """Return the tensor."""
        raw = self.file.read(self.tensor.offset, self.tensor.nbytes, f"tensor '{self.name}'")
        return raw.view(DTYPES[self.tensor.dtype]).reshape(self.tensor.shape)


def repack(
    file: InputFile, dtype: str, new_vocab: bool
) -> tuple[dict[str, Any], list[Entry | Copy]]:
    """Return the metadata of a .trwkv file, and how each tensor of the new one is made.

    Parameters
    ----------
    file : InputFile
    dtype : str
        "f32", "f16" or "int8".
    new_vocab : bool
        Leave the old vocabulary out.

    Raises
    ------
    FormatError
        The file is damaged (all its checksums are verified) or holds a state.
    UnsupportedError
        It can't be stored in `dtype`.
    """
    with open_file(file.path, verify=True) as old:
        metadata, tensors = old.metadata, list(old.tensors.values())
    if metadata["kind"] != "model":
        raise FormatError(
            file.path, "metadata 'kind'", metadata["kind"], "model", "give the file of a model"
        )
    if new_vocab:
        tensors = [tensor for tensor in tensors if not tensor.name.startswith("tokenizer.")]
    if metadata["dtype"] == dtype:
        return metadata, [Copy(file, tensor) for tensor in tensors]
    if metadata["dtype"] == "int8":
        raise UnsupportedError(
            file.path, "dtype", "int8", dtype, "what int8 lost can't be had back: " + _FIX
        )
    others = [
        step["technique"]
        for step in metadata.get("compression", [])
        if step["technique"] not in DTYPES
    ]
    if others:
        raise UnsupportedError(file.path, "compression", ", ".join(others), "a plain model", _FIX)
    metadata.pop("compression", None)
    return metadata, [_entry(file, tensor) for tensor in tensors]


def _entry(file: InputFile, tensor: Tensor) -> Entry | Copy:
    if not (MATRIX.search(tensor.name) and len(tensor.shape) == 2):
        return Copy(file, tensor)
    kind, width, (rows, columns) = _KINDS[tensor.dtype], DTYPES[tensor.dtype].itemsize, tensor.shape

    def read() -> Iterator[np.ndarray]:
        for first, last in row_blocks((rows, columns)):
            offset, count = tensor.offset + first * columns * width, (last - first) * columns
            yield file.values(offset, count, kind, f"tensor '{tensor.name}'").reshape(-1, columns)

    source = SourceTensor(file.path, tensor.name, tensor.shape, read)
    return Entry(tensor.name, (source,), lambda rows: rows, by_rows=True)
