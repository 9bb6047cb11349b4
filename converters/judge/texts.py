"""Texts to judge and calibrate models with: read, split into documents, cut into windows."""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Iterator

from tinyrwkv.cli.encodings import refuse_utf16
from tinyrwkv.errors import FormatError, os_errors
from tinyrwkv.tokenizer import LONGEST, Tokenizer

WINDOW = 512
"""Tokens of a window."""

END_OF_DOCUMENT = 0
"""The token between documents."""


def read_text(path: str) -> str:
    r"""Return the text of a file, with ``\n`` for ``\r\n``.

    A copy of a text with the line ends of Windows is the same text: it is fitted to and judged by
    as the other is.

    Raises
    ------
    FormatError
        The file can't be read or is not UTF-8.
    """
    with os_errors(path, "read"):
        data = pathlib.Path(path).read_bytes()
    refuse_utf16(path, data)
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        found = f"byte 0x{data[error.start]:02x} at {error.start:,}"
        sentence = f"{path} is not a text in UTF-8: it has {found}"
        fix = "give a text file in UTF-8"
        raise FormatError(path, "text", found, "UTF-8", fix, sentence) from None


def name_of(path: str) -> str:
    r"""Return the name of a file as the metadata may have it: "?" for what can't be printed.

    Examples
    --------
    >>> name_of("books/one\x07.txt")
    'one?.txt'
    """
    name = os.path.basename(path)
    return "".join(character if character.isprintable() else "?" for character in name)


def split_documents(text: str) -> list[str]:
    r"""Return the documents of a text, which a line ``<|doc|>`` separates; empty ones are left out.

    A document keeps the line ends before that line; ``\r\n`` counts as ``\n``.

    Examples
    --------
    >>> split_documents("one\n\n<|doc|>\ntwo\n<|doc|>\n")
    ['one\n\n', 'two\n']
    """
    parts = re.split(r"^<\|doc\|>[ \t]*(?:\n|\Z)", text.replace("\r\n", "\n"), flags=re.MULTILINE)
    return [part for part in parts if part.strip()]


def windows(
    tokenizer: Tokenizer, data: bytes, size: int = WINDOW, piece: int = 1 << 16
) -> Iterator[list[int]]:
    """Yield the tokens of a text, `size` at a time and in the end the rest.

    They are never all in memory: the text is encoded in pieces. The tokens are those of the whole
    text, because the choice of a token depends only on the next `LONGEST` bytes. Tokens that begin
    nearer to the end of a piece are left to the next piece.

    Parameters
    ----------
    tokenizer : Tokenizer
    data : bytes
    size : int, optional
    piece : int, optional
        Bytes to encode at once, more than `LONGEST`.

    Yields
    ------
    list of int
    """
    ids: list[int] = []
    place = 0
    while place < len(data):
        part = data[place : place + piece]
        is_last = place + piece >= len(data)
        sure = len(part) if is_last else len(part) - LONGEST
        end = 0
        for token in tokenizer.encode(part):
            if end > sure:
                break
            ids.append(token)
            end += len(tokenizer.token_bytes(token))
        place += end
        while len(ids) >= size:
            yield ids[:size]
            del ids[:size]
    if ids:
        yield ids


def lambada_texts(text: str, limit: int | None) -> list[tuple[str, str]]:
    """Return the context and the last word of each line, the word with the blank before it.

    Parameters
    ----------
    text : str
    limit : int or None
        Lines to take, at most; empty ones do not count.

    Returns
    -------
    list of (str, str)

    Raises
    ------
    FormatError
        A line has fewer than two words, or is a JSON object without a text.
    """
    pairs: list[tuple[str, str]] = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or len(pairs) == limit:
            continue
        if line.startswith("{"):
            line = _text_of(line, number)
        parts = re.fullmatch(r"(.*\S)(\s+\S+)", line, re.DOTALL)
        if parts is None:
            what, found, expected = f"line {number}", f"{line[:40]!a}", "two words or more"
            sentence = f"lambada: {what}, {found}, has fewer than two words"
            raise FormatError("lambada", what, found, expected, "leave it out", sentence)
        pairs.append((parts[1], parts[2]))
    return pairs


def _text_of(line: str, number: int) -> str:
    """Return the text of a JSON line."""
    try:
        text: str = json.loads(line)["text"].strip()
    except (ValueError, KeyError, AttributeError, RecursionError) as error:
        found = f"{type(error).__name__}: {error}"
        what, expected = f"line {number}", 'an object with a string "text"'
        fix = "give JSON lines with a text, or plain lines"
        sentence = f"lambada: {what} is not {expected} ({found})"
        raise FormatError("lambada", what, found, expected, fix, sentence) from None
    return text


def prompt_and_answer(document: str, number: int, prefix: str) -> tuple[str, str]:
    """Split a document after the last `prefix` that begins a line.

    Parameters
    ----------
    document : str
    number : int
        Of the document, for the error.
    prefix : str

    Returns
    -------
    prompt, answer : str

    Raises
    ------
    FormatError
        There is no such line, or nothing follows.
    """
    before, mark, after = document.lstrip().rpartition(f"\n{prefix}")
    if not mark or not after.strip():
        found = f"{document[:60]!a} without an answer"
        expected = f"a line that begins with {prefix!r}"
        fix = "separate documents by lines <|doc|>"
        what = f"document {number}"
        sentence = f"commands: {what}, {document[:60]!a}, has no answer after {expected}"
        raise FormatError("commands", what, found, expected, fix, sentence)
    return before + mark, after.strip()
