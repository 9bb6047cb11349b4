"""Check the table of a .trwkv file, its metadata and tensors, before any data is read.

docs/format.md describes the format.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from ..errors import ArgumentError, FormatError, attempt, show
from .tensors import DTYPES, UPDATE, Tensor

ALIGN = 64
"""Every tensor begins at a multiple of this number of bytes."""

FILE_PAGE = 4096
"""The page of the format, in bytes, whatever the pages of the system are.

The first tensor, and every tensor of at least `BIG` bytes, begins at a multiple of it.
"""

BIG = 1 << 20

VERSIONS = ("v4", "v5.0", "v5.1", "v5.2", "v6", "v7", "v7a", "v8-rc00")
"""The versions of RWKV, as `arch` in the metadata names them."""

FETCH = "fetch the file again"
REPAIR = "it was altered, or its writer is broken: fetch or convert it again"


class Check(NamedTuple):
    """What a metadata key requires of its value, as a test and in words."""

    is_good: Callable[[Any], bool]
    expected: str


def _whole(low: int, high: int) -> Check:
    def is_good(value: Any) -> bool:
        return type(value) is int and low <= value <= high  # isinstance would let bool pass

    return Check(is_good, f"a whole number from {low} to {high}")


def _one_of(*names: str) -> Check:
    def is_good(value: Any) -> bool:
        return isinstance(value, str) and value in names

    return Check(is_good, "one of " + ", ".join(names))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 1000


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_small(value: Any) -> bool:
    return isinstance(value, float) and 0 < value <= 1


def _is_source(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    if not {"name", "sha256"} <= set(value) <= {"name", "sha256", "license"}:
        return False
    return all(map(_is_text, value.values())) and _is_sha256(value["sha256"])


def _is_step(value: Any) -> bool:
    if not isinstance(value, dict) or set(value) != {"technique", "params", "report"}:
        return False
    objects = type(value["params"]) is type(value["report"]) is dict
    return objects and _is_text(value["technique"])


def _is_list_of_steps(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_step, value))


_TEXT = Check(_is_text, "text of 1 to 1000 characters")
_SOURCE = "an object of name, sha256 (64 lower-case hex digits) and perhaps license"
_STEPS = "a list of objects of technique (text), params and report (objects)"

METADATA: dict[str, Check] = {
    "kind": _one_of("model", "state"),
    "arch": _one_of(*VERSIONS),
    "n_layer": _whole(1, 1 << 12),
    "n_embd": _whole(1, 1 << 20),
    "n_ffn": _whole(1, 1 << 22),
    "n_head": _whole(1, 1 << 20),
    "head_size": _whole(1, 1 << 20),
    "vocab_size": _whole(1, 1 << 24),
    "ln_x_eps": Check(_is_small, "a decimal number above 0, at most 1"),
    "dtype": _one_of("f32", "f16", "int8", "int4"),
    "template": _TEXT,
    "source": Check(_is_source, _SOURCE),
    "compression": Check(_is_list_of_steps, _STEPS),
    "created_by": _TEXT,
    "model": Check(_is_sha256, "64 lower-case hex digits"),
    "tokens": _whole(0, 1 << 53),
    "state_version": _whole(1, 1 << 16),
}
_BOTH = ("kind", "arch", "n_layer", "n_embd", "n_head", "head_size")
REQUIRED = {
    "model": (*_BOTH, "n_ffn", "vocab_size", "ln_x_eps", "dtype"),
    "state": (*_BOTH, "model"),
}


def path_name(path: str | os.PathLike[str]) -> str:
    """Return a path as text; raise an ArgumentError if it is not a path."""
    name = attempt(lambda: os.fsdecode(path))
    if name is None:
        found = show(path)
        fix = "give a str or a pathlib.Path"
        sentence = f"a path must be a file name, not {found}"
        raise ArgumentError("call", "path", found, "a file name", fix, sentence)
    return name


def check_metadata(
    path: str, metadata: Any, newer: bool = False, complete: bool = True
) -> dict[str, Any]:
    """Check the type and the range of every metadata key.

    Parameters
    ----------
    path : str
        The name of the file, for messages.
    metadata : object
        What stands in the table; it may be anything.
    newer : bool
        The file's minor version is higher than this program's. It may have keys that are unknown
        here; they are left out.
    complete : bool
        Require every key that a file of this kind needs.

    Returns
    -------
    dict
        The known keys.
    """
    if not isinstance(metadata, dict):
        raise FormatError(path, "metadata", show(metadata), "an object", REPAIR)
    known = {key: value for key, value in metadata.items() if key in METADATA}
    if len(known) < len(metadata) and not newer:
        unknown = show(next(key for key in metadata if key not in METADATA))
        expected = f"one of {', '.join(METADATA)}"
        what = (path, f"metadata {unknown}", "an unknown key", expected, UPDATE)
        raise FormatError(*what, sentence=f"{path}: metadata has an unknown key, {unknown}")
    for key, value in known.items():
        check = METADATA[key]
        if not check.is_good(value):
            raise FormatError(path, f"metadata '{key}'", show(value), check.expected, UPDATE)
    required = REQUIRED.get(known.get("kind", ""), ("kind",))
    missing = [key for key in required if key not in known]
    if missing and complete:
        names = ", ".join(missing)
        what = (path, "metadata", f"no {names}", "every required key", REPAIR)
        raise FormatError(*what, sentence=f"{path}: metadata lacks {names}")
    return known


def check_tensor(path: str, entry: Any, start: int, end: int) -> Tensor:
    """Check one row of the table.

    Parameters
    ----------
    path : str
        The name of the file, for messages.
    entry : object
        What stands in the table; it may be anything.
    start, end : int
        The tensor's bytes must lie in [start, end) of the file.
    """
    if not isinstance(entry, dict) or set(entry) != set(Tensor._fields):
        expected = f"an object of {', '.join(Tensor._fields)}"
        raise FormatError(path, "table", show(entry), expected, REPAIR)
    tensor = Tensor(**entry)

    def require(holds: bool, found: str, expected: str) -> None:
        if not holds:
            raise FormatError(path, f"tensor {show(tensor.name)}", found, expected, REPAIR)

    name, dtype, shape, offset, nbytes, crc32 = tensor
    is_name = isinstance(name, str) and re.fullmatch("[!-~]{1,200}", name) is not None
    require(is_name, "a bad name", "1 to 200 printable ASCII characters without spaces")

    is_dtype = isinstance(dtype, str) and dtype in DTYPES
    require(is_dtype, f"dtype {show(dtype)}", f"one of {', '.join(DTYPES)}")

    require(_is_shape(shape), f"shape {show(shape)}", "1 to 4 whole numbers above 0")

    size = math.prod(shape) * DTYPES[dtype].itemsize
    is_size = type(nbytes) is int and nbytes == size
    require(is_size, f"nbytes {show(nbytes)}", f"{size} for {dtype} {shape}")

    align = alignment(nbytes)
    is_aligned = type(offset) is int and offset % align == 0
    require(is_aligned, f"offset {show(offset)}", f"a multiple of {align}")

    after = f"at least {start}, the end of what comes before"
    require(offset >= start, f"offset {offset}", after)

    stop = offset + nbytes
    require(stop <= end, f"its last byte at {stop}", f"at most {end}, where the table begins")

    is_crc = type(crc32) is int and 0 <= crc32 < 1 << 32
    require(is_crc, f"crc32 {show(crc32)}", "a whole number of 32 bits")
    return tensor._replace(shape=tuple(shape))


def _is_shape(value: Any) -> bool:
    if not isinstance(value, list) or not 1 <= len(value) <= 4:
        return False
    return all(type(size) is int and size > 0 for size in value)


def alignment(nbytes: int) -> int:
    """Return the alignment of a tensor of `nbytes` bytes: its offset is a multiple of it."""
    return FILE_PAGE if nbytes >= BIG else ALIGN


def check_table(
    path: str, raw: bytes, start: int, end: int, newer: bool = False
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Check the JSON text of a table.

    Parameters
    ----------
    path : str
        The name of the file, for messages.
    raw : bytes
        The text.
    start, end : int
        All data lie in [start, end) of the file.
    newer : bool
        The file's minor version is higher than this program's, see `check_metadata`.

    Returns
    -------
    metadata : dict
    tensors : dict of str to Tensor
        In the order of the file.
    """
    table = _parse(path, raw)
    metadata = check_metadata(path, table["metadata"], newer)
    tensors: dict[str, Tensor] = {}
    for entry in table["tensors"]:
        tensor = check_tensor(path, entry, start, end)
        if tensor.name in tensors:
            what = (path, f"tensor '{tensor.name}'", "two of this name", "one", REPAIR)
            raise FormatError(*what, sentence=f"{path}: tensor '{tensor.name}' is listed twice")
        tensors[tensor.name] = tensor
        start = tensor.offset + tensor.nbytes
    return metadata, tensors


def _parse(path: str, raw: bytes) -> dict[str, Any]:
    """Return the JSON object of a table, which has metadata and a list of tensors."""
    try:
        table = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_object,
            parse_int=_number,
            parse_float=_number,
            parse_constant=_number,
        )
        if not _is_plain(table):
            raise ValueError("control characters, or more than 12 levels")
    except (ValueError, RecursionError) as error:
        found = f"bad JSON ({show(str(error))})"
        raise FormatError(path, "table", found, "one UTF-8 JSON object", REPAIR) from error
    is_object = isinstance(table, dict) and set(table) == {"metadata", "tensors"}
    if not is_object or not isinstance(table["tensors"], list):
        expected = "an object of metadata and a list of tensors"
        raise FormatError(path, "table", show(table), expected, REPAIR)
    return table


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _number(text: str) -> Any:
    """Read a JSON number; refuse NaN, infinities, overflow and endless digits."""
    value: float = math.inf
    if len(text) <= 40:  # older Pythons need quadratic time for long integers
        value = int(text) if re.fullmatch("-?[0-9]+", text) else float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is not finite or too long")
    return value


def _is_plain(value: Any, depth: int = 12) -> bool:
    """Tell whether a JSON value nests at most `depth` deep and its texts are clean.

    A clean text has no control codes and no lone surrogates.
    """
    if isinstance(value, str):
        return re.search("[\x00-\x1f\x7f-\x9f\ud800-\udfff]", value) is None
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if not isinstance(value, list):
        return True
    return depth > 0 and all(_is_plain(item, depth - 1) for item in value)
