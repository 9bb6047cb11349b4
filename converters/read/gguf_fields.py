"""Read the fields of a GGUF file one after another: numbers, texts, and lists of them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from tinyrwkv.errors import FormatError

from .source import FETCH, InputFile, cut

# Types of settings, as struct writes them; 8 is text, 9 a list of one type.
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
_TEXT, _LIST = 8, 9
_KEEP = 4096  # longer texts are skipped
MAX_TEXTS = 1 << 20  # in all lists of settings: a vocabulary has 65,536
LONGEST = 1 << 13
"""Most bytes of a text in a list: a token of 1,024 bytes, written with escapes, has 4,096."""


class Items(NamedTuple):
    """A setting that is a list; it is read when it is needed.

    Attributes
    ----------
    kind : int
        The type of its items.
    length : int
    at : int
        The place of the first item in the file.
    """

    kind: int
    length: int
    at: int


class Cursor:
    """Read fields one after another, never past the end of the file.

    Parameters
    ----------
    file : InputFile
    at : int, optional
        Where to begin.
    """

    def __init__(self, file: InputFile, at: int = 0) -> None:
        self.file = file
        self.at = at
        self._texts = 0  # in the lists so far
        self._chunk = b""
        self._start = at  # of the chunk, in the file

    def take(self, nbytes: int) -> bytes:
        """Return the next bytes."""
        # One read for many small fields: the vocabulary alone has 65,536 of them.
        first = self.at - self._start
        if first < 0 or first + nbytes > len(self._chunk):
            self._start, first = self.at, 0
            size = max(nbytes, min(1 << 16, self.file.size - self.at))
            self._chunk = self.file.read(self.at, size, "header").tobytes()
        self.at += nbytes
        return self._chunk[first : first + nbytes]

    def skip(self, nbytes: int) -> None:
        """Go past the next bytes."""
        if self.at + nbytes > self.file.size:
            raise cut(self.file.path, "header", self.at + nbytes, self.file.size)
        self.at += nbytes

    def scalar(self, code: str) -> Any:
        """Return the next number; `code` is that of `struct`."""
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def text(self) -> str:
        """Return the next text; "" for a long one."""
        nbytes = self.scalar("<Q")
        if nbytes > _KEEP:
            self.skip(nbytes)
            return ""
        return self.take(nbytes).decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        """Return a setting of a type; a list as `Items`."""
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _TEXT:
            return self.text()
        if kind == _LIST:
            items = Items(self.scalar("<I"), self.scalar("<Q"), self.at)
            self._skip_items(items)
            return items
        found, expected = f"type {kind}", "0 to 12"
        sentence = f"{self.file.path}: a setting has {found}, but types are {expected}"
        raise FormatError(self.file.path, "settings", found, expected, FETCH, sentence)

    def _skip_items(self, items: Items) -> None:
        if items.kind in _SCALARS:
            self.skip(items.length * struct.calcsize(_SCALARS[items.kind]))
        elif items.kind == _TEXT and self._texts + items.length <= MAX_TEXTS:
            self._texts += items.length
            for _ in range(items.length):
                self.skip(self.scalar("<Q"))
        else:
            found = f"a list of {items.length} items of type {items.kind}"
            expected = f"lists of numbers, or of texts, {MAX_TEXTS} in all,"
            sentence = f"{self.file.path}: a setting is {found}; only {expected} can be read"
            raise FormatError(self.file.path, "settings", found, expected, FETCH, sentence)


def texts(file: InputFile, items: Items, what: str) -> Iterator[bytes]:
    """Return an iterator over a list of texts, as bytes.

    Parameters
    ----------
    file : InputFile
    items : Items
    what : str
        The name of the setting, for messages.

    Raises
    ------
    FormatError
        The items are no texts, or one is longer than `LONGEST`.
    """
    if items.kind != _TEXT:
        raise _wrong(file, what, f"a list of items of type {items.kind}", "a list of texts")
    return _texts(file, items, what)


def _texts(file: InputFile, items: Items, what: str) -> Iterator[bytes]:
    cursor = Cursor(file, items.at)
    for _ in range(items.length):
        nbytes = cursor.scalar("<Q")
        if nbytes > LONGEST:
            raise _wrong(file, what, f"a text of {nbytes} bytes", f"texts of at most {LONGEST}")
        yield cursor.take(nbytes)


def numbers(file: InputFile, items: Items, what: str, count: int) -> np.ndarray:
    """Return the items of a list of `count` numbers.

    Raises
    ------
    FormatError
        The items are no numbers, or of another count.
    """
    if items.kind not in _SCALARS or items.length != count:
        found = f"a list of {items.length} items of type {items.kind}"
        raise _wrong(file, what, found, f"a list of {count} numbers")
    dtype = np.dtype(_SCALARS[items.kind])
    return file.read(items.at, count * dtype.itemsize, what).view(dtype)


def _wrong(file: InputFile, what: str, found: str, expected: str) -> FormatError:
    sentence = f"{file.path}: {what} has {found}, not {expected}"
    return FormatError(file.path, what, found, expected, FETCH, sentence)
