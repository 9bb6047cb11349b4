"""Find the parts of a model that llama.cpp has split into several GGUF files."""

from __future__ import annotations

import os
from collections.abc import Callable

from tinyrwkv.errors import FormatError, show

from .gguf_header import Header, read_header
from .source import FETCH, MAX_PARTS, InputFile

_TOGETHER = "put all parts into one folder, under the names that they had"


def read_parts(header: Header, open_file: Callable[[str], InputFile]) -> list[Header]:
    """Return the headers of all parts of a model, in their order; the first has the settings.

    The other parts lie beside the one given, which may be any of them. Part 1 of 2 of a model is
    ``name-00001-of-00002.gguf``.

    Parameters
    ----------
    header : Header
        Of the file given. A file that is not split is the only part.
    open_file : callable
        Opens a file by its path.

    Returns
    -------
    list of Header

    Raises
    ------
    FormatError
        A part is missing, or is no part of this model.
    """
    path = header.file.path
    count = _whole(header, "split.count", 1)
    if count <= 1:
        return [header]
    number = _whole(header, "split.no", 0) + 1
    if count > MAX_PARTS or number > count:
        found, expected = f"part {number} of {count}", f"one of at most {MAX_PARTS} parts"
        sentence = f"{path} would be {found}, but {expected} can be read"
        raise FormatError(path, "parts", found, expected, FETCH, sentence)
    found = f"part {number} of {count}"
    ending = _ending(number, count)
    if not path.endswith(ending):
        sentence = f"{path} is {found}, but its name does not end in {ending}"
        raise FormatError(path, "parts", found, f"a name with {ending}", _TOGETHER, sentence)
    headers = []
    for other in range(1, count + 1):
        name = path.removesuffix(ending) + _ending(other, count)
        if other == number:
            headers.append(header)
        elif os.path.exists(name):
            headers.append(_other(name, other, count, open_file))
        else:
            sentence = f"{path} is {found}, and part {other} is not beside it: no file {name}"
            raise FormatError(path, "parts", found, f"all {count} parts", _TOGETHER, sentence)
    return headers


def check_total(headers: list[Header], tensors: int) -> None:
    """Raise a FormatError if the parts have another number of tensors than the first one says."""
    path = headers[0].file.path
    total = _whole(headers[0], "split.tensors.count", tensors)
    if len(headers) > 1 and total != tensors:
        found, expected = f"{tensors} tensors", f"{total}"
        sentence = f"{path}: all parts together have {found}, but the model has {total}"
        raise FormatError(path, "parts", found, expected, FETCH, sentence)


def _other(name: str, number: int, count: int, open_file: Callable[[str], InputFile]) -> Header:
    header = read_header(open_file(name))
    found = _whole(header, "split.no", 0) + 1, _whole(header, "split.count", 1)
    if found != (number, count):
        wrong, expected = f"part {found[0]} of {found[1]}", f"part {number} of {count}"
        sentence = f"{name} should be {expected}, but is {wrong}"
        raise FormatError(name, "parts", wrong, expected, FETCH, sentence)
    return header


def _ending(number: int, count: int) -> str:
    return f"-{number:05}-of-{count:05}.gguf"


def _whole(header: Header, key: str, default: int) -> int:
    """Return a setting that is a whole number, not below 0."""
    value = header.settings.get(key, default)
    if type(value) is int and value >= 0:
        return value
    path, found = header.file.path, show(value)
    sentence = f"{path}: the setting '{key}' is {found}, not a whole number"
    raise FormatError(path, f"'{key}'", found, "a whole number", FETCH, sentence)
