"""Read GGUF files of llama.cpp: typed settings, a table of tensors, aligned data.

The architectures rwkv6 and rwkv7 can be read.
"""

from __future__ import annotations

import math
import struct
from typing import Any, NamedTuple

from tinyrwkv.errors import FormatError, UnsupportedError, show

from . import ggml
from .source import FETCH, About, InputFile, Source, SourceTensor, check_count, cut

MAGIC = b"GGUF"
ARCHITECTURES = ("rwkv6", "rwkv7")

_KINDS = {0: ggml.F32, 1: ggml.F16, 8: ggml.Q8_0, 30: ggml.BF16}
# Names of the types that can't be read, for messages.
_REFUSED = {
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
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
# Types of settings, as struct writes them; 8 is text, 9 an array of one type.
_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_TEXT, _ARRAY = 8, 9
_KEEP = 4096  # longer texts are skipped
_MAX_SETTINGS = 1 << 12  # a real file has about forty
_MAX_TEXTS = 1 << 20  # in all arrays of settings: a vocabulary has 65,536
_MAX_NAME = 200  # bytes of a tensor's name; llama.cpp allows 63
_FIX = "convert the F16, BF16, F32 or Q8_0 file, or the original .pth"


def read_gguf(file: InputFile) -> Source:
    """Open a .gguf file; the tensors are read when asked for.

    Parameters
    ----------
    file : InputFile

    Returns
    -------
    Source

    Raises
    ------
    FormatError
        The file is cut or damaged.
    UnsupportedError
        Another architecture, or a tensor of a type that can't be read; both by name.
    """
    cursor = _Cursor(file)
    cursor.take(len(MAGIC))
    version = cursor.scalar("<I")
    n_tensors, n_settings = cursor.scalar("<Q"), cursor.scalar("<Q")
    if version not in (2, 3):
        found = f"GGUF version {version}"
        sentence = f"{file.path} has {found}; only 2 and 3, little-endian, can be read"
        raise UnsupportedError(file.path, "header", found, "2 or 3, little-endian", _FIX, sentence)
    check_count(file.path, n_tensors)
    if n_settings > _MAX_SETTINGS:
        found, expected = f"{n_settings} settings", f"at most {_MAX_SETTINGS}"
        sentence = f"{file.path} has {found}; {expected} can be read"
        raise FormatError(file.path, "header", found, expected, FETCH, sentence)
    settings = {cursor.text(): cursor.value(cursor.scalar("<I")) for _ in range(n_settings)}
    about = _about(file, settings)
    entries = [cursor.entry() for _ in range(n_tensors)]
    alignment = settings.get("general.alignment", 32)
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
    return Source(file, "gguf", tensors, about)


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


def _about(file: InputFile, settings: dict[str, Any]) -> About:
    """Return the settings that matter here; refuse architectures that can't be read."""
    arch = settings.get("general.architecture")
    if arch not in ARCHITECTURES:
        fix = "give an RWKV-6 or RWKV-7 file"
        found, expected = show(arch), " or ".join(ARCHITECTURES)
        sentence = f"{file.path} has the architecture {found}, not {expected}"
        raise UnsupportedError(file.path, "architecture", found, expected, fix, sentence)

    def whole(name: str) -> int | None:
        value = settings.get(f"{arch}.{name}")
        return value if isinstance(value, int) else None

    return About(
        architecture=arch,
        head_size=whole("wkv.head_size"),
        rescale_every=whole("rescale_every_n_layers"),
        license=str(settings.get("general.license") or ""),
    )


class _Entry(NamedTuple):
    """A line of the table of tensors; the offset counts from the first byte of data."""

    name: str
    shape: tuple[int, ...]
    kind: ggml.Kind
    offset: int


class _Cursor:
    """Read the fields before the data one after another, never past the end of the file."""

    def __init__(self, file: InputFile) -> None:
        self.file = file
        self.at = 0
        self._texts = 0  # that were skipped
        self._chunk = b""
        self._start = 0  # of the chunk, in the file

    def take(self, nbytes: int) -> bytes:
        # One read for many small fields: the vocabulary alone has 65,536 of them.
        first = self.at - self._start
        if first + nbytes > len(self._chunk):
            self._start, first = self.at, 0
            size = max(nbytes, min(1 << 16, self.file.size - self.at))
            self._chunk = self.file.read(self.at, size, "header").tobytes()
        self.at += nbytes
        return self._chunk[first : first + nbytes]

    def skip(self, nbytes: int) -> None:
        if self.at + nbytes > self.file.size:
            raise cut(self.file.path, "header", self.at + nbytes, self.file.size)
        self.at += nbytes

    def scalar(self, code: str) -> Any:
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def text(self) -> str:
        nbytes = self.scalar("<Q")
        if nbytes > _KEEP:
            self.skip(nbytes)
            return ""
        return self.take(nbytes).decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        """Return a setting; arrays (the vocabulary) are skipped and give None."""
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _TEXT:
            return self.text()
        if kind == _ARRAY:
            self._skip_array()
            return None
        found, expected = f"type {kind}", "0 to 12"
        sentence = f"{self.file.path}: a setting has {found}, but types are {expected}"
        raise FormatError(self.file.path, "settings", found, expected, FETCH, sentence)

    def _skip_array(self) -> None:
        kind = self.scalar("<I")
        count = self.scalar("<Q")
        if kind in _SCALARS:
            self.skip(count * struct.calcsize(_SCALARS[kind]))
        elif kind == _TEXT and self._texts + count <= _MAX_TEXTS:
            self._texts += count
            for _ in range(count):
                self.skip(self.scalar("<Q"))
        else:
            found = f"an array of {count} items of type {kind}"
            expected = f"arrays of numbers, or of texts, {_MAX_TEXTS} in all,"
            sentence = f"{self.file.path}: a setting is {found}; only {expected} can be read"
            raise FormatError(self.file.path, "settings", found, expected, FETCH, sentence)

    def entry(self) -> _Entry:
        """Return the next line of the table of tensors."""
        name = self.text()
        what = f"tensor {show(name)}"
        if len(name) > _MAX_NAME:
            found, expected = f"a name of {len(name)} characters", f"at most {_MAX_NAME}"
            sentence = f"{self.file.path}: {what} has {found}; {expected} can be read"
            raise FormatError(self.file.path, what, found, expected, FETCH, sentence)
        n_dims = self.scalar("<I")
        if not 1 <= n_dims <= 4:
            found, expected = f"{n_dims} dimensions", "1 to 4"
            sentence = f"{self.file.path}: {what} has {found}, not {expected}"
            raise FormatError(self.file.path, what, found, expected, FETCH, sentence)
        shape = tuple(self.scalar("<Q") for _ in range(n_dims))[::-1]  # stored fastest first
        number, offset = self.scalar("<I"), self.scalar("<Q")
        if min(shape) < 1 or math.prod(shape) > self.file.size:
            found, expected = f"shape {shape}", "one that fits the file"
            sentence = f"{self.file.path}: {what} has {found}, which does not fit the file"
            raise FormatError(self.file.path, what, found, expected, FETCH, sentence)
        if number not in _KINDS:
            kind = str(_REFUSED.get(number, number))
            raise ggml.unreadable(self.file, name, kind, "F32, F16, BF16 and Q8_0", _FIX)
        return _Entry(name, shape, _KINDS[number], offset)
