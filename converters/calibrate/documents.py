"""The documents that a model is calibrated with: pieces of a text, or what it writes itself."""

from __future__ import annotations

import random

from tinyrwkv import Model, Sampler
from tinyrwkv.errors import ArgumentError

from ..judge.texts import END_OF_DOCUMENT, split_documents
from .collect import Progress

PIECE = 2048
"""Characters of a text that are read at once, about 512 tokens: many short pieces show more."""

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
