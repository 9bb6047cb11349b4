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


def field(raw: np.ndarray, first: int, last: int, dtype: str) -> np.ndarray:
    """Return bytes `first` to `last` of each block as numbers."""
    return np.ascontiguousarray(raw[:, first:last]).view(dtype)


def half(raw: np.ndarray, first: int) -> np.ndarray:
    """Return the float16 at byte `first` of each block, as float32, shape (n, 1)."""
    return field(raw, first, first + 2, "<f2").astype(np.float32)


def nibbles(raw: np.ndarray, group: int) -> np.ndarray:
    """Cut bytes into halves: of each `group` bytes, first all low halves, then all high ones.

    Parameters
    ----------
    raw : ndarray, uint8, shape (n, m)
    group : int
        A divisor of m.

    Returns
    -------
    ndarray, uint8, shape (n, 2 m)

    Examples
    --------
    >>> nibbles(np.array([[0x21, 0x43]], np.uint8), 2)
    array([[1, 3, 2, 4]], dtype=uint8)
    """
    groups = raw.reshape(len(raw), -1, 1, group)
    return np.concatenate([groups & 15, groups >> 4], axis=2).reshape(len(raw), -1)


def _q4_0(raw: np.ndarray) -> np.ndarray:
    """Return w = d * (q - 8): f16 d, 32 nibbles."""
    d = half(raw, 0)
    q = nibbles(raw[:, 2:18], 16).astype(np.float32)
    return d * (q - 8)


def _q4_1(raw: np.ndarray) -> np.ndarray:
    """Return w = d * q + m: f16 d, f16 m, 32 nibbles."""
    d, m = half(raw, 0), half(raw, 2)
    q = nibbles(raw[:, 4:20], 16)
    return d * q + m


def _q8_0(raw: np.ndarray) -> np.ndarray:
    """Return w = d * q: f16 d, 32 int8 q."""
    d = half(raw, 0)
    q = field(raw, 2, 34, "i1")
    return d * q


def _five_bits(raw: np.ndarray, start: int) -> np.ndarray:
    """Join the 32 high bits at `start` with the 32 nibbles after them."""
    high = np.unpackbits(raw[:, start : start + 4], axis=1, bitorder="little")  # (n, 32)
    return nibbles(raw[:, start + 4 : start + 20], 16) | high << 4


def _q5_0(raw: np.ndarray) -> np.ndarray:
    """Return w = d * (q - 16): f16 d, 32 high bits, 32 nibbles."""
    d = half(raw, 0)
    q = _five_bits(raw, 2).astype(np.float32)
    return d * (q - 16)


def _q5_1(raw: np.ndarray) -> np.ndarray:
    """Return w = d * q + m: f16 d, f16 m, 32 high bits, 32 nibbles."""
    d, m = half(raw, 0), half(raw, 2)
    q = _five_bits(raw, 4)
    return d * q + m


F32 = _float("F32", "<f4")
F16 = _float("F16", "<f2")
BF16 = _float("BF16", "<u2")
Q4_0 = Kind("Q4_0", 32, 18, _q4_0)
Q4_1 = Kind("Q4_1", 32, 20, _q4_1)
Q5_0 = Kind("Q5_0", 32, 22, _q5_0)
Q5_1 = Kind("Q5_1", 32, 24, _q5_1)
Q8_0 = Kind("Q8_0", 32, 34, _q8_0)


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
