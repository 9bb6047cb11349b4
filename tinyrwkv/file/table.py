"""Check what the header and the table of a .trwkv file say, before any of its data is read (docs/format.md)."""

from __future__ import annotations

import json
import math
import os
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..errors import ArgumentError, ChecksumError, FormatError, UnsupportedError

MAGIC, MAJOR, MINOR = b"\x93TRWKV\r\n", 1, 0
ALIGN, PAGE, BIG = 64, 4096, 1 << 20  # a tensor of BIG bytes or more begins on a page
MAX_TABLE = (
    2 << 20
)  # parsed JSON takes up to 27 times its text: a hostile table must not fill a small board
_CODES = {"f32": "<f4", "f16": "<f2", "i8": "i1", "u8": "u1", "i32": "<i4"}
DTYPES: dict[str, np.dtype[Any]] = {name: np.dtype(code) for name, code in _CODES.items()}
# magic, major, minor, flags, table_offset, table_bytes, data_offset, file_bytes, crc32(table), 0; then crc32(the above)
_HEADER, HEADER_BYTES = struct.Struct("<8sHHIQQQQIQ"), 64

FETCH = "fetch the file again"
REPAIR = "it was altered, or its writer is broken: fetch or convert it again"
UPDATE = "update tinyrwkv, or convert the model again with this version"

Check = tuple[Callable[[Any], bool], str]


class Tensor(NamedTuple):
    """One row of the table: `nbytes` bytes at `offset` of the file are the array, C order, little-endian."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    crc32: int


def _whole(low: int, high: int) -> Check:
    return (
        lambda v: type(v) is int and low <= v <= high,
        f"a whole number from {low} to {high}",
    )  # bool is an int too


def _one_of(*names: str) -> Check:
    return lambda v: isinstance(v, str) and v in names, "one of " + ", ".join(names)


def _is_text(v: Any) -> bool:
    return isinstance(v, str) and 0 < len(v) <= 1000


def _is_sha256(v: Any) -> bool:
    return isinstance(v, str) and re.fullmatch("[0-9a-f]{64}", v) is not None


def _is_source(v: Any) -> bool:
    keyed = isinstance(v, dict) and {"name", "sha256"} <= set(v) <= {"name", "sha256", "license"}
    return keyed and all(map(_is_text, v.values())) and _is_sha256(v["sha256"])


def _is_steps(v: Any) -> bool:
    keyed = isinstance(v, list) and all(
        isinstance(s, dict) and set(s) == {"technique", "params", "report"} for s in v
    )
    return keyed and all(
        _is_text(s["technique"]) and type(s["params"]) is type(s["report"]) is dict for s in v
    )


_TEXT: Check = (_is_text, "text of 1 to 1000 characters")
METADATA: dict[str, Check] = {
    "kind": _one_of("model", "state"),
    "arch": _one_of("v4", "v5.0", "v5.1", "v5.2", "v6", "v7"),
    "n_layer": _whole(1, 1 << 12),
    "n_embd": _whole(1, 1 << 20),
    "n_ffn": _whole(1, 1 << 22),
    "n_head": _whole(1, 1 << 20),
    "head_size": _whole(1, 1 << 20),
    "vocab_size": _whole(1, 1 << 24),
    "ln_x_eps": (
        lambda v: isinstance(v, float) and 0 < v <= 1,
        "a decimal number above 0, at most 1",
    ),
    "dtype": _one_of("f32", "f16", "int8"),
    "template": _TEXT,
    "source": (
        _is_source,
        "an object of name, sha256 (64 lower-case hex digits) and perhaps license",
    ),
    "compression": (
        _is_steps,
        "a list of objects of technique (text), params and report (objects)",
    ),
    "created_by": _TEXT,
    "model": (_is_sha256, "64 lower-case hex digits"),
    "tokens": _whole(0, 1 << 53),
}
_BOTH = ("kind", "arch", "n_layer", "n_embd", "n_head", "head_size")
REQUIRED = {
    "model": (*_BOTH, "n_ffn", "vocab_size", "ln_x_eps", "dtype"),
    "state": (*_BOTH, "model"),
}


def show(value: Any) -> str:
    """Return a value as short printable ASCII, for messages."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."


def path_name(path: str | os.PathLike[str]) -> str:
    """Return a path as text; ArgumentError where it is none."""
    try:
        return os.fsdecode(path)
    except TypeError:
        raise ArgumentError(
            "call", "path", show(path), "a file name", "give a str or a pathlib.Path"
        ) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _number(text: str) -> float:
    """Read a JSON number; refuse NaN, infinities, overflow and endless digits (quadratic in older Pythons)."""
    value = (
        math.inf if len(text) > 40 else int(text) if re.fullmatch("-?[0-9]+", text) else float(text)
    )
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is not finite or too long")
    return value


def _plain(value: Any, depth: int = 12) -> bool:
    """Tell whether a value nests at most `depth` deep, all text in it free of control codes and lone surrogates."""
    if isinstance(value, str):
        return re.search("[\x00-\x1f\x7f-\x9f\ud800-\udfff]", value) is None
    if isinstance(value, dict):
        value = [*value, *value.values()]
    return not isinstance(value, list) or (depth > 0 and all(_plain(v, depth - 1) for v in value))


def check_metadata(
    path: str, metadata: Any, minor: int = MINOR, required: bool = True
) -> dict[str, Any]:
    """Return the known keys of `metadata`, each of the right type and range; only a newer minor may have others."""
    if not isinstance(metadata, dict):
        raise FormatError(path, "metadata", show(metadata), "an object", REPAIR)
    known = {key: value for key, value in metadata.items() if key in METADATA}
    if len(known) < len(metadata) and minor <= MINOR:
        unknown = show(next(key for key in metadata if key not in METADATA))
        raise FormatError(
            path, f"metadata {unknown}", "an unknown key", f"one of {', '.join(METADATA)}", UPDATE
        )
    for key, value in known.items():
        good, expected = METADATA[key]
        if not good(value):
            raise FormatError(path, f"metadata '{key}'", show(value), expected, UPDATE)
    missing = [key for key in REQUIRED.get(known.get("kind", ""), ("kind",)) if key not in known]
    if missing and required:
        raise FormatError(
            path, "metadata", f"no {', '.join(missing)}", "every required key", REPAIR
        )
    return known


def check_tensor(path: str, entry: Any, start: int, end: int) -> Tensor:
    """Return a row of the table as a Tensor; its bytes must lie in [start, end) of the file."""
    if not isinstance(entry, dict) or set(entry) != set(Tensor._fields):
        raise FormatError(
            path, "table", show(entry), f"an object of {', '.join(Tensor._fields)}", REPAIR
        )
    tensor = Tensor(**entry)
    name, dtype, shape, offset, nbytes, crc = tensor

    def need(good: bool, found: str, expected: str) -> None:
        if not good:
            raise FormatError(path, f"tensor {show(name)}", found, expected, REPAIR)

    named = isinstance(name, str) and re.fullmatch("[!-~]{1,200}", name) is not None
    need(named, "this name", "1 to 200 printable ASCII characters without spaces")
    need(
        isinstance(dtype, str) and dtype in DTYPES,
        f"dtype {show(dtype)}",
        f"one of {', '.join(DTYPES)}",
    )
    sized = (
        isinstance(shape, list)
        and 1 <= len(shape) <= 4
        and all(type(n) is int and n > 0 for n in shape)
    )
    need(sized, f"shape {show(shape)}", "1 to 4 whole numbers above 0")
    size = math.prod(shape) * DTYPES[dtype].itemsize
    need(
        type(nbytes) is int and nbytes == size,
        f"nbytes {show(nbytes)}",
        f"{size} for {dtype} {shape}",
    )
    align = PAGE if nbytes >= BIG else ALIGN
    need(
        type(offset) is int and offset % align == 0,
        f"offset {show(offset)}",
        f"a multiple of {align}",
    )
    need(offset >= start, f"offset {offset}", f"at least {start}, the end of what comes before")
    need(
        offset + nbytes <= end,
        f"its last byte at {offset + nbytes}",
        f"at most {end}, where the table begins",
    )
    need(type(crc) is int and 0 <= crc < 1 << 32, f"crc32 {show(crc)}", "a whole number of 32 bits")
    return tensor._replace(shape=tuple(shape))


def check_table(
    path: str, raw: bytes, minor: int, start: int, end: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the metadata and the tensors of the JSON text `raw`; all data lie in [start, end) of the file."""
    try:
        hooks: Any = {"parse_int": _number, "parse_float": _number, "parse_constant": _number}
        table = json.loads(raw.decode("utf-8"), object_pairs_hook=_object, **hooks)
        if not _plain(table):
            raise ValueError("control characters, or more than 12 levels")
    except (ValueError, RecursionError) as error:
        raise FormatError(
            path, "table", f"bad JSON ({show(str(error))})", "one UTF-8 JSON object", REPAIR
        ) from error
    if (
        not isinstance(table, dict)
        or set(table) != {"metadata", "tensors"}
        or not isinstance(table["tensors"], list)
    ):
        raise FormatError(
            path, "table", show(table), "an object of metadata and a list of tensors", REPAIR
        )
    metadata = check_metadata(path, table["metadata"], minor)
    tensors: dict[str, Tensor] = {}
    for entry in table["tensors"]:
        tensor = check_tensor(path, entry, start, end)
        if tensor.name in tensors:
            raise FormatError(path, f"tensor '{tensor.name}'", "two of this name", "one", REPAIR)
        tensors[tensor.name] = tensor
        start = tensor.offset + tensor.nbytes
    return metadata, tensors


def _check_magic(path: str, head: bytes) -> None:
    """Refuse what does not begin like a .trwkv file, and say what it looks like."""
    if head and MAGIC.startswith(head[: len(MAGIC)]):
        return
    found, fix = (
        f"the first bytes {head[:8]!r}",
        "give a .trwkv file; checkpoints go through tinyrwkv-convert first",
    )
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        found, fix = "an empty file", FETCH
    elif text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        found, fix = (
            "what looks like an HTML page",
            "download the file itself, not the page about it",
        )
    elif text.startswith(b"version https://git-lfs"):
        found, fix = "a Git LFS pointer", "fetch the file it stands for: git lfs pull"
    elif b"TRWKV" in head[:16]:
        found, fix = (
            f"{found} (changed as if it were text)",
            "copy or download it again in binary mode",
        )
    raise FormatError(path, "header", found, f"the first bytes {MAGIC!r}", fix)


def make_header(raw: bytes, table_offset: int) -> bytes:
    """Return the header of a file whose data begin at PAGE and whose table is `raw` at `table_offset`."""
    end = table_offset + len(raw)
    head = _HEADER.pack(
        MAGIC, MAJOR, MINOR, 0, table_offset, len(raw), PAGE, end, zlib.crc32(raw), 0
    )
    return head + zlib.crc32(head).to_bytes(4, "little")


def check_header(path: str, head: bytes, size: int) -> tuple[int, int, int, int]:
    """Return minor, crc32(table), data_offset and table_offset from the first bytes of a file of `size` bytes."""
    _check_magic(path, head)
    cut = f"the download or copy was cut: {FETCH}"
    if size < HEADER_BYTES:
        raise FormatError(path, "file", f"{size} bytes", f"at least {HEADER_BYTES}", cut)
    _, major, minor, flags, table, table_bytes, data, file_bytes, crc, zero = _HEADER.unpack(
        head[: _HEADER.size]
    )
    if zlib.crc32(head[: _HEADER.size]) != int.from_bytes(
        head[_HEADER.size : HEADER_BYTES], "little"
    ):
        raise ChecksumError(
            path, "header", "bytes that differ from their CRC-32", "unchanged bytes", FETCH
        )
    if major != MAJOR or flags or zero:
        found = f"format {major}.{minor}, flags {flags}, reserved {zero}"
        raise UnsupportedError(
            path, "header", found, f"format {MAJOR}, flags 0, reserved 0", UPDATE
        )
    if size != file_bytes:
        fix = cut if size < file_bytes else f"something was appended: {FETCH}"
        raise FormatError(path, "file", f"{size} bytes", f"{file_bytes}", fix)
    if table_bytes > MAX_TABLE:
        raise FormatError(
            path, "header", f"a table of {table_bytes} bytes", f"at most {MAX_TABLE}", REPAIR
        )
    if (
        data % PAGE
        or table % ALIGN
        or not PAGE <= data <= table
        or table + table_bytes != file_bytes
    ):
        found = f"data at {data}, a table of {table_bytes} bytes at {table}"
        raise FormatError(
            path, "header", found, f"aligned data, then the table up to byte {file_bytes}", REPAIR
        )
    return minor, crc, data, table
