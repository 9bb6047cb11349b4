"""Texts that only judge: they show what compression loses on text unlike the calibration text."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any

from tinyrwkv.errors import ArgumentError

from .metrics import TextLoss
from .texts import name_of, read_text

JUDGED = 8192
"""Tokens to take of each text."""

JUDGE = "judge"
"""What the metadata have in the place of a technique where a text judged all of them."""


def read_texts(
    paths: Sequence[str | os.PathLike[str]], calibrate: str = "", calibration_text: str = ""
) -> dict[str, str]:
    """Read the texts to judge by.

    Parameters
    ----------
    paths : sequence of str or path-like
    calibrate : str, optional
        The path of the text that is fitted to.
    calibration_text : str, optional
        What is in it.

    Returns
    -------
    dict of str to str
        The texts by the names of their files. A second file of the same name has a number too.

    Raises
    ------
    ArgumentError
        A text is empty, or the same as the calibration text or another one, under whatever name.
    FormatError
        A file can't be read or is no text.
    """
    seen = {_content_hash(calibration_text): f"the calibration text {calibrate}"}
    texts: dict[str, str] = {}
    for path in map(os.fsdecode, paths):
        text = read_text(path)
        if not text.strip():
            fix = "give a text that is not empty"
            raise _refused(path, "nothing in it", "some text", fix, f"{path} is empty")
        content = _content_hash(text)
        if content in seen:
            sentence = f"{path} has the same text as {seen[content]}"
            fix = "judge by texts that nothing was fitted to, and by each of them once"
            raise _refused(path, "a text that is there already", "another one", fix, sentence)
        seen[content] = path
        name = name_of(path)
        while name in texts:
            name = f"{name} ({len(texts) + 1})"
        texts[name] = text
    return texts


def _content_hash(text: str) -> str:
    """Return the SHA-256 of the words of a text: line ends and blanks make no other text."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()


def _refused(path: str, found: str, expected: str, fix: str, sentence: str) -> ArgumentError:
    return ArgumentError(path, "text to judge by", found, expected, fix, sentence)


def step_of_text(name: str, before: TextLoss, after: TextLoss) -> dict[str, Any]:
    """Return what a text tells of all losses together, as a step for the metadata.

    Parameters
    ----------
    name : str
        Of the text.
    before, after : TextLoss
        Of the dense model and of the compressed one, on the same tokens.

    Returns
    -------
    dict
        Its report has ``tokens``, ``nll`` and ``top1`` of the compressed model, and ``nll_delta``
        and ``top1_delta``, how much these are more than those of the dense model.
    """
    report = {
        "tokens": after.tokens,
        "nll": after.nll_per_token,
        "top1": after.top1,
        "nll_delta": after.nll_per_token - before.nll_per_token,
        "top1_delta": after.top1 - before.top1,
    }
    return {"technique": JUDGE, "params": {"text": name}, "report": report}
