"""Read a vocabulary in BlinkDL's format, and pack it into three arrays that need no parsing."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from tinyrwkv.errors import ArgumentError, FormatError, show
from tinyrwkv.tokenizer import LONGEST, MOST_IDS, Tokenizer

from ..read.source import InputFile

MAX_FILE = 64 << 20
MAX_LINE = 8192
_FORM = "<id> <Python literal> <length in bytes>"
# The literal is one text or one bytes object, so nothing can nest.
_LINE = re.compile(r"""([0-9]{1,9}) (b?(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")) ([0-9]{1,9})""")
_FIX = "give the vocabulary file that belongs to the model, with --vocab"

WORLD = "rwkv_vocab_v20230424.txt"
"""The file name of BlinkDL's World vocabulary, which the World and G1 models use."""

WORLD_ROWS = 65_536
"""Rows of the embedding of World models; the vocabulary has 65,529 tokens."""


class Vocabulary(NamedTuple):
    """Tokens sorted by their bytes.

    Token k is ``bytes[starts[k]:starts[k + 1]]`` and has the id ``ids[k]``.

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
    """Return the path of the World vocabulary.

    It is looked for beside a checkpoint, then in an installed `rwkv` package.

    Parameters
    ----------
    checkpoint : str or path-like
        A file, or its folder.

    Returns
    -------
    str

    Raises
    ------
    ArgumentError
        It is in neither place.
    """
    place = os.path.abspath(os.fsdecode(checkpoint))
    places = [place if os.path.isdir(place) else os.path.dirname(place)]
    with contextlib.suppress(ImportError, ValueError):
        package = importlib.util.find_spec("rwkv")  # not imported: that would import torch
        if package is not None:
            places += package.submodule_search_locations or ()
    for place in places:
        path = os.path.join(place, WORLD)
        if os.path.isfile(path):
            return path
    searched = " or ".join([places[0], *(places[1:] or ["an installed rwkv package"])])
    found, expected = f"no {WORLD} in {searched}", "the vocabulary of World models"
    sentence = f"there is {found}"
    fix = (
        "put it there from BlinkDL's ChatRWKV on GitHub, or pip install --no-deps rwkv, "
        "or give --vocab FILE"
    )
    raise ArgumentError("arguments", "--vocab world", found, expected, fix, sentence)


def read_vocab(path: str | os.PathLike[str], vocab_size: int) -> Vocabulary:
    """Read and check a vocabulary.

    Parameters
    ----------
    path : str or path-like
        A text file with a token on each line: ``<id> <Python literal> <length in bytes>``.
    vocab_size : int
        Rows of the model's embedding.

    Returns
    -------
    Vocabulary

    Raises
    ------
    FormatError
        A line is malformed, an id or token stands twice, an id has no row in the model, a single
        byte is missing (so some text would have no encoding), most rows of the model have no token,
        or a token or the vocabulary is larger than a tokenizer may have.
    """
    path = os.fsdecode(path)
    _check_count(path, vocab_size)
    lines = ((f"line {number}", line) for number, line in enumerate(_lines(path), 1))
    tokens = ((where, *_parse(path, where, line)) for where, line in lines)
    return _checked(path, tokens, vocab_size)


def pack_vocab(path: str, tokens: Mapping[int, bytes], vocab_size: int) -> Vocabulary:
    """Check and pack the vocabulary that a checkpoint has in it.

    Parameters
    ----------
    path : str
        Of the checkpoint, for messages.
    tokens : mapping of int to bytes
        By id; without those that stand for no text.
    vocab_size : int
        Rows of the model's embedding.

    Returns
    -------
    Vocabulary

    Raises
    ------
    FormatError
        As `read_vocab`.
    """
    _check_count(path, vocab_size)
    listed = ((f"token {id}", token, id) for id, token in tokens.items())
    return _checked(path, listed, vocab_size)


def _check_count(path: str, vocab_size: int) -> None:
    """Refuse a model of more ids than a tokenizer can have."""
    if vocab_size > MOST_IDS:
        found, expected = f"a model of {vocab_size} ids", f"at most {MOST_IDS}"
        sentence = f"{path} is for {found}, but a tokenizer can have {expected}"
        fix = "convert without a vocabulary: the model then takes token ids"
        raise FormatError(path, "vocab_size", found, expected, fix, sentence)


def _checked(path: str, listed: Iterable[tuple[str, bytes, int]], vocab_size: int) -> Vocabulary:
    """Return the vocabulary of tokens, each with where it stands and its id."""
    tokens: dict[bytes, int] = {}
    ids: set[int] = set()
    for where, token, id in listed:
        _check_token(path, where, token)
        if not 0 < id < vocab_size:
            found, expected = f"id {id}", f"1 to {vocab_size - 1}"
            sentence = f"{path}: {where} has {found}, but the model has the ids {expected}"
            raise FormatError(path, where, found, expected, _FIX, sentence)
        if id in ids or token in tokens:
            found = f"id {id}" if id in ids else f"the token {show(token)}"
            found += " for the second time"
            sentence = f"{path}: {where} has {found}"
            raise FormatError(path, where, found, "each once", _FIX, sentence)
        tokens[token] = id
        ids.add(id)
    _check_whole(path, tokens, vocab_size)
    packed = _pack(tokens)
    Tokenizer(packed.bytes, packed.starts, packed.ids, vocab_size, path)  # as loading it checks it
    return packed


def _check_token(path: str, where: str, token: bytes) -> None:
    found = f"a token of {len(token)} bytes"
    if not token:
        sentence = f"{path}: {where} has an empty token"
        raise FormatError(path, where, found, "at least 1", _FIX, sentence)
    if len(token) > LONGEST:
        expected = f"at most {LONGEST}"
        sentence = f"{path}: {where} has {found}, but a token may have {expected}"
        raise FormatError(path, where, found, expected, _FIX, sentence)


def _lines(path: str) -> Iterator[bytes]:
    """Yield the lines of a file without their ends; the first bad one ends the work."""
    with InputFile(path, "a vocabulary") as file:
        if file.size > MAX_FILE:
            found, expected = f"{file.size} bytes", f"at most {MAX_FILE}"
            sentence = f"{file.path} has {found}, but a vocabulary {expected}"
            raise FormatError(file.path, "file", found, expected, _FIX, sentence)
        data = file.read(0, file.size, "file").tobytes()
    for line in io.BytesIO(data.removeprefix(b"\xef\xbb\xbf")):
        yield line.removesuffix(b"\n").rstrip(b"\r")


def _parse(path: str, where: str, line: bytes) -> tuple[bytes, int]:
    """Return the token and id of a line."""
    if len(line) > MAX_LINE:
        found, expected = f"{len(line)} bytes", f"at most {MAX_LINE}"
        sentence = f"{path}: {where} has {found}; {expected} can be read"
        raise FormatError(path, where, found, expected, _FIX, sentence)
    try:
        match = _LINE.fullmatch(line.decode("utf-8"))
        if match is None:
            raise ValueError("another form")
        value = ast.literal_eval(match[2])
        token = value if isinstance(value, bytes) else value.encode("utf-8")
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        found = show(line)
        sentence = f"{path}: {where} is {found}, not {_FORM}"
        raise FormatError(path, where, found, _FORM, _FIX, sentence) from error
    if token and len(token) != int(match[3]):
        found = f"a token of {len(token)} bytes"
        sentence = f"{path}: {where} has {found}, but gives its length as {match[3]}"
        raise FormatError(path, where, found, match[3], _FIX, sentence)
    return token, int(match[1])


def _check_whole(path: str, tokens: dict[bytes, int], vocab_size: int) -> None:
    """Refuse a vocabulary with which some text has no encoding, or of another model."""
    missing = [byte for byte in range(256) if bytes([byte]) not in tokens]
    if missing:
        found = f"no token for the byte {missing[0]:#04x}"
        if len(missing) > 1:
            found += f" and {len(missing) - 1} others"
        expected = "all 256 single bytes, so that any text has an encoding"
        sentence = f"{path} has {found}, so some text has no encoding"
        raise FormatError(path, "tokens", found, expected, _FIX, sentence)
    most = max(tokens.values())
    if most < vocab_size // 2:
        found, expected = f"ids up to {most}", f"most of the {vocab_size} rows of the model"
        sentence = f"{path} has {found}, but the model has {vocab_size} rows"
        raise FormatError(path, "tokens", found, expected, _FIX, sentence)


def _pack(tokens: dict[bytes, int]) -> Vocabulary:
    order = sorted(tokens)
    starts = np.zeros(len(order) + 1, np.int32)
    np.cumsum([len(token) for token in order], out=starts[1:])
    ids = np.array([tokens[token] for token in order], np.int32)
    return Vocabulary(np.frombuffer(b"".join(order), np.uint8), starts, ids)
