"""Answers that are one of several texts."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..errors import ArgumentError
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
    several = isinstance(choices, Iterable) and not isinstance(choices, (str, bytes))
    texts = tuple(choices) if several else ()
    if not texts or not all(isinstance(text, str) for text in texts):
        found = f"{choices!r}"[:80]
        sentence = f"choices={found} is not a list of one or more texts"
        what = ("Choice", "choices", found, "at least one text")
        raise ArgumentError(*what, "give a list of str", sentence)
    return texts
