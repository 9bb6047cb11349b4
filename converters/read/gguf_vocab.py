"""Read the vocabulary that llama.cpp keeps in a GGUF file."""

from __future__ import annotations

import re

from tinyrwkv.errors import FormatError, show

from .gguf_fields import Items, numbers, texts
from .gguf_header import Header

_MODEL = "tokenizer.ggml.model"
_TOKENS = "tokenizer.ggml.tokens"
_TYPES = "tokenizer.ggml.token_type"
_NORMAL = 1
# Types of tokens that stand for no text: unknown, control, unused.
_NO_TEXT = (2, 3, 5)
_FIX = "give the vocabulary of the model with --vocab"

# A token is written as between the quotes of a Python literal of bytes.
_WRITTEN = re.compile(rb"(?:[^\\]|\\x[0-9a-fA-F]{2}|\\[^x])*", re.DOTALL)
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|([^x]))", re.DOTALL)
_CONTROLS = {b"t": b"\t", b"n": b"\n", b"r": b"\r"}


def has_tokens(header: Header) -> bool:
    """Tell whether a file has a vocabulary of RWKV: tokens that are the bytes of a text."""
    return header.settings.get(_MODEL) == "rwkv" and isinstance(header.settings.get(_TOKENS), Items)


def other_vocabulary(header: Header) -> str:
    """Return which vocabulary a file has, if it is not that of RWKV; "" if it has none."""
    model = header.settings.get(_MODEL)
    is_other = isinstance(model, str) and model not in ("rwkv", "none", "no_vocab", "")
    return f"the vocabulary {show(model)} in the file" if is_other else ""


def read_tokens(header: Header) -> dict[int, bytes]:
    """Return the bytes of the tokens by id; tokens that stand for no text are left out.

    Raises
    ------
    FormatError
        The lists of tokens and of their types differ in length, or a token can't be read.
    """
    path, settings = header.file.path, header.settings
    items, types = settings[_TOKENS], settings.get(_TYPES)
    written = texts(header.file, items, f"'{_TOKENS}'")
    kinds = [_NORMAL] * items.length
    if isinstance(types, Items):
        kinds = numbers(header.file, types, f"'{_TYPES}'", items.length).tolist()
    tokens = {}
    for id, text in enumerate(written):
        is_end = id == 0 and text == b"<s>"  # ends a document
        if kinds[id] in _NO_TEXT or is_end:
            continue
        if _WRITTEN.fullmatch(text) is None:
            what, found, expected = f"token {id}", show(text), "a text with Python's escapes"
            sentence = f"{path}: {what} is {found}, not {expected}"
            raise FormatError(path, what, found, expected, _FIX, sentence)
        tokens[id] = unescape(text)
    return tokens


def unescape(text: bytes) -> bytes:
    r"""Return the bytes that a token of llama.cpp stands for.

    Parameters
    ----------
    text : bytes
        With the escapes ``\t``, ``\n``, ``\r`` and ``\xff``; a backslash before any other character
        stands for that character.

    Examples
    --------
    >>> unescape(rb"a\n\xe6\\\'")
    b"a\n\xe6\\'"
    """

    def plain(match: re.Match[bytes]) -> bytes:
        if match[1]:
            return bytes([int(match[1], 16)])
        return _CONTROLS.get(match[2], match[2])

    return _ESCAPE.sub(plain, text)
