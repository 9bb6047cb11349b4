"""What an order takes back: negated clauses, and what a correction replaces."""

from __future__ import annotations

from collections.abc import Sequence

from .phrases import BLANK, blanked, index, matches
from .quantities import ANGLE, BARE, LENGTH, SMALL, TENS, TIME, quantities
from .vocabulary import (
    ALONE,
    ARTICLES,
    BACK,
    CORRECTIONS,
    EVIDENCE,
    EXCUSES,
    FORWARD,
    FUNCTION,
    LEFT,
    LOOKS,
    NEGATIONS,
    ORDER_VERBS,
    POSITIVE_AGAIN,
    RIGHT,
    SPEEDS,
    TAKING,
    TRIGGERS,
)
from .words import PAUSES

_CORRECTIONS = index(CORRECTIONS)
_NEGATIONS = index(NEGATIONS)
_NO_NAMES = (
    FUNCTION.union(ORDER_VERBS, PAUSES, LEFT, RIGHT, BACK, FORWARD, TRIGGERS, {BLANK, ""})
    .union(*EVIDENCE.values())
    .union(*SPEEDS.values(), *LOOKS.values())
)
_SPEEDS = frozenset().union(*SPEEDS.values())
_UP_DOWN = frozenset(("up", "down"))
_DIRECTIONS = LEFT | RIGHT | BACK | FORWARD
_AFTER_NO = ORDER_VERBS | ARTICLES | _DIRECTIONS | {"to", "in", "on", "at", "from", "wait", "into"}


def without_negated(words: Sequence[str]) -> list[str]:
    """Blank every negated clause: from a negation to the next pause, "but" or "just"."""
    return blanked(words, [(start, _end(words, end)) for start, end in negations(words)])


def named_for_a_pronoun(words: Sequence[str], wished: list[str]) -> list[str]:
    """Return what is wished, with negated clauses that only name what "it" is later.

    "I do not want THE CUP here, take it away." A clause with the verb of an order is none.
    """
    shown = list(wished)
    for _, end in negations(words):
        stop = _end(words, end)
        if _PRONOUNS.isdisjoint(wished[stop:]) or not _ACTIONS.isdisjoint(words[end:stop]):
            continue
        shown[end:stop] = words[end:stop]
    return shown


def forbids_taking_it(words: Sequence[str]) -> bool:
    """Tell whether a thing that was named before must not be taken: "do not touch it"."""
    clauses = [words[end : _end(words, end)] for _, end in negations(words)]
    return any(
        not TAKING.isdisjoint(clause) and not _PRONOUNS.isdisjoint(clause) for clause in clauses
    )


_PRONOUNS = frozenset("it them him her one".split())
_ACTIONS = ORDER_VERBS - {"leave", "let", "keep", "stay"}


def negations(words: Sequence[str]) -> list[tuple[int, int]]:
    """Return where negations stand, without their clauses."""
    found = list(matches(words, _NEGATIONS))
    found += [(place, place + 1) for place, word in enumerate(words) if word == "no"]
    found += [
        (place, place + 1)
        for place, word in enumerate(words)
        if word in ("leave", "let") and "alone" in words[place : _end(words, place)]
    ]
    return found


def _end(words: Sequence[str], place: int) -> int:
    while place < len(words) and words[place] not in PAUSES | POSITIVE_AGAIN:
        place += 1
    return place


def correction(words: Sequence[str]) -> tuple[int, int] | None:
    """Return where the last correction stands that has something to correct, or None."""
    cues = list(matches(words, _CORRECTIONS))
    within = {place for start, end in cues for place in range(start, end)}
    for place, word in enumerate(words):
        if place not in within and _is_no(words, place, word):
            cues.append((place, place + 1))
    wished = [place for place, word in enumerate(words) if counts(word)]
    for start, end in sorted(cues, reverse=True):
        if " ".join(words[start:end]) in ALONE and not _takes_back(words, start, end):
            continue
        if words[start] == "instead" and (words[start - 1] not in PAUSES or words[end] == "of"):
            continue
        if any(place < start for place in wished) and any(place >= end for place in wished):
            return start, end
    return None


def counts(word: str) -> bool:
    """Tell whether a word says something that can be taken back."""
    return word not in PAUSES and word not in (BLANK, "no", "please", "wait")


def _is_no(words: Sequence[str], place: int, word: str) -> bool:
    """Tell whether a word takes back what was said: "left, NO, right", not "NO sugar"."""
    following = words[place + 1] if place + 1 < len(words) else ""
    return word == "no" and (
        following in PAUSES
        or following in _AFTER_NO
        or following == BLANK
        or following[:1].isdigit()
        or following in SMALL
        or following in TENS
    )


def _takes_back(words: Sequence[str], start: int, end: int) -> bool:
    """Tell whether "wait" stands alone, and is no order to wait for a time."""
    before = words[start - 1] if start else ","
    following = words[end] if end < len(words) else ","
    alone = before in PAUSES | {BLANK} and following in PAUSES | {BLANK}
    return alone or following in {"no", "not", "cancel", "actually", "sorry"}


def is_order(words: Sequence[str]) -> bool:
    """Tell whether the words after a correction begin with an order of their own."""
    return not ORDER_VERBS.isdisjoint(first_part(words))


def first_part(words: Sequence[str]) -> Sequence[str]:
    """Return the words up to the first pause, "and" or "then" behind a word that counts."""
    started = False
    for place, word in enumerate(words):
        if started and word in PAUSES | {"and", "then"}:
            return words[:place]
        started = started or (counts(word) and word not in FUNCTION | EXCUSES)
    return words


def replaced(words: Sequence[str], cue: tuple[int, int]) -> list[str]:
    """Blank what a correction replaces.

    If the correction is an order of its own, that is all that was said before. Otherwise it is
    what there is in its place: a direction, a quantity.
    """
    start, end = cue
    before = blanked(words, [(start, end)])[:end]
    after = list(words[end:])
    if is_order(after):
        return [BLANK] * end + after
    instead = first_part(after)
    for axis in (LEFT | RIGHT, BACK | FORWARD, _SPEEDS, _UP_DOWN):
        if not axis.isdisjoint(instead):
            before = [BLANK if word in axis else word for word in before]
    kinds = {one.kind for one in quantities(instead)}
    if kinds:
        kinds.add(BARE)  # two, no, three metres
    if BARE in kinds:
        kinds |= {LENGTH, ANGLE, TIME}  # two metres, no, three
    if names_in(instead):
        kinds.add(BARE)  # room 2, no, the office
    gone = [one for one in quantities(before) if one.kind in kinds]
    before = blanked(before, [(one.start, one.end) for one in gone])
    return before + after


def names_in(words: Sequence[str]) -> list[int]:
    """Return the places of words that may be part of the name of a thing or a place."""
    numbers = {place for number in quantities(words) for place in range(number.start, number.end)}
    known = _NO_NAMES
    return [place for place, word in enumerate(words) if word not in known and place not in numbers]
