"""How long it takes to read several tokens at once, and how many are worth reading."""

from __future__ import annotations

from ..engine.reader import MOST_AT_ONCE

LEAST_GAIN = 1.05
"""How much faster a chunk must be expected to be than its tokens one by one."""

SLOPE = 0.1
"""How much longer another token is believed to take, in single tokens, before it is measured."""

MOST_SURPRISE = 1.5
"""How many times as long as expected a measurement can be; the rest was other work."""

NEWEST_SINGLE = 0.125
"""Weight of the newest single token in the time of one."""

SHORTER, LONGER = 0.5, 0.4
"""Weights of a chunk that took less or more than expected: other work makes it only longer."""

TERM = 256
"""Single tokens after which something is forgotten."""

KEPT = 0.875
"""What is left then of what chunks take longer than is believed at first: they are tried again."""


class Costs:
    """The time of a single token, and how many times as long chunks take, as measured of late."""

    def __init__(self) -> None:
        self.of_one = 0.0  # seconds; 0 before a token was measured
        self._singles = 0
        # By the number of tokens, in times of a single one; 0 is not known.
        self._times = [0.0] * (MOST_AT_ONCE + 1)

    def learn(self, tokens: int, seconds: float) -> None:
        """Learn how long a reading took."""
        one = self.of_one
        if tokens == 1:
            found = min(seconds, MOST_SURPRISE * one) if one else seconds
            self.of_one = one + NEWEST_SINGLE * (found - one) if one else found
            self._singles += 1
            if self._singles % TERM == 0:
                self._forget()
        elif one:
            known = self._times[tokens]
            found = min(seconds / one, MOST_SURPRISE * self.relative()[tokens])
            weight = SHORTER if found < known else LONGER
            self._times[tokens] = known + weight * (found - known) if known else found

    def _forget(self) -> None:
        for tokens, known in enumerate(self._times):
            first = _at_first(tokens)
            if known > first:
                self._times[tokens] = first + KEPT * (known - first)

    def relative(self) -> list[float]:
        """Return the time for each number of tokens from 0 on, in times of a single token."""
        found = [0.0, 1.0]
        step = SLOPE
        for known in self._times[2:]:
            # What was not measured is believed to go on as what was measured last.
            step = max(known - found[-1], SLOPE) if known else step
            found.append(known or found[-1] + step)
        for tokens in range(MOST_AT_ONCE - 1, 1, -1):  # fewer tokens take no longer than more
            found[tokens] = min(found[tokens], found[tokens + 1])
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
        if not self.of_one or not chance:
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


def _at_first(tokens: int) -> float:
    """Return what a chunk is believed to take, in times of a single token."""
    return 1 + SLOPE * (tokens - 1)
