"""Recognise texts in other encodings than UTF-8, so that they are refused by name."""

from __future__ import annotations

import codecs

from ..errors import FormatError

MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16, whose mark is its beginning
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}

SEEN = 8
"""Bytes that are enough to recognise an encoding."""


def refuse_utf16(name: str, data: bytes) -> None:
    """Refuse a text that is in UTF-16 or UTF-32.

    Parameters
    ----------
    name : str
        Of the file.
    data : bytes
        Its beginning.

    Raises
    ------
    FormatError
    """
    found = _encoding(data[:SEEN])
    if found:
        fix = f"convert it first: iconv -f {found} -t UTF-8"
        sentence = f"{name} is a text in {found}, not in UTF-8"
        raise FormatError(name, "text", found, "UTF-8", fix, sentence)


def _encoding(data: bytes) -> str:
    """Return the encoding that a text begins like; "" if that may be UTF-8."""
    for mark, name in MARKS.items():
        if data.startswith(mark):
            return name
    if len(data) == SEEN:  # without a mark, every second byte of Latin letters is zero
        if not any(data[1::2]) and all(data[::2]):
            return "UTF-16LE"
        if not any(data[::2]) and all(data[1::2]):
            return "UTF-16BE"
    return ""
