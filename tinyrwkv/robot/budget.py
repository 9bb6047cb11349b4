"""How far a robot may go and turn within some time, whatever it is told and however often.

The grammar bounds every single call. This bounds their sum: ``move(20)`` three times is 60 metres.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

from ..arguments import real_number

ROUNDING = 1e-6
"""Sums of many small motions are not exact."""


class Motion(NamedTuple):
    """How far something goes and turns in all: backward and to the right count too."""

    metres: float = 0.0
    degrees: float = 0.0


class Budget:
    """At most so many metres and degrees within any so many seconds.

    The rule: what was moved in the last `seconds`, plus all that is planned, is within the bounds
    whenever a script is admitted. So no `seconds` in a row can have more, however the motion is
    spread over scripts and calls.

    Times are those of any one clock in seconds that does not go back, as ``time.monotonic()``.

    Parameters
    ----------
    metres, degrees : float, optional
        The bounds.
    seconds : float, optional

    Raises
    ------
    ArgumentError
        A bound is negative or not a number.

    Examples
    --------
    >>> budget = Budget(metres=30, degrees=720, seconds=60)
    >>> budget.objections(Motion(metres=20), now=0)
    ()
    >>> budget.spend(Motion(metres=20), now=25)
    >>> budget.objections(Motion(metres=20), now=30)
    ('that would be 40 m within 60 s, and 30 m are allowed',)
    >>> budget.objections(Motion(metres=20), now=86)
    ()
    """

    def __init__(self, metres: float = 30, degrees: float = 1440, seconds: float = 60) -> None:
        numbers = {"metres": metres, "degrees": degrees, "seconds": seconds}
        checked = [real_number("Budget", name, number, 0, 1e9) for name, number in numbers.items()]
        self.metres, self.degrees, self.seconds = checked
        self._spent: deque[tuple[float, Motion]] = deque()

    def spend(self, moved: Motion, now: float) -> None:
        """Take note of what was really moved since the last call.

        Parameters
        ----------
        moved : Motion
        now : float
        """
        self._forget(now)
        if moved.metres or moved.degrees:
            self._spent.append((now, moved))

    def spent(self, now: float) -> Motion:
        """Return what was moved within the last `seconds`."""
        self._forget(now)
        metres = math.fsum(moved.metres for _, moved in self._spent)
        return Motion(metres, math.fsum(moved.degrees for _, moved in self._spent))

    def objections(self, planned: Motion, now: float) -> tuple[str, ...]:
        """Return why a plan must not be admitted now, and nothing if it may.

        Parameters
        ----------
        planned : Motion
            All that the robot would still have to do, the rest of earlier scripts included.
        now : float

        Returns
        -------
        tuple of str
            Sentences without a capital and a full stop, as the guard's.
        """
        spent = self.spent(now)
        found = []
        sums = (
            (spent.metres + planned.metres, self.metres, "m"),
            (spent.degrees + planned.degrees, self.degrees, "degrees"),
        )
        for total, most, unit in sums:
            if not total <= most + ROUNDING:
                found.append(
                    f"that would be {total:.4g} {unit} within {self.seconds:g} s, "
                    f"and {most:g} {unit} are allowed"
                )
        return tuple(found)

    def _forget(self, now: float) -> None:
        """Forget what was moved more than `seconds` ago."""
        while self._spent and now - self._spent[0][0] > self.seconds:
            self._spent.popleft()
