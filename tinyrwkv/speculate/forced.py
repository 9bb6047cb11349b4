"""Guess the tokens that spell what a constraint leaves no choice about."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .chance import Chance

FIRST_CHANCE = 0.9
"""The tokenizer's tokens for a text are those that models were trained to write."""


class Forced:
    """Asks the walk of a constraint what must follow.

    A text that must follow can be spelled with other tokens, so this is a guess too.

    Parameters
    ----------
    forced : callable
        Takes a number of tokens; returns the first ones of what must follow, at most so many.
    """

    each = 0.0

    def __init__(self, forced: Callable[[int], list[int]]) -> None:
        self._forced = forced
        self._guess: list[int] = []  # the next token, if it is known
        self._chance = Chance(FIRST_CHANCE)

    @property
    def chance(self) -> float:
        """How likely the next guess comes true; 0 if there is none."""
        return self._chance.value if self._guess else 0.0

    def hear(self, tokens: Iterable[int]) -> None:
        """Do nothing: a constraint begins after the prompt."""

    def choose(self, token: int) -> None:
        """Judge what would have been guessed; the walk has gone on by the token."""
        if self._guess:
            self._chance.learn(self._guess[0] == token)
        self._guess = self._forced(1)

    def propose(self, most: int) -> list[int]:
        """Return the first tokens of what must follow."""
        return self._forced(most)

    def judge(self, proposed: int, right: int) -> None:
        """Do nothing: `choose` judges all guesses, also those that were not asked for."""
