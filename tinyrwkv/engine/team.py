"""How many threads take part in a call, while other work wants the cores too."""

from __future__ import annotations

import time
from collections.abc import Callable

MOST_CREDIT = 0.03
"""Seconds that waiting may cost before threads stay away."""

GAIN = 0.4
"""Seconds that one second of working together saves."""

COST = 0.004
"""Seconds that waiting for a thread without a core costs at least: a turn of another process."""

COST_OF_CALL = 0.25
"""Seconds that it costs besides, for each second of its call."""

FIRST_PAUSE, LONGEST_PAUSE = 0.004, 1.0
"""Seconds that a thread stays away the first time in a row, and the most there can be."""

GROWTH = 4
"""How many times as long each pause is as the one before."""


class Team:
    """The threads of a pool that take part in the next call.

    If one of them gets no core, the others wait for it, and a call can take many times as long as
    with one thread. So the kernels end a call with one thread when they have waited too long. If
    that costs more than working together saves, one thread stays away from the next calls. After a
    pause it takes part again, and if that fails, the next pause is longer.

    Parameters
    ----------
    most : int
        Threads of the pool.
    clock : callable
        Tells seconds.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self._clock = clock
        self._size = self._tried = most
        self._credit = MOST_CREDIT
        self._pause = 0.0
        self._began = self._next = clock()

    def size_of_next_call(self) -> int:
        """Return how many threads are to take part; after a pause, one more."""
        self._began = self._clock()
        if self._size < self.most and self._began >= self._next:
            self._size += 1
            self._tried = self._size
            self._credit = MOST_CREDIT / 2
            self._next = self._began + self._pause
        return self._size

    def learn(self, threads: int, went_well: bool) -> None:
        """Learn whether the threads of a call stayed together to its end."""
        now = self._clock()
        seconds = now - self._began
        if went_well:
            self._credit = min(self._credit + GAIN * seconds, MOST_CREDIT)
            if self._credit == MOST_CREDIT and threads >= self._tried:
                self._pause = 0.0
            return
        self._credit -= COST + COST_OF_CALL * seconds
        if self._credit < 0:
            self._size = min(self._size, threads - 1)
            self._pause = min(max(FIRST_PAUSE, GROWTH * self._pause), LONGEST_PAUSE)
            self._next = now + self._pause
            self._credit = MOST_CREDIT / 2
