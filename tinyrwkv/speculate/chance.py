"""How often guesses of one kind come true."""

from __future__ import annotations

WEIGHT = 0.125
"""Weight of the newest guess."""

RETURN = 0.005
"""How far the chance comes back to the first one with each token of the text."""


class Chance:
    """The probability that a guess comes true, learned from the last ones.

    Parameters
    ----------
    first : float
        What is believed before the first guess.
    """

    def __init__(self, first: float) -> None:
        self._first = first
        self.value = first

    def learn(self, right: bool) -> None:
        """Learn whether a guess came true."""
        self.value += WEIGHT * (right - self.value)

    def judge(self, proposed: int, right: int) -> None:
        """Learn that of some tokens in a row the first ones came true, up to a wrong one."""
        for _ in range(right):
            self.learn(True)
        if right < proposed:
            self.learn(False)

    def come_back(self) -> None:
        """Forget a little, so that a kind of guess that failed is tried again later."""
        self.value += RETURN * (self._first - self.value)
