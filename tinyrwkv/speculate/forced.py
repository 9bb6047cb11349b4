"""Guess the tokens that spell what a constraint leaves no choice about."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..arguments import items, refusal, whole_number
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
    vocab_size : int
        Tokens of the model: the kernels trust what they read.
    """

    each = 0.0

    def __init__(self, forced: Callable[[int], Iterable[Any]], vocab_size: int) -> None:
        self._forced = forced
        self._largest = vocab_size - 1
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
        self._guess = self.propose(1)

    def propose(self, most: int) -> list[int]:
        """Return the first tokens of what must follow.

        Raises
        ------
        ArgumentError
            The constraint is of another class, and returned something else.
        """
        where = "constraint", "forced"
        expected = f"a list of token ids, {most} at most"
        fix = "return such a list, or an empty one"
        given = items(*where, self._forced(most), expected, fix)
        if len(given) > most:
            raise refusal(*where, given, expected, fix)
        what = "a token that forced() returns"
        return [whole_number(*where, token, 0, self._largest, fix, what) for token in given]

    def judge(self, proposed: int, right: int) -> None:
        """Do nothing: `choose` judges all guesses, also those that were not asked for."""
