"""Write a copy of a model file in which some matrices are replaced by what compresses them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from tinyrwkv.file.table import FILE_PAGE
from tinyrwkv.file.tensors import TensorFile

from .whole import ModelWriter

Array = np.ndarray

Edits = Mapping[str, Callable[[], Mapping[str, Array]]]
"""The name of a matrix, and what makes the tensors that take its place; its scale goes with it."""

_BYTES = 4 << 20  # of a tensor that is copied, in memory at a time

SPARSE = (".rows", ".bundles", "head.rows.weight")
"""Suffixes of tensors that begin on a page, because a token reads only a few of their rows."""


def edit(
    file: TensorFile, path: str | os.PathLike[str], edits: Edits, metadata: dict[str, Any]
) -> dict[str, int]:
    """Copy a model tensor by tensor, in its order, with some matrices replaced.

    Parameters
    ----------
    file : TensorFile
    path : str or path-like
        Gets its name only when it is complete.
    edits : mapping of str to callable
        See `Edits`; each is called once, at the place of its matrix.
    metadata : dict
        The metadata of the new file.

    Returns
    -------
    dict of str to int
        The bytes of each tensor of the new file.
    """
    gone = {name + ".scale" for name in edits}
    with ModelWriter(path, metadata) as writer:
        for name, tensor in file.tensors.items():
            if name in edits:
                for new, array in edits[name]().items():
                    writer.add(new, array, page_aligned=new.endswith(SPARSE))
            elif name not in gone:
                on_page = tensor.offset % FILE_PAGE == 0
                writer.add_blocks(
                    name, tensor.shape, mapped_blocks(file, name), page_aligned=on_page
                )
        return {name: tensor.nbytes for name, tensor in writer.tensors.items()}


def mapped_blocks(file: TensorFile, name: str) -> Iterator[Array]:
    """Yield consecutive rows of a tensor; let go of the pages of each block after its use."""
    tensor, rows = file.tensors[name], file[name]
    row_bytes = tensor.nbytes // len(rows)
    step = max(1, _BYTES // row_bytes)
    for first in range(0, len(rows), step):
        block = rows[first : first + step]
        yield block
        file.drop(tensor.offset + first * row_bytes, block.nbytes)
