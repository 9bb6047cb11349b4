"""Read safetensors files: a JSON header of names, types, shapes and places, then the data."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from tinyrwkv.errors import FormatError, UnsupportedError
from tinyrwkv.file.table import show

from .source import FETCH, STORED, InputFile, Source, SourceTensor, row_blocks

# The format allows 100 MB; an RWKV checkpoint has some 200 kB, and parsed JSON takes many times its text.
MAX_HEADER = 8 << 20


def is_safetensors(file: InputFile) -> bool:
    """Tell whether a file begins with the length of a header that fits it, and with that header's brace."""
    if file.size < 10:
        return False
    head = file.read(0, 9, "header").tobytes()
    return int.from_bytes(head[:8], "little") <= file.size - 8 and head[8:] == b"{"


def read_safetensors(file: InputFile) -> Source:
    """Open a .safetensors file; the tensors are read when asked for.

    Parameters
    ----------
    file : InputFile

    Raises
    ------
    FormatError
        The header is damaged, or a tensor lies outside the file or on another one.
    UnsupportedError
        A tensor is not float32, float16 or bfloat16.
    """
    length = int.from_bytes(file.read(0, 8, "header").tobytes(), "little")
    if length > MAX_HEADER:
        raise FormatError(file.path, "header", f"{length} bytes", f"at most {MAX_HEADER}", FETCH)
    header = _parse(file, file.read(8, length, "header").tobytes())
    header.pop("__metadata__", None)
    if not header:
        raise FormatError(
            file.path, "header", "no tensors", "some", "give a checkpoint with weights"
        )
    base, end = 8 + length, 0
    tensors: dict[str, SourceTensor] = {}
    for name, entry in sorted(header.items(), key=lambda item: _begin(file, *item)):
        tensors[name], first, last = _tensor(file, name, entry, base)
        if first != end:
            raise FormatError(
                file.path, f"tensor {show(name)}", f"its first byte at {first}", f"{end}", FETCH
            )
        end = last
    if base + end != file.size:
        raise FormatError(file.path, "file", f"{file.size} bytes", f"{base + end}", FETCH)
    return Source(file, "safetensors", {name: tensors[name] for name in header})


def _parse(file: InputFile, raw: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            raise ValueError("a name stands twice in one object")
        return found

    def short(digits: str) -> int:
        if len(digits) > 20:
            raise ValueError("a number of more than 64 bits")
        return int(digits)

    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique, parse_int=short)
        if not isinstance(header, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:
        raise FormatError(
            file.path, "header", f"bad JSON ({show(str(error))})", "one JSON object", FETCH
        ) from error
    return header


def _begin(file: InputFile, name: str, entry: Any) -> int:
    """Return where a tensor begins, after checking that its entry has the right fields."""
    good = isinstance(entry, dict) and {"dtype", "shape", "data_offsets"} == set(entry)
    if good:
        shape, offsets = entry["shape"], entry["data_offsets"]
        good = (
            isinstance(shape, list)
            and isinstance(offsets, list)
            and len(offsets) == 2
            and len(shape) <= 8
        )
        good = (
            good
            and all(type(n) is int and 0 <= n <= file.size for n in (*shape, *offsets))
            and 0 not in shape
        )
    if not good:
        expected = "dtype, shape and data_offsets within the file"
        raise FormatError(
            file.path, f"tensor {show(name)}", "another entry in the header", expected, FETCH
        )
    return entry["data_offsets"][0]


def _tensor(
    file: InputFile, name: str, entry: dict[str, Any], base: int
) -> tuple[SourceTensor, int, int]:
    what, kind, shape = f"tensor {show(name)}", entry["dtype"], tuple(entry["shape"])
    first, last = entry["data_offsets"]
    if not isinstance(kind, str) or kind not in STORED:
        fix = "give a checkpoint in one of these types"
        raise UnsupportedError(
            file.path, what, f"dtype {show(kind)}", f"one of {', '.join(STORED)}", fix
        )
    item, width = STORED[kind].itemsize, math.prod(shape[1:])
    if last - first != math.prod(shape) * item or base + last > file.size:
        found = f"bytes {first} to {last} of {file.size - base}"
        raise FormatError(file.path, what, found, f"{math.prod(shape) * item} bytes of them", FETCH)

    def read() -> Iterator[np.ndarray]:
        for start, end in row_blocks(shape):
            values = file.values(
                base + first + start * width * item, (end - start) * width, kind, what
            )
            yield values.reshape((end - start, *shape[1:]) if shape else ())

    return SourceTensor(file.path, name, shape, read), first, last
