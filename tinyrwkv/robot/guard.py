"""What stands between a script and the robot: rules that read words, not weights.

A script that the guard objects to is never run at once. The guard understands English only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .scripts import Argument, Call, Number
from .stop_words import says_only_stop, says_stop

__all__ = ["objections", "out_of_bounds", "says_only_stop", "says_stop"]

UNITS = {"move": " metres", "turn": " degrees", "wait": " seconds"}


def objections(command: str, calls: Sequence[Call]) -> tuple[str, ...]:
    """Return what speaks against running a script for an order at once.

    Parameters
    ----------
    command : str
        What the user said.
    calls : sequence of Call
        What a model made of it.

    Returns
    -------
    tuple of str
        Short sentences, and none if nothing speaks against it.
    """
    return ()


def out_of_bounds(calls: Sequence[Call], verbs: Mapping[str, Argument | None]) -> tuple[str, ...]:
    """Return a sentence for every number that a robot cannot do.

    Parameters
    ----------
    calls : sequence of Call
    verbs : mapping of str to Number, Names, Words or None
        What the robot can do, as for `Scripts`.

    Examples
    --------
    >>> out_of_bounds([Call("move", 20.0)], {"move": Number(-5, 5)})
    ('move(20) is outside of -5 to 5 metres',)
    """
    found = []
    for call in calls:
        bounds = verbs.get(call.verb)
        if not isinstance(bounds, Number) or not isinstance(call.argument, float):
            continue
        if not bounds.low <= call.argument <= bounds.high:
            unit = UNITS.get(call.verb, "")
            found.append(f"{call} is outside of {bounds.low:g} to {bounds.high:g}{unit}")
    return tuple(found)
