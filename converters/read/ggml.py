"""Decode the number types of ggml files: floats, and blocks of 32 small integers with a scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from tinyrwkv.errors import FormatError
from tinyrwkv.file.table import show

from .source import FETCH, InputFile, SourceTensor, row_blocks, to_float32


class Kind(NamedTuple):
    """A type: `numbers` in `nbytes` bytes, and how (n, nbytes) bytes become (n, numbers) floats."""

    name: str
    numbers: int
    nbytes: int
    decode: Callable[[np.ndarray], np.ndarray]


def _float(name: str, dtype: str) -> Kind:
    return Kind(name, 1, np.dtype(dtype).itemsize, lambda raw: to_float32(raw.view(dtype), name))


def _field(raw: np.ndarray, first: int, last: int, dtype: str) -> np.ndarray:
    return np.ascontiguousarray(raw[:, first:last]).view(dtype)


def _q8_0(raw: np.ndarray) -> np.ndarray:
    """Return w = d * q: f16 d, 32 int8 q."""
    return _field(raw, 0, 2, "<f2").astype(np.float32) * _field(raw, 2, 34, "i1")


def _five_bits(raw: np.ndarray, start: int) -> np.ndarray:
    """Join the 32 high bits at `start` with the 32 nibbles after them, low nibbles first."""
    high = np.unpackbits(raw[:, start : start + 4], axis=1, bitorder="little")  # (n, 32)
    nibbles = raw[:, start + 4 : start + 20]  # (n, 16)
    return np.concatenate([nibbles & 15, nibbles >> 4], axis=1) | high << 4


def _q5_0(raw: np.ndarray) -> np.ndarray:
    """Return w = d * (q - 16): f16 d, 32 high bits, 32 nibbles."""
    return _field(raw, 0, 2, "<f2").astype(np.float32) * (
        _five_bits(raw, 2).astype(np.float32) - 16
    )


def _q5_1(raw: np.ndarray) -> np.ndarray:
    """Return w = d * q + m: f16 d, f16 m, 32 high bits, 32 nibbles."""
    d, m = (_field(raw, at, at + 2, "<f2").astype(np.float32) for at in (0, 2))
    return d * _five_bits(raw, 4) + m


F32, F16, BF16 = _float("F32", "<f4"), _float("F16", "<f2"), _float("BF16", "<u2")
Q8_0, Q5_0, Q5_1 = (
    Kind("Q8_0", 32, 34, _q8_0),
    Kind("Q5_0", 32, 22, _q5_0),
    Kind("Q5_1", 32, 24, _q5_1),
)


def size_of(file: InputFile, name: str, kind: Kind, shape: tuple[int, ...]) -> int:
    """Return the bytes of a tensor.

    Raises
    ------
    FormatError
        A row is not a whole number of blocks.
    """
    if shape[-1] % kind.numbers:
        expected = f"a multiple of {kind.numbers} for {kind.name}"
        raise FormatError(
            file.path, f"tensor {show(name)}", f"rows of {shape[-1]}", expected, FETCH
        )
    return math.prod(shape) // kind.numbers * kind.nbytes


def tensor(
    file: InputFile, name: str, kind: Kind, shape: tuple[int, ...], offset: int
) -> SourceTensor:
    """Return the tensor of `shape` (slowest size first) whose data begin at byte `offset`."""
    nbytes = size_of(file, name, kind, shape)
    if offset + nbytes > file.size:
        found = f"its end at byte {offset + nbytes}"
        raise FormatError(file.path, f"tensor {show(name)}", found, f"at most {file.size}", FETCH)
    rows = (
        shape if len(shape) > 1 else (1, *shape)
    )  # blocks go along the last axis: a vector is one row
    row_bytes = nbytes // rows[0]

    def read() -> Iterator[np.ndarray]:
        for first, last in row_blocks(rows):
            raw = file.read(
                offset + first * row_bytes, (last - first) * row_bytes, f"tensor {show(name)}"
            )
            values = kind.decode(raw.reshape(-1, kind.nbytes))
            yield values.reshape((last - first, *shape[1:]) if len(shape) > 1 else shape)

    return SourceTensor(file.path, name, shape, read)
