"""What of a text and of its tokens is shown, and when."""

from __future__ import annotations

import math
from typing import NamedTuple

LEAST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON has not."""


class Entry(NamedTuple):
    """A token of an answer: its bytes, its logprob, and the likeliest ones in its place."""

    data: bytes
    logprob: float
    top: list[tuple[bytes, float]]


def finite(logprob: float) -> float:
    """Return a logprob that JSON can write."""
    return max(logprob, LEAST_LOGPROB) if math.isfinite(logprob) else LEAST_LOGPROB


class Trimmer:
    r"""Leaves out the white space at both ends of a text that comes in pieces.

    Parameters
    ----------
    trims : bool
        Whether it does so at all.

    Examples
    --------
    >>> trimmer = Trimmer(True)
    >>> [trimmer.push(text) for text in (" Hello", " ", "you", "\n")]
    ['Hello', '', ' you', '']
    """

    def __init__(self, trims: bool) -> None:
        self._trims = trims
        self._begun = False
        self._blanks: list[str] = []

    def push(self, text: str) -> str:
        """Return what can be shown after one more piece."""
        if not self._trims:
            return text
        kept = text.rstrip()
        if not kept:
            self._blanks.append(text)
            return ""
        before = "".join(self._blanks)
        self._blanks = [text[len(kept) :]]
        shown = before + kept if self._begun else (before + kept).lstrip()
        self._begun = True
        return shown


class Entries:
    """Holds back the tokens of text that is not shown yet, such as a stop string's."""

    def __init__(self) -> None:
        self._waiting: list[Entry] = []
        self._begin = 0  # bytes before the first token that waits
        self._shown = 0  # bytes of text

    def push(self, entry: Entry | None, text: str) -> list[Entry]:
        """Add a token, and the text that is shown now; return the tokens that begin in it."""
        if entry is not None:
            self._waiting.append(entry)
        self._shown += len(text.encode("utf-8", "surrogatepass"))
        released = []
        while self._waiting and self._begin < self._shown:
            released.append(self._waiting.pop(0))
            self._begin += len(released[-1].data)
        return released
