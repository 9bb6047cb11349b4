"""Write a copy of a model file in which some matrices are replaced by what compresses them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tinyrwkv.file.table import FILE_PAGE
from tinyrwkv.file.tensors import TensorFile

from .whole import ModelWriter

Array = np.ndarray

Edits = Mapping[str, Callable[[], Mapping[str, Array]]]
"""The name of a matrix, and what makes the tensors that take its place; its scale goes with it."""

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
                writer.add(name, file[name], page_aligned=tensor.offset % FILE_PAGE == 0)
        return {name: tensor.nbytes for name, tensor in writer.tensors.items()}
