"""Read safetensors files: a JSON header of names, types, shapes and places, then the data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from tinyrwkv.errors import FormatError, UnsupportedError, show

from .json_text import parse_object
from .source import FETCH, STORED, InputFile, Source, SourceTensor, check_count

# The format allows 100 MB, an RWKV checkpoint needs 200 kB. Parsed JSON takes many times its text.
MAX_HEADER = 8 << 20


def is_safetensors(file: InputFile) -> bool:
    """Tell whether a file begins with the length of a header that fits, then with a brace."""
    if file.size < 10:
        return False
    start = file.read(0, 9, "header").tobytes()
    length, brace = int.from_bytes(start[:8], "little"), start[8:]
    return length <= file.size - 8 and brace == b"{"


def read_safetensors(file: InputFile) -> Source:
    """Open a .safetensors file; the tensors are read when asked for.

    Parameters
    ----------
    file : InputFile

    Returns
    -------
    Source

    Raises
    ------
    FormatError
        The header is damaged, or a tensor lies outside the file or on another one.
    UnsupportedError
        A tensor is not float32, float16 or bfloat16.
    """
    length = int.from_bytes(file.read(0, 8, "header").tobytes(), "little")
    if length > MAX_HEADER:
        found, expected = f"{length} bytes", f"at most {MAX_HEADER}"
        sentence = f"{file.path}: the header has {found}; {expected} can be read"
        raise FormatError(file.path, "header", found, expected, FETCH, sentence)
    header = parse_object(file.path, "header", file.read(8, length, "header").tobytes())
    header.pop("__metadata__", None)
    if not header:
        fix, sentence = "give a checkpoint with weights", f"{file.path} has no tensors"
        raise FormatError(file.path, "header", "no tensors", "some", fix, sentence)
    check_count(file.path, len(header))
    base = 8 + length
    entries = {name: _entry(file, name, value) for name, value in header.items()}
    _check_places(file, entries, base)
    tensors = {name: _tensor(file, name, entry, base) for name, entry in entries.items()}
    return Source(file.path, [file], "safetensors", tensors)


class _Entry(NamedTuple):
    """What the header says of a tensor; its bytes are `begin` to `end` of the data."""

    dtype: Any
    shape: tuple[int, ...]
    begin: int
    end: int


def _entry(file: InputFile, name: str, value: Any) -> _Entry:
    """Return the entry of a tensor, after checking that it has the right fields."""
    if isinstance(value, dict) and set(value) == {"dtype", "shape", "data_offsets"}:
        shape = value["shape"]
        offsets = value["data_offsets"]
        is_shape = _are_sizes(shape, file.size) and len(shape) <= 8 and 0 not in shape
        if is_shape and _are_sizes(offsets, file.size) and len(offsets) == 2:
            return _Entry(value["dtype"], tuple(shape), *offsets)
    what, found = f"tensor {show(name)}", "another entry in the header"
    expected = "dtype, shape and data_offsets within the file"
    sentence = f"{file.path}: the header does not give {what} {expected}"
    raise FormatError(file.path, what, found, expected, FETCH, sentence)


def _are_sizes(value: Any, most: int) -> bool:
    """Tell whether a value from the header is a list of numbers from 0 to `most`."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n <= most for n in value)


def _check_places(file: InputFile, entries: dict[str, _Entry], base: int) -> None:
    """Refuse types that can't be read, and data that overlap, leave gaps or end elsewhere."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].begin):
        what = f"tensor {show(name)}"
        if not isinstance(entry.dtype, str) or entry.dtype not in STORED:
            found, expected = f"dtype {show(entry.dtype)}", f"one of {', '.join(STORED)}"
            fix = "give a checkpoint in one of these types"
            sentence = f"{file.path}: {what} has {found}, which is not {expected}"
            raise UnsupportedError(file.path, what, found, expected, fix, sentence)
        nbytes = math.prod(entry.shape) * STORED[entry.dtype].itemsize
        if entry.end - entry.begin != nbytes or base + entry.end > file.size:
            found = f"bytes {entry.begin} to {entry.end} of {file.size - base}"
            sentence = f"{file.path}: {what} has {found}, but needs {nbytes} bytes of them"
            raise FormatError(file.path, what, found, f"{nbytes} bytes of them", FETCH, sentence)
        if entry.begin != end:
            found, expected = f"its first byte at {entry.begin}", f"{end}"
            sentence = f"{file.path}: {what} begins at byte {entry.begin} of the data, not at {end}"
            raise FormatError(file.path, what, found, expected, FETCH, sentence)
        end = entry.end
    if base + end != file.size:
        found, expected = f"{file.size} bytes", f"{base + end}"
        sentence = f"{file.path} has {file.size} bytes, but its header describes {base + end}"
        raise FormatError(file.path, "file", found, expected, FETCH, sentence)


def _tensor(file: InputFile, name: str, entry: _Entry, base: int) -> SourceTensor:
    def read() -> Iterator[np.ndarray]:
        return file.rows(base + entry.begin, entry.shape, entry.dtype, f"tensor {show(name)}")

    return SourceTensor(file.path, name, entry.shape, read)
