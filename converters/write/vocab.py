"""Read a vocabulary in BlinkDL's format, and pack it into three arrays that need no parsing."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import re
from typing import NamedTuple

import numpy as np

from tinyrwkv.errors import ArgumentError, FormatError
from tinyrwkv.file.table import show

from ..read.source import InputFile

MAX_FILE, MAX_LINE = 64 << 20, 8192
# <id> <Python literal of text or bytes> <length in bytes>; one literal, so nothing can nest
_LINE = re.compile(r"""([0-9]{1,9}) (b?(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")) ([0-9]{1,9})""")
_FIX = "give the vocabulary file that belongs to the model"

WORLD = "rwkv_vocab_v20230424.txt"
"""The file name of BlinkDL's World vocabulary, that of the World and G1 models."""


class Vocabulary(NamedTuple):
    """Tokens sorted by their bytes: token k is ``bytes[starts[k]:starts[k + 1]]`` and has the id ``ids[k]``.

    Attributes
    ----------
    bytes : ndarray, uint8, shape (total,)
    starts : ndarray, int32, shape (n + 1,)
    ids : ndarray, int32, shape (n,)
    """

    bytes: np.ndarray
    starts: np.ndarray
    ids: np.ndarray


def find_world(checkpoint: str | os.PathLike[str]) -> str:
    """Return the path of the World vocabulary: beside a checkpoint, or in an installed `rwkv` package.

    Parameters
    ----------
    checkpoint : str or path-like

    Returns
    -------
    str

    Raises
    ------
    ArgumentError
        It is in neither place.
    """
    places = [os.path.dirname(os.path.abspath(os.fsdecode(checkpoint)))]
    with contextlib.suppress(ImportError, ValueError):
        package = importlib.util.find_spec("rwkv")  # not imported: that would import torch
        places += (package and package.submodule_search_locations) or ()
    for place in places:
        if os.path.isfile(path := os.path.join(place, WORLD)):
            return path
    searched = " or ".join([places[0], *(places[1:] or ["an installed rwkv package"])])
    fix = "put it there from BlinkDL's ChatRWKV on GitHub, or pip install --no-deps rwkv, or give --vocab FILE"
    raise ArgumentError(
        "arguments",
        "--vocab world",
        f"no {WORLD} in {searched}",
        "the vocabulary of World models",
        fix,
    )


def read_vocab(path: str | os.PathLike[str], vocab_size: int) -> Vocabulary:
    """Read and check a vocabulary.

    Parameters
    ----------
    path : str or path-like
        A text file, a token a line: ``<id> <Python literal> <length in bytes>``.
    vocab_size : int
        Rows of the model's embedding.

    Returns
    -------
    Vocabulary

    Raises
    ------
    FormatError
        A line is malformed, an id or token stands twice, an id has no row in the model, a single byte is missing
        (so some text would have no encoding), or most rows of the model have no token.
    """
    file = InputFile(path, "a vocabulary")
    try:
        if file.size > MAX_FILE:
            raise FormatError(file.path, "file", f"{file.size} bytes", f"at most {MAX_FILE}", _FIX)
        lines = file.read(0, file.size, "file").tobytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    finally:
        file.close()
    tokens: dict[bytes, int] = {}
    ids: set[int] = set()
    for number, line in enumerate(lines, 1):
        if not (line := line.rstrip(b"\r")) and number == len(lines):
            break
        token, one = _parse(file.path, number, line)
        if not 0 < one < vocab_size:
            found, expected = (
                f"id {one}",
                f"1 to {vocab_size - 1}, the rows of the model; 0 ends a document",
            )
            raise FormatError(file.path, f"line {number}", found, expected, _FIX)
        if one in ids or token in tokens:
            found = f"id {one}" if one in ids else f"the token {show(token)}"
            raise FormatError(
                file.path, f"line {number}", f"{found} for the second time", "each once", _FIX
            )
        tokens[token] = one
        ids.add(one)
    _check_whole(file.path, tokens, vocab_size)
    return _pack(tokens)


def _parse(path: str, number: int, line: bytes) -> tuple[bytes, int]:
    """Return the token and id of a line."""
    where, expected = f"line {number}", "<id> <Python literal> <length in bytes>"
    if len(line) > MAX_LINE:
        raise FormatError(path, where, f"{len(line)} bytes", f"at most {MAX_LINE}", _FIX)
    try:
        match = _LINE.fullmatch(line.decode("utf-8"))
        if match is None:
            raise ValueError("another form")
        value = ast.literal_eval(match[2])
        token = value if isinstance(value, bytes) else value.encode("utf-8")
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise FormatError(path, where, show(line), expected, _FIX) from error
    if len(token) != int(match[3]) or not token:
        raise FormatError(
            path, where, f"a token of {len(token)} bytes", f"{match[3]}, and at least 1", _FIX
        )
    return token, int(match[1])


def _check_whole(path: str, tokens: dict[bytes, int], vocab_size: int) -> None:
    missing = [byte for byte in range(256) if bytes([byte]) not in tokens]
    if missing:
        found = f"no token for the byte {missing[0]:#04x}" + (
            f" and {len(missing) - 1} others" if missing[1:] else ""
        )
        raise FormatError(
            path, "tokens", found, "all 256 single bytes, so that any text has an encoding", _FIX
        )
    if max(tokens.values()) < vocab_size // 2:
        found = f"ids up to {max(tokens.values())}"
        raise FormatError(
            path, "tokens", found, f"most of the {vocab_size} rows of the model", _FIX
        )


def _pack(tokens: dict[bytes, int]) -> Vocabulary:
    order = sorted(tokens)
    starts = np.zeros(len(order) + 1, np.int32)
    np.cumsum([len(token) for token in order], out=starts[1:])
    ids = np.array([tokens[token] for token in order], np.int32)
    return Vocabulary(np.frombuffer(b"".join(order), np.uint8), starts, ids)
