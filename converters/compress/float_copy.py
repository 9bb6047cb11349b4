"""A model in float32, in a file whose matrices can be replaced one by one."""

from __future__ import annotations

import os

import numpy as np

from tinyrwkv import Model, load
from tinyrwkv.errors import os_errors
from tinyrwkv.file import int4
from tinyrwkv.file.quant import dequantize_rows
from tinyrwkv.file.tensors import TensorFile
from tinyrwkv.versions.layout import MATRIX

from ..write.edit import mapped_blocks
from ..write.whole import ModelWriter

Array = np.ndarray


class FloatCopy:
    """A copy of a model in float32, with dense channel mixes; a context manager.

    The kernels read each matrix as it is at the time. The file is not a valid model any more after
    a change: its checksums are those of the model before.

    Parameters
    ----------
    model : Model
        int8 or int4, with dense matrices, factors, or values by rows.
    path : str
        Where the copy lies; it is removed in the end.
    threads : int

    Attributes
    ----------
    model : Model
    """

    def __init__(self, model: Model, path: str, threads: int) -> None:
        self._path = path
        source = model.file
        with ModelWriter(path, {**source.metadata, "dtype": "f32"}) as writer:
            for name in source.tensors:
                if f"{name}.scale" in source or is_packed(source, name):
                    writer.add(dense_name(name), dense_matrix(source, name))
                elif not name.endswith(".scale"):
                    shape = source.tensors[name].shape
                    writer.add_blocks(name, shape, mapped_blocks(source, name))
        self.model = load(path, threads=threads)

    def replace(self, name: str, weights: Array) -> None:
        """Put other weights in the place of a matrix of the model: float32, of its shape."""
        place = self.model.file.tensors[dense_name(name)].offset
        weights = weights.T if name.endswith(".rows") else weights
        with os_errors(self._path, "write"), open(self._path, "r+b") as file:
            file.seek(place)
            file.write(np.ascontiguousarray(weights, "<f4").data)

    def __enter__(self) -> FloatCopy:
        """Return the copy itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close and remove the file."""
        self.model.close()
        os.unlink(self._path)


def dense_name(name: str) -> str:
    """Return the name that a matrix has where all are dense: values by rows are transposed."""
    return name.removesuffix("rows") + "weight" if name.endswith(".rows") else name


def is_packed(file: TensorFile, name: str) -> bool:
    """Tell whether a tensor is a matrix in int4."""
    is_matrix = MATRIX.search(name) is not None or name.endswith(".rows")
    return is_matrix and file.tensors[name].dtype == "u8"


def dense_matrix(file: TensorFile, name: str) -> Array:
    """Return a matrix of int8 or int4 as float32 [out, in], also if it is stored by rows."""
    if is_packed(file, name):
        weights = int4.dequantize(file[name])
        return np.ascontiguousarray(weights.T) if name.endswith(".rows") else weights
    scale = file[f"{name}.scale"]
    if name.endswith(".rows"):
        return np.ascontiguousarray((file[name] * scale).T)
    return dequantize_rows(file[name], scale)
