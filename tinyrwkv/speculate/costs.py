"""How long it takes to read several tokens at once, and how many are worth reading."""

from __future__ import annotations

from ..reading import MOST_AT_ONCE

LEAST_GAIN = 1.05
"""How much faster a chunk must be expected to be than its tokens one by one."""

SLOPE = 0.1
"""How much longer another token is believed to take, in single tokens, before it is measured."""

RISE_OF_ONE, RISE_OF_CHUNK = 0.01, 0.2
"""Weights of measurements that are longer than those before; a shorter one counts at once.

Single tokens are measured more often.
"""

MOST_SURPRISE = 2.0
"""How many times as long as expected a measurement can be; the rest was other work."""

TERM = 64
"""Single tokens after which something is forgotten."""

KEPT = 1 - TERM / 4096
"""What is left then of the time that a chunk took, so that a slow one is tried again."""


class Costs:
    """The times of chunks of each size, the shortest ones that were measured of late.

    Other work makes a measurement longer and never shorter, so the shortest is the nearest one.
    """

    def __init__(self) -> None:
        self._seconds = [0.0] * (MOST_AT_ONCE + 1)  # by the number of tokens; 0 is not known
        self._term = 0

    def learn(self, tokens: int, seconds: float) -> None:
        """Learn how long a reading took."""
        known, one = self._seconds[tokens], self._seconds[1]
        if one:
            expected = known or one * self.relative()[tokens]
            seconds = min(seconds, MOST_SURPRISE * expected)
        if known and seconds > known:
            rise = RISE_OF_ONE if tokens == 1 else RISE_OF_CHUNK
            seconds = known + rise * (seconds - known)
        self._seconds[tokens] = seconds
        if tokens == 1:
            self._term += 1
            if self._term % TERM == 0:
                self._forget()

    def _forget(self) -> None:
        """Believe a little less that chunks are slower than what is believed at first."""
        for tokens in range(2, len(self._seconds)):
            first = self._seconds[1] * (1 + SLOPE * (tokens - 1))
            if self._seconds[tokens] > first:
                self._seconds[tokens] = max(first, KEPT * self._seconds[tokens])

    @property
    def of_one(self) -> float:
        """Seconds of a single token; 0 before it was measured."""
        return self._seconds[1]

    def relative(self) -> list[float]:
        """Return the time for each number of tokens from 0 on, in times of a single token."""
        one = self._seconds[1]
        found = [0.0, 1.0]
        for seconds in self._seconds[2:]:
            found.append(seconds / one if seconds else found[-1] + SLOPE)
        return found

    def worth(self, chance: float, most: int, each: float = 0.0) -> int:
        """Return how many tokens to propose, 0 if a single token is better.

        If each comes true with probability p, then of k tokens proposed 1 + p + ... + p^k are read
        for good, with the one before them (Leviathan, Kalman and Matias, "Fast inference from
        transformers via speculative decoding", 2023). This number, divided by the time for k + 1
        tokens, is to be as large as possible.

        Parameters
        ----------
        chance : float
        most : int
        each : float, optional
            What it costs to propose one token, in times of a single token.
        """
        if not self._seconds[1] or not chance:
            return 0
        times = self.relative()
        best, best_gain = 0, LEAST_GAIN
        expected = power = 1.0
        for k in range(1, min(most, MOST_AT_ONCE - 1) + 1):
            power *= chance
            expected += power
            gain = expected / (times[k + 1] + k * each)
            if gain > best_gain:
                best, best_gain = k, gain
        return best
