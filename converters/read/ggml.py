"""Decode the number types of ggml files: floats, and blocks of 32 small integers with a scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from tinyrwkv.errors import FormatError, UnsupportedError, show

from .source import FETCH, InputFile, SourceTensor, cut, row_blocks, to_float32


class Kind(NamedTuple):
    """A number type of ggml, which stores numbers in blocks.

    Attributes
    ----------
    name : str
    numbers : int
        How many numbers a block has.
    nbytes : int
        How many bytes a block has.
    decode : callable
        Maps blocks, uint8 (n, nbytes), to float32 (n, numbers).
    """

    name: str
    numbers: int
    nbytes: int
    decode: Callable[[np.ndarray], np.ndarray]


def _float(name: str, dtype: str) -> Kind:
    """Return the kind of plain floats: a block is one number."""
    return Kind(name, 1, np.dtype(dtype).itemsize, lambda raw: to_float32(raw.view(dtype), name))


def _field(raw: np.ndarray, first: int, last: int, dtype: str) -> np.ndarray:
    """Return bytes `first` to `last` of each block as numbers."""
    return np.ascontiguousarray(raw[:, first:last]).view(dtype)


def _half(raw: np.ndarray, first: int) -> np.ndarray:
    """Return the float16 at byte `first` of each block, as float32, shape (n, 1)."""
    return _field(raw, first, first + 2, "<f2").astype(np.float32)


def _q8_0(raw: np.ndarray) -> np.ndarray:
    """Return w = d * q: f16 d, 32 int8 q."""
    d = _half(raw, 0)
    q = _field(raw, 2, 34, "i1")
    return d * q


def _five_bits(raw: np.ndarray, start: int) -> np.ndarray:
    """Join the 32 high bits at `start` with the 32 nibbles after them, low nibbles first."""
    high = np.unpackbits(raw[:, start : start + 4], axis=1, bitorder="little")  # (n, 32)
    nibbles = raw[:, start + 4 : start + 20]  # (n, 16)
    return np.concatenate([nibbles & 15, nibbles >> 4], axis=1) | high << 4


def _q5_0(raw: np.ndarray) -> np.ndarray:
    """Return w = d * (q - 16): f16 d, 32 high bits, 32 nibbles."""
    d = _half(raw, 0)
    q = _five_bits(raw, 2).astype(np.float32)
    return d * (q - 16)


def _q5_1(raw: np.ndarray) -> np.ndarray:
    """Return w = d * q + m: f16 d, f16 m, 32 high bits, 32 nibbles."""
    d, m = _half(raw, 0), _half(raw, 2)
    q = _five_bits(raw, 4)
    return d * q + m


F32 = _float("F32", "<f4")
F16 = _float("F16", "<f2")
BF16 = _float("BF16", "<u2")
Q8_0 = Kind("Q8_0", 32, 34, _q8_0)
Q5_0 = Kind("Q5_0", 32, 22, _q5_0)
Q5_1 = Kind("Q5_1", 32, 24, _q5_1)


def same_name(file: InputFile, name: str) -> FormatError:
    """Return the error that a file has two tensors of one name."""
    what = f"tensor {show(name)}"
    sentence = f"{file.path}: two tensors are named {show(name)}"
    return FormatError(file.path, what, "two of this name", "one", FETCH, sentence)


def unreadable(file: InputFile, name: str, kind: str, kinds: str, fix: str) -> UnsupportedError:
    """Return the error that a tensor is stored in a type that can't be read."""
    what = f"tensor {show(name)}"
    sentence = f"{file.path}: {what} has type {kind}; only {kinds} can be read"
    return UnsupportedError(file.path, what, f"type {kind}", kinds, fix, sentence)


def size_of(file: InputFile, name: str, kind: Kind, shape: tuple[int, ...]) -> int:
    """Return the bytes of a tensor.

    Raises
    ------
    FormatError
        A row is not a whole number of blocks.
    """
    width = shape[-1]
    if width % kind.numbers:
        what, found = f"tensor {show(name)}", f"rows of {width}"
        expected = f"a multiple of {kind.numbers} for {kind.name}"
        sentence = f"{file.path}: {what} has {found} numbers, which is not {expected}"
        raise FormatError(file.path, what, found, expected, FETCH, sentence)
    return math.prod(shape) // kind.numbers * kind.nbytes


def tensor(
    file: InputFile, name: str, kind: Kind, shape: tuple[int, ...], offset: int
) -> SourceTensor:
    """Return the tensor of `shape` (slowest size first) whose data begin at byte `offset`."""
    what = f"tensor {show(name)}"
    nbytes = size_of(file, name, kind, shape)
    if offset + nbytes > file.size:
        raise cut(file.path, what, offset + nbytes, file.size)
    is_vector = len(shape) == 1
    # Blocks go along the last axis: a vector is one row.
    row_shape = (1, *shape) if is_vector else shape
    row_bytes = nbytes // row_shape[0]

    def read() -> Iterator[np.ndarray]:
        for first, last in row_blocks(row_shape):
            count = last - first
            raw = file.read(offset + first * row_bytes, count * row_bytes, what)
            values = kind.decode(raw.reshape(-1, kind.nbytes))
            yield values.reshape(shape if is_vector else (count, *shape[1:]))

    return SourceTensor(file.path, name, shape, read)
