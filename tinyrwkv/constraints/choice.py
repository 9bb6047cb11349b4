"""Answers that are one of several texts."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..arguments import items, refusal
from .constraint import Constraint
from .old_names import accept_old_names


class Choice(Constraint):
    """One of several texts.

    Parameters
    ----------
    choices : iterable of str
    prefix, suffix : str, optional
        As for `Regex`.

    Attributes
    ----------
    choices : tuple of str
    pattern, prefix, suffix : str

    Raises
    ------
    ArgumentError
        There are no choices or too many, or one of them is not a text.

    Examples
    --------
    >>> Choice(["yes", "no"]).matches("no")
    True
    """

    @accept_old_names
    def __init__(self, choices: Iterable[str], prefix: str = "", suffix: str = "") -> None:
        self.choices = _texts(choices)
        super().__init__("|".join(map(re.escape, self.choices)), prefix, suffix)


def _texts(choices: Iterable[str]) -> tuple[str, ...]:
    expected = "a list of one or more texts"
    fix = "give a list of str"
    texts = items("Choice", "choices", choices, expected, fix)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise refusal("Choice", "choices", texts, expected, fix)
    return tuple(texts)
