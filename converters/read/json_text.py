"""Read JSON from strangers: one object, each name once, no endless numbers."""

from __future__ import annotations

import json
from typing import Any

from tinyrwkv.errors import FormatError, show

from .source import FETCH, InputFile


def parse_object(path: str, what: str, raw: bytes) -> dict[str, Any]:
    """Return the object that a JSON text stands for.

    Parameters
    ----------
    path : str
        Where the text is, for messages.
    what : str
        What it is, for messages.
    raw : bytes

    Raises
    ------
    FormatError
        It is not one object in JSON, or too deep, or has a name twice or a number above 64 bits.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a name stands twice in one object")
        return found

    def short(digits: str) -> int:
        if len(digits) > 20:
            raise ValueError("a number of more than 64 bits")
        return int(digits)

    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=unique, parse_int=short)
        if not isinstance(value, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:
        found = f"bad JSON ({show(str(error))})"
        sentence = f"{path}: the {what} is {found}"
        raise FormatError(path, what, found, "one JSON object", FETCH, sentence) from error
    return value


def read_object(file: InputFile, what: str, most: int) -> dict[str, Any]:
    """Return the object in a JSON file of at most `most` bytes.

    Raises
    ------
    FormatError
        The file is longer, or not such a text.
    """
    if file.size > most:
        found, expected = f"{file.size} bytes", f"at most {most}"
        sentence = f"{file.path}: the {what} has {found}; {expected} can be read"
        raise FormatError(file.path, what, found, expected, FETCH, sentence)
    return parse_object(file.path, what, file.read(0, file.size, what).tobytes())
