"""What stands between a script and the robot: rules that read words, not weights.

A script that the guard objects to is never run at once. The guard understands English only. It
does not know whether a script is right. It knows words that a script must account for: negations,
corrections, conditions, quantities, directions, names. What it cannot account for, it objects to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from . import nouns
from .check_meanings import meanings
from .check_meant import meant
from .check_names import corrected, names, without_said, words_of
from .check_numbers import directions, numbers
from .check_order import order
from .check_verbs import all_done, asked_for, put_down, repeated
from .negations import correction, is_order, replaced, without_negated
from .phrases import BLANK, blanked, index, matches
from .quantities import SMALL, TENS, quantities
from .quantities import UNITS as UNIT_WORDS
from .scripts import Argument, Call, Number
from .stop_words import says_only_stop, says_stop
from .vocabulary import (
    ARRIVALS,
    ARTICLES,
    BACK,
    CONDITIONS,
    COURTESY,
    EVIDENCE,
    FORWARD,
    FUNCTION,
    LEFT,
    LOOKS,
    OPEN,
    ORDER_VERBS,
    REPORTS,
    RIGHT,
    SEQUENCE,
    SLIPPING,
    SPEEDS,
    USER,
)
from .words import slips, tokens

__all__ = ["objections", "out_of_bounds", "says_only_stop", "says_stop"]

UNITS = {"move": " metres", "turn": " degrees", "wait": " seconds"}

_HARMLESS = index((*COURTESY, *SEQUENCE))
_ARRIVALS = index(ARRIVALS)
_CONDITIONS = index(CONDITIONS)
_OPEN = index(OPEN)
_MENDED = frozenset().union(
    *EVIDENCE.values(),
    *REPORTS.values(),
    *SPEEDS.values(),
    *LOOKS.values(),
    UNIT_WORDS,
    SMALL,
    TENS,
    LEFT,
    RIGHT,
    BACK,
    FORWARD,
)
_KNOWN = _MENDED | FUNCTION | ORDER_VERBS | USER
_SLIPS = slips(word for word in _MENDED if len(word) > 3)
_CUE_SLIPS = slips(SLIPPING) | {word + word[-1]: word for word in SLIPPING}


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

    Examples
    --------
    >>> objections("go forward two meters", [Call("move", 2.0)])
    ()
    >>> objections("do not turn left", [Call("photo")])
    ('the order does not ask for photo()',)
    """
    if not calls:
        return ()
    said = [_CUE_SLIPS.get(word, word) for word in tokens(command)]
    words, reasons = without_said(said, calls)
    words = arrivals_as_orders(words, calls)
    words = blanked(words, matches(words, _HARMLESS))
    cue = correction(words)
    wished = without_negated(words if cue is None else replaced(words, cue))
    places, unnamed = names(words, wished, calls)
    reasons += unnamed
    if cue is not None and not is_order(words[cue[1] :]):
        reasons += corrected(words, cue, places)
    wished = mended(wished, places)
    rest = blanked(wished, places)
    reasons += _unsayable(rest)
    replaced_numbers = quantities(words[: cue[0]]) if cue is not None else []
    reasons += numbers(rest, calls, replaced_numbers)
    reasons += directions(rest, calls)
    reasons += asked_for(words, wished, calls)
    reasons += repeated(rest, calls)
    reasons += order(wished, calls)
    reasons += put_down(wished, calls)
    reasons += meanings(wished, rest, calls)
    reasons += meant(words, wished, calls)
    reasons += all_done(rest, calls)
    return tuple(dict.fromkeys(reasons))


def arrivals_as_orders(words: list[str], calls: Sequence[Call]) -> list[str]:
    """Return "after go to the door" for "once you reach the door", if the script goes there.

    So the script has to do that before the other step. Without such a call it is a condition.
    """
    goals = [words_of(call) for call in calls if call.verb == "goto"]
    starts = {start for goal in goals for start, _ in nouns.find_all(goal, words)}
    shown = list(words)
    for start, end in matches(words, _ARRIVALS):
        goal = end
        while goal < len(words) and words[goal] in ARTICLES:
            goal += 1
        if goal in starts:
            shown[start:end] = ["after", *[BLANK] * (end - start - 3), "go", "to"]
    return shown


def mended(wished: list[str], places: list[tuple[int, int]]) -> list[str]:
    """Correct typing mistakes in words that matter, outside of names."""
    named = {place for start, end in places for place in range(start, end)}
    return [
        word if place in named or word in _KNOWN else _SLIPS.get(word, word)
        for place, word in enumerate(wished)
    ]


def _unsayable(rest: list[str]) -> list[str]:
    """Object to conditions, times of day and open quantities: no script can say them."""
    reasons = []
    for start, end in matches(rest, _CONDITIONS):
        reasons.append(f'"{" ".join(rest[start:end])}" is a condition or a time')
    for start, end in matches(rest, _OPEN):
        reasons.append(f'"{" ".join(rest[start:end])}" leaves something open')
    return reasons


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
