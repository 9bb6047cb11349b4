"""The order of the calls in a script against the words before, after, first and last."""

from __future__ import annotations

from collections.abc import Sequence

from . import nouns
from .check_names import NAMING, SAID, words_of
from .phrases import BLANK
from .quantities import quantities
from .scripts import Call
from .vocabulary import ARTICLES, JOINERS, TRIGGERS
from .words import PAUSES


def order(wished: list[str], calls: Sequence[Call]) -> list[str]:
    """Object if a script does something earlier or later than the order says."""
    if len(calls) < 2:
        return []
    places = [_places(call, wished) for call in calls]
    for early, late in _spans(wished):
        first = [at for at, found in enumerate(places) if _within(found, early)]
        last = [at for at, found in enumerate(places) if _within(found, late)]
        if first and last and max(first) > min(last):
            return ["the script does not keep to the order of the steps"]
    return []


def _within(places: list[int], span: range) -> bool:
    """Tell whether something is said in a part of the order, and nowhere else."""
    return bool(places) and all(place in span for place in places)


def _places(call: Call, wished: list[str]) -> list[int]:
    """Return where an order speaks of a call."""
    if call.argument == "user":
        return []
    if call.verb == "say":
        return [place for place, word in enumerate(wished) if word == SAID]
    if call.verb in NAMING:
        return [start for start, _ in nouns.find_all(words_of(call), wished)]
    said = [
        place for place, word in enumerate(wished) if TRIGGERS.get(word) == frozenset((call.verb,))
    ]
    if said or not isinstance(call.argument, float):
        return said
    return [one.start for one in quantities(wished)]


def _spans(wished: list[str]) -> list[tuple[range, range]]:
    """Return pairs of parts of an order, of which the first is to be done first."""
    found = []
    for place, word in enumerate(wished):
        if place and wished[place - 1] in ARTICLES:
            continue
        if word in JOINERS:
            found.append((range(place), range(place + 1, len(wished))))
        elif word in ("before", "after"):
            found += _around(wished, place, word)
        elif word in ("first", "last") and _ends_a_part(wished, place):
            part = range(_part_start(wished, place), place)
            others = [range(part.start), range(place + 1, len(wished))]
            found += [(part, other) if word == "first" else (other, part) for other in others]
    return found


def _around(wished: list[str], place: int, word: str) -> list[tuple[range, range]]:
    """Return the parts on both sides of "before" or "after"."""
    end = _clause_end(wished, place + 1)
    inner = range(place + 1, end)
    start = _clause_start(wished, place)
    outer = range(start, place)
    if all(word in PAUSES or word == BLANK for word in wished[start:place]):
        outer = range(end + 1, _clause_end(wished, end + 1))  # before A, do B
    return [(outer, inner) if word == "before" else (inner, outer)]


def _clause_start(wished: list[str], place: int) -> int:
    while place and wished[place - 1] not in PAUSES:
        place -= 1
    return place


def _clause_end(wished: list[str], place: int) -> int:
    while place < len(wished) and wished[place] not in PAUSES:
        place += 1
    return place


def _part_start(wished: list[str], place: int) -> int:
    while place and wished[place - 1] not in PAUSES | {"and", "but"}:
        place -= 1
    return place


def _ends_a_part(wished: list[str], place: int) -> bool:
    return place + 1 == len(wished) or wished[place + 1] in PAUSES | {"and", "but", "please"}
