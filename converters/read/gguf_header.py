"""Read what stands before the data of a GGUF file: its settings, and the table of its tensors."""

from __future__ import annotations

from typing import Any, NamedTuple

from tinyrwkv.errors import FormatError, UnsupportedError, show

from . import ggml, ggml_k
from .gguf_fields import Cursor
from .source import FETCH, InputFile, SourceTensor, check_count

MAGIC = b"GGUF"

_KINDS = {
    0: ggml.F32,
    1: ggml.F16,
    2: ggml.Q4_0,
    3: ggml.Q4_1,
    6: ggml.Q5_0,
    7: ggml.Q5_1,
    8: ggml.Q8_0,
    10: ggml_k.Q2_K,
    11: ggml_k.Q3_K,
    12: ggml_k.Q4_K,
    13: ggml_k.Q5_K,
    14: ggml_k.Q6_K,
    30: ggml.BF16,
}
# Names of the types that can't be read, for messages.
_REFUSED = {
    9: "Q8_1",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
}
_READABLE = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and Q2_K to Q6_K"
MAX_SETTINGS = 1 << 12  # a real file has about forty
MAX_NAME = 200  # characters of a tensor's name; llama.cpp allows 63
_FIX = f"convert a file that has only {_READABLE}, or the original .pth"


class Header(NamedTuple):
    """The beginning of a GGUF file.

    Attributes
    ----------
    file : InputFile
    settings : dict
        By name: numbers, texts, and lists as `Items`.
    n_tensors : int
    at : int
        The place of the table of tensors in the file.
    """

    file: InputFile
    settings: dict[str, Any]
    n_tensors: int
    at: int


def read_header(file: InputFile) -> Header:
    """Read the settings of a GGUF file.

    Raises
    ------
    FormatError
        The file is cut or damaged.
    UnsupportedError
        The version of the format can't be read.
    """
    cursor = Cursor(file)
    cursor.take(len(MAGIC))
    version = cursor.scalar("<I")
    n_tensors, n_settings = cursor.scalar("<Q"), cursor.scalar("<Q")
    if version not in (2, 3):
        found, expected = f"GGUF version {version}", "2 or 3, little-endian"
        sentence = f"{file.path} has {found}; only 2 and 3, little-endian, can be read"
        fix = "convert a file of a newer llama.cpp, or the original .pth"
        raise UnsupportedError(file.path, "header", found, expected, fix, sentence)
    check_count(file.path, n_tensors)
    if n_settings > MAX_SETTINGS:
        found, expected = f"{n_settings} settings", f"at most {MAX_SETTINGS}"
        sentence = f"{file.path} has {found}; {expected} can be read"
        raise FormatError(file.path, "header", found, expected, FETCH, sentence)
    settings: dict[str, Any] = {}
    for _ in range(n_settings):
        key = cursor.text()
        if key in settings:
            what, sentence = f"the setting {show(key)}", f"{file.path} has two settings {show(key)}"
            raise FormatError(file.path, what, "two of this name", "one", FETCH, sentence)
        settings[key] = cursor.value(cursor.scalar("<I"))
    return Header(file, settings, n_tensors, cursor.at)


def read_table(header: Header) -> dict[str, SourceTensor]:
    """Return the tensors of a GGUF file by name; they are read when asked for.

    Raises
    ------
    FormatError
        The table is damaged, or a tensor lies outside the file or on another one.
    UnsupportedError
        A tensor is of a type that can't be read.
    """
    file = header.file
    cursor = Cursor(file, header.at)
    entries = [_entry(cursor) for _ in range(header.n_tensors)]
    alignment = header.settings.get("general.alignment", 32)
    if type(alignment) is not int or not 1 <= alignment <= 1 << 16:
        found, expected = show(alignment), "a small whole number"
        sentence = f"{file.path}: the alignment is {found}, not {expected}"
        raise FormatError(file.path, "alignment", found, expected, FETCH, sentence)
    base = -(-cursor.at // alignment) * alignment
    tensors: dict[str, SourceTensor] = {}
    for name, shape, kind, offset in entries:
        if name in tensors:
            raise ggml.same_name(file, name)
        tensors[name] = ggml.tensor(file, name, kind, shape, base + offset)
    _check_apart(file, entries)
    return tensors


class _Entry(NamedTuple):
    """A line of the table of tensors; the offset counts from the first byte of data."""

    name: str
    shape: tuple[int, ...]
    kind: ggml.Kind
    offset: int


def _entry(cursor: Cursor) -> _Entry:
    """Return the next line of the table of tensors."""
    path = cursor.file.path
    name = cursor.text()
    what = f"tensor {show(name)}"
    if len(name) > MAX_NAME:
        found, expected = f"a name of {len(name)} characters", f"at most {MAX_NAME}"
        sentence = f"{path}: {what} has {found}; {expected} can be read"
        raise FormatError(path, what, found, expected, FETCH, sentence)
    n_dims = cursor.scalar("<I")
    if not 1 <= n_dims <= 4:
        found, expected = f"{n_dims} dimensions", "1 to 4"
        sentence = f"{path}: {what} has {found}, not {expected}"
        raise FormatError(path, what, found, expected, FETCH, sentence)
    shape = tuple(cursor.scalar("<Q") for _ in range(n_dims))[::-1]  # stored fastest first
    number, offset = cursor.scalar("<I"), cursor.scalar("<Q")
    if min(shape) < 1:
        sentence = f"{path}: {what} has shape {shape}, but sizes are above 0"
        raise FormatError(path, what, f"shape {shape}", "sizes above 0", FETCH, sentence)
    if number not in _KINDS:
        kind = str(_REFUSED.get(number, number))
        raise ggml.unreadable(cursor.file, name, kind, _READABLE, _FIX)
    return _Entry(name, shape, _KINDS[number], offset)


def _check_apart(file: InputFile, entries: list[_Entry]) -> None:
    """Refuse tensors that overlap: a small file could stand for any number of large ones."""
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.offset):
        if entry.offset < end:
            what = f"tensor {show(entry.name)}"
            found, expected = f"its first byte at {entry.offset}", f"at least {end}"
            sentence = f"{file.path}: {what} overlaps the tensor before it"
            raise FormatError(file.path, what, found, expected, FETCH, sentence)
        end = entry.offset + ggml.size_of(file, entry.name, entry.kind, entry.shape)
