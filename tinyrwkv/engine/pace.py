"""How fast tokens are read, and how many may be read before the clock is looked at again."""

from __future__ import annotations

from ..kernels.abi import MAX_TOKENS
from .plan import Parts

PAUSE = 0.002
"""Seconds between looks at the clock while a deadline or a cancellation may end a token."""


class Pace:
    """Learns the speed from what was read so far.

    Parameters
    ----------
    parts : Parts
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._seconds = {
            True: 0.0,
            False: 0.0,
        }  # of one token for each byte of weights; of a chunk, for each token too

    def chunk(self, seconds: float | None) -> int:
        """Return how many prompt tokens to read at once, 1 to 16.

        A chunk is lost where a deadline cuts it, and looked at only after each layer.

        Parameters
        ----------
        seconds : float or None
            Time until a deadline; None where only a cancellation may come, which may wait a little longer.
        """
        pace = self._seconds[False] or self._seconds[True]
        if pace == 0:
            return MAX_TOKENS if seconds is None else 1
        tokens = (20 if seconds is None else 1) * PAUSE / (pace * self.parts.layer_bytes)
        if seconds is not None:
            tokens = min(
                tokens, seconds / (pace * self.parts.bytes_between(0, len(self.parts.cuts) - 1))
            )
        return int(min(max(tokens, 1), MAX_TOKENS))

    def until(self, first: int, last: int, tokens: int) -> int:
        """Return the furthest cut up to `last` that so many tokens reach in time from cut `first`."""
        pace = self._seconds[tokens == 1] * tokens
        return self.parts.within_time(first, last, PAUSE / pace if pace else 1)

    def learn(self, tokens: int, seconds: float, work: float) -> None:
        """Take in how long so many tokens took; `work` is the bytes of weights that each read, together."""
        one, found = tokens == 1, seconds / work
        self._seconds[one] = (
            found if self._seconds[one] == 0 else 0.8 * self._seconds[one] + 0.2 * found
        )
