"""Phrases among the words of an order. A word that no longer counts is replaced by BLANK."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

BLANK = "_"

Index = dict[str, list[tuple[str, ...]]]


def index(phrases: Iterable[str]) -> Index:
    """Return phrases by their first word, longest first."""
    found: Index = {}
    for phrase in sorted(phrases, key=len, reverse=True):
        words = tuple(phrase.split())
        found.setdefault(words[0], []).append(words)
    return found


def matches(words: Sequence[str], phrases: Index) -> Iterator[tuple[int, int]]:
    """Yield the first and the last place (not included) of every phrase, longest first."""
    place = 0
    while place < len(words):
        for phrase in phrases.get(words[place], ()):
            if tuple(words[place : place + len(phrase)]) == phrase:
                yield place, place + len(phrase)
                place += len(phrase) - 1
                break
        place += 1


def blanked(words: Sequence[str], spans: Iterable[tuple[int, int]]) -> list[str]:
    """Return the words with some of them replaced by BLANK."""
    shown = list(words)
    for start, end in spans:
        shown[start:end] = [BLANK] * (end - start)
    return shown
