"""How fast tokens are read, and how far a call may go before the clock is looked at again."""

from __future__ import annotations

from ..kernels.abi import MAX_TOKENS
from .steps import Steps

PAUSE = 0.002
"""Seconds between looks at the clock while a deadline or a cancellation may end a token."""

PATIENCE = 20
"""How many times as long a cancellation may take to be noticed as a deadline."""

NEWEST = 0.2
"""Weight of the newest measurement in the speed."""


class Pace:
    """Learns the speed from what was read so far.

    Parameters
    ----------
    steps : Steps
    """

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        # Seconds for each byte of weights and each token; 0 before the first measurement.
        self._of_one_token = 0.0
        self._of_a_chunk = 0.0

    def chunk(self, seconds: float | None) -> int:
        """Return how many prompt tokens to read at once, 1 to 16.

        The clock is looked at only between steps. So one step of the layers must not take too long
        for the whole chunk. Steps of the head do not count here: they run for one token at most.
        A chunk that a deadline cuts is lost, so the chunk must also fit into the time.

        Parameters
        ----------
        seconds : float or None
            Time until a deadline. None if there is none: a cancellation may wait longer.
        """
        pace = self._of_a_chunk or self._of_one_token
        if pace == 0:
            return MAX_TOKENS if seconds is None else 1
        step = pace * self.steps.largest_layer_step
        if seconds is None:
            tokens = PATIENCE * PAUSE / step
        else:
            whole = pace * self.steps.bytes_between(0, len(self.steps.cuts) - 1)
            tokens = min(PAUSE / step, seconds / whole)
        return int(min(max(tokens, 1), MAX_TOKENS))

    def until(self, first: int, last: int, tokens: int) -> int:
        """Return the furthest cut up to `last` that can be reached in time from cut `first`.

        Parameters
        ----------
        first, last : int
        tokens : int
            How many are read at once.
        """
        pace = tokens * (self._of_one_token if tokens == 1 else self._of_a_chunk)
        budget = PAUSE / pace if pace else 1  # if the speed is unknown: a byte, that is one step
        return self.steps.within_time(first, last, budget)

    def learn(self, tokens: int, seconds: float, work: float) -> None:
        """Learn from how long a read took.

        Parameters
        ----------
        tokens : int
            How many were read at once.
        seconds : float
        work : float
            Bytes of weights, counted once for each token that needed them.
        """
        found = seconds / work
        if tokens == 1:
            self._of_one_token = _mean(self._of_one_token, found)
        else:
            self._of_a_chunk = _mean(self._of_a_chunk, found)


def _mean(known: float, found: float) -> float:
    """Return a mean in which older measurements count less and less."""
    return found if known == 0 else (1 - NEWEST) * known + NEWEST * found
