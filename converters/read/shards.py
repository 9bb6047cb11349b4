"""Read a checkpoint in several files, with an index that tells which tensor is in which file."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from tinyrwkv.errors import FormatError, show

from .json_text import read_object
from .source import FETCH, MAX_PARTS, InputFile, Source, SourceTensor, check_count

MAX_INDEX = 8 << 20  # bytes; that of an RWKV model of 14 billion weights has 100 kB
INDEX = ".index.json"
"""How the names of indexes end."""

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.[a-z]+)$")
_TOGETHER = "put the index and all its files into one folder"


def read_shards(
    index: InputFile, open_file: Callable[[str], InputFile], read: Callable[[InputFile], Source]
) -> Source:
    """Open all files of a checkpoint that has an index.

    Parameters
    ----------
    index : InputFile
        A JSON file such as ``model.safetensors.index.json``. The files that it names lie beside it.
    open_file : callable
        Opens a file by its path.
    read : callable
        Reads one of the files.

    Returns
    -------
    Source

    Raises
    ------
    FormatError
        The index is damaged, a file is missing, or the files have other tensors than the index
        says.
    """
    places = _weight_map(index)
    tensors: dict[str, SourceTensor] = {}
    files: list[InputFile] = []
    kinds = set()
    for name in sorted(set(places.values())):
        path = os.path.join(os.path.dirname(index.path), name)
        if not os.path.exists(path):
            sentence = f"{index.path} names the file {name}, which is not beside it"
            raise FormatError(index.path, "index", "nothing", name, _TOGETHER, sentence)
        part = read(open_file(path))
        _check_part(index, places, name, part)
        tensors |= part.tensors
        files += part.files
        kinds.add(part.kind)
    missing = [name for name in places if name not in tensors]
    if missing:
        what, place = f"tensor {show(missing[0])}", places[missing[0]]
        sentence = f"{index.path} says that {what} is in {place}, but it is not"
        raise FormatError(index.path, what, "nothing", f"one in {place}", FETCH, sentence)
    if len(kinds) > 1:
        found = " and ".join(sorted(kinds))
        sentence = f"{index.path} names files of several formats: {found}"
        raise FormatError(index.path, "index", found, "one format", _TOGETHER, sentence)
    return Source(index.path, files, kinds.pop(), tensors)


def index_of(path: str) -> str | None:
    """Return the index that a part of a checkpoint belongs to; None for a whole checkpoint.

    Parameters
    ----------
    path : str
        Part 1 of 2 is called ``model-00001-of-00002.safetensors``.

    Raises
    ------
    FormatError
        It is a part, and the index is not beside it.
    """
    match = _PART.match(path)
    if match is None or int(match[3]) <= 1:
        return None
    index = match[1] + match[4] + INDEX
    if os.path.exists(index):
        return index
    found = f"part {int(match[2])} of {int(match[3])}"
    sentence = f"{path} is {found}, and the index is not beside it: no file {index}"
    raise FormatError(path, "parts", found, "an index beside it", _TOGETHER, sentence)


def _weight_map(index: InputFile) -> dict[str, str]:
    """Return the file name of every tensor."""
    content = read_object(index, "index", MAX_INDEX)
    places: Any = content.get("weight_map")
    if not isinstance(places, dict) or not places or not all(map(_is_name, places.values())):
        found, expected = "another form", "a weight_map of tensors and names of files beside it"
        sentence = f"{index.path}: the index does not have {expected}"
        raise FormatError(index.path, "index", found, expected, FETCH, sentence)
    check_count(index.path, len(places))
    count = len(set(places.values()))
    if count > MAX_PARTS:
        found, expected = f"{count} files", f"at most {MAX_PARTS}"
        sentence = f"{index.path} names {found}; {expected} can be read"
        raise FormatError(index.path, "index", found, expected, FETCH, sentence)
    return places


def _is_name(value: object) -> bool:
    """Tell whether a value is the plain name of a file, which leads to no other folder."""
    is_text = isinstance(value, str) and value not in ("", ".", "..") and "\0" not in value
    return is_text and "\\" not in value and os.path.basename(value) == value  # type: ignore


def _check_part(index: InputFile, places: dict[str, str], name: str, part: Source) -> None:
    """Refuse a file that has tensors which the index does not know there."""
    for tensor in part.tensors:
        if places.get(tensor) != name:
            what, place = f"tensor {show(tensor)}", places.get(tensor, "no file")
            sentence = f"{part.path} has {what}, but {index.path} says that it is in {place}"
            raise FormatError(part.path, what, name, place, FETCH, sentence)
