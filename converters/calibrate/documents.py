"""The documents that a model is calibrated with: pieces of a text, or what it writes itself."""

from __future__ import annotations

import random
import textwrap

from tinyrwkv import Model, Sampler
from tinyrwkv.errors import ArgumentError

from ..judge.texts import END_OF_DOCUMENT, split_documents
from .collect import Progress

PIECE = 2048
"""Characters of a text that are read at once, about 512 tokens: many short pieces show more."""

BROKEN = 4
"""Of so many documents, one has its lines broken: old electronic books have such lines."""

WIDTHS = range(60, 81)
"""Characters of the longest line where lines are broken."""

LONGEST_SAMPLE = 256
"""Tokens of a document that the model writes itself."""


def choose_documents(
    model: Model, text: str, tokens: int = 20_000, seed: int = 0
) -> list[list[int]]:
    """Choose calibration documents from a text.

    Parameters
    ----------
    model : Model
        With a tokenizer.
    text : str
        Documents separated by a line ``<|doc|>``, or a plain text; long ones are cut into pieces.
    tokens : int, optional
        Tokens to take, or all if there are fewer.
    seed : int, optional
        Of the order in which pieces are drawn.

    Returns
    -------
    list of list of int
        Each begins with token 0.

    Raises
    ------
    ArgumentError
        The text is empty.
    UnsupportedError
        The model has no tokenizer.
    """
    pieces = [
        document[start : start + PIECE]
        for document in split_documents(text)
        for start in range(0, len(document), PIECE)
    ]
    random.Random(seed).shuffle(pieces)
    chosen: list[list[int]] = []
    for piece in pieces:
        if tokens <= 0:
            break
        ids = [END_OF_DOCUMENT, *model.tokenizer.encode(piece)][:tokens]
        chosen.append(ids)
        tokens -= len(ids)
    if not chosen:
        fix, sentence = "give a text that is not empty", "the calibration text is empty"
        raise ArgumentError("calibrate", "text", "nothing in it", "some text", fix, sentence)
    return chosen


def break_some(model: Model, documents: list[list[int]], seed: int = 0) -> list[list[int]]:
    """Break the lines of one document in four, as books and reports in plain text have them.

    A model that has seldom seen such lines gives them unusual inputs, which matrices that are
    fitted to paragraphs of one line would know nothing about.

    Parameters
    ----------
    model : Model
        With a tokenizer.
    documents : list of list of int
        Each begins with token 0.
    seed : int, optional
        Of the width of the lines, which each document has its own of.

    Returns
    -------
    list of list of int
        The others are as they were.
    """
    widths = random.Random(seed)
    found = list(documents)
    for number in range(0, len(documents), BROKEN):
        text = model.tokenizer.decode_bytes(documents[number][1:]).decode("utf-8", "ignore")
        broken = break_lines(text, widths.choice(WIDTHS))
        found[number] = [END_OF_DOCUMENT, *model.tokenizer.encode(broken)]
    return found


def break_lines(text: str, width: int) -> str:
    r"""Break the lines of a text between words, so that none has more than `width` characters.

    A longer word has a line of its own.

    Examples
    --------
    >>> break_lines("one two three\n\nfour", 8)
    'one two\nthree\n\nfour'
    """
    wrapper = textwrap.TextWrapper(
        width,
        expand_tabs=False,
        replace_whitespace=False,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(wrapper.fill(line) if len(line) > width else line for line in text.split("\n"))


def sample_documents(
    model: Model, tokens: int = 20_000, seed: int = 0, progress: Progress | None = None
) -> list[list[int]]:
    """Let the model write its own calibration documents, at temperature 1.

    Parameters
    ----------
    model : Model
    tokens : int, optional
        How many in all.
    seed : int, optional
        The same seed gives the same documents.
    progress : callable, optional
        Called as ``progress(tokens_done, tokens)``.

    Returns
    -------
    list of list of int
        Each begins with token 0.
    """
    written: list[list[int]] = []
    left = tokens
    number = 0
    while left > 0:
        sampler = Sampler(temperature=1, seed=seed * 1_000_003 + number)
        generation = model.generate([], sampler=sampler, max_tokens=min(LONGEST_SAMPLE, left))
        for _ in generation:
            pass
        number += 1
        written.append([END_OF_DOCUMENT, *generation.result.tokens])
        left -= len(written[-1])
        if progress is not None:
            progress(tokens - max(left, 0), tokens)
    return written
