"""Guess that the text goes on as it did where its last tokens stood before."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .chance import Chance

WINDOW = 1 << 14
"""Tokens that are remembered, the last ones; a power of two."""

MASK = WINDOW - 1

GRAM = 3
"""Tokens that must be the same before a guess is made."""

LONGEST = 32
"""Tokens up to which matches are compared: of longer ones the last is taken."""

MOST_PLACES = 8
"""Places that are compared; bounds the work for a token, whatever the text is."""

LONG = 8
"""Tokens from which on a match counts as long."""

FIRST_CHANCES = 0.3, 0.8
"""The chances of a short and of a long match before any is judged."""


class Lookup:
    """Finds the longest end of a text that stands in it before, and what followed there.

    The place of the last three tokens is found by their hash; the places with the same hash are
    chained. All of it lies in three arrays of 64 KB each, so a token costs no object, and little
    work for each of at most 8 places. While guesses come true, the match only grows, and nothing
    is searched.
    """

    each = 0.0

    def __init__(self) -> None:
        # By the place of a token in the text, modulo WINDOW. Place 0 holds no token.
        self._tokens = np.zeros(WINDOW, np.int32).data
        self._earlier = np.zeros(WINDOW, np.int32).data  # the place before with this hash
        self._last = np.zeros(WINDOW, np.int32).data  # by a hash, the last place with it
        self._end = 1  # the place of the next token
        self._newest = self._last_but_one = 0  # tokens
        self._match = 0  # the place of the token that is guessed next; 0 if there is none
        self._length = 0  # tokens before _match that are the same as the last ones
        self._chances = tuple(map(Chance, FIRST_CHANCES))

    @property
    def chance(self) -> float:
        """How likely the next guess comes true; 0 if there is none."""
        return self._chances[self._length >= LONG].value if self._match else 0.0

    def hear(self, tokens: Iterable[int]) -> None:
        """Add tokens to the text, and judge what would have been guessed for each."""
        for token in tokens:
            self._add(token)

    def choose(self, token: int) -> None:
        """Add a token to the text, and judge what would have been guessed."""
        self._add(token)

    def judge(self, proposed: int, right: int) -> None:
        """Do nothing: all guesses are judged, also those that were not asked for."""

    def propose(self, most: int) -> list[int]:
        """Return what followed the last tokens where they stood before, if they did."""
        found: list[int] = []
        if self._match:
            known = self._end - self._match  # then the text repeats itself
            for i in range(most):
                found.append(self._at(self._match + i) if i < known else found[i - known])
        return found

    def _at(self, place: int) -> int:
        return self._tokens[place & MASK]

    def _add(self, token: int) -> None:
        # Every token of every text comes here, so nothing is called that need not be.
        went_on = False
        if self._match:
            went_on = self._tokens[self._match & MASK] == token
            self._chances[self._length >= LONG].learn(went_on)
        self._tokens[self._end & MASK] = token
        self._end = end = self._end + 1
        key = (self._last_but_one * 31 + self._newest) * 0x9E3779B1 + token
        key = (key ^ key >> 15) & MASK
        self._last_but_one, self._newest = self._newest, token
        place = self._last[key]
        self._earlier[end & MASK] = place
        self._last[key] = end
        if went_on:
            self._match += 1
            self._length += 1
            if self._match <= end - WINDOW:
                self._match = 0  # its tokens were written over
        elif self._match or place:
            self._search(place)

    def _search(self, place: int) -> None:
        """Set the match to the longest one among the places of a chain; among equals the last."""
        self._match = self._length = 0
        for _ in range(MOST_PLACES):
            if place <= max(self._end - WINDOW + LONGEST, 0):
                return
            length = self._same(place)
            if length >= GRAM and length > self._length:
                self._match, self._length = place, length
                if length == LONGEST:
                    return
            place = self._earlier[place & MASK]

    def _same(self, place: int) -> int:
        """Return how many tokens before a place are the same as the last ones."""
        length = 0
        most = min(LONGEST, place - 1)
        while length < most and self._at(place - 1 - length) == self._at(self._end - 1 - length):
            length += 1
        return length
