"""Orders that are not meant: taken back at the end, only told of, judged, or limited."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from . import nouns
from .check_names import NAMING, words_of
from .check_numbers import side_of
from .negations import counts, negations
from .phrases import BLANK, index, matches
from .scripts import Call
from .vocabulary import (
    ARTICLES,
    JUDGED,
    LEFT,
    LIMITED,
    ORDER_VERBS,
    OTHER,
    RIGHT,
    SPEEDS,
    STAY,
    TAKEN_BACK,
    TOLD_OF,
    words_of_text,
)
from .words import PAUSES

_TAKEN_BACK = index(TAKEN_BACK)
_TOLD_OF = index(TOLD_OF)
_JUDGED = index(JUDGED)
_STAY = index(STAY)
_LIMITED = index(LIMITED)
_NOT = words_of_text("not never don't isn't wasn't won't shouldn't")
_EMPTY = PAUSES | words_of_text("it that this to so want need bother do me please you be dare")
"""A negated clause of these says nothing but no: "DON'T you DARE"."""
_NOTHING = {BLANK} | words_of_text("please robot lol haha then ok okay now")
"""What may follow words that take an order back."""
_OWN = {BLANK} | words_of_text("i you have had you've i've having as")
"""Before "said", these tell of no other order."""
_TO_DO = ORDER_VERBS | {"to"}
_NONE = frozenset[str]()


def meant(words: list[str], wished: list[str], calls: Sequence[Call]) -> list[str]:
    """Object to an order that somebody only talks about, or does not want after all."""
    verbs = {call.verb for call in calls}
    if verbs <= {"stop", "report"}:
        return []
    if verbs.isdisjoint(("stop", "wait", "report")):
        stays = _said(wished, _STAY)
        if stays:
            return [f'the script leaves out "{stays[0]}"']
    reasons = _taken_back(words) + _said_of_another(words)
    reasons += [f'"{said}" tells of an order' for said in _said(words, _TOLD_OF)]
    reasons += [f'"{said}" judges the order' for said in _said(words, _JUDGED)]
    if "speed" not in verbs:
        reasons += [f'"{said}" leaves something out' for said in _said(words, _LIMITED)]
    reasons += [
        f'"{" ".join(words[place : place + 4])}" judges the order'
        for place in range(len(words) - 3)
        if words[place] == "too" and words[place + 2] == "to" and words[place + 3] in ORDER_VERBS
    ]
    return reasons + _negated_later(words, wished, calls)


def _said(words: list[str], phrases: dict[str, list[tuple[str, ...]]]) -> list[str]:
    return [" ".join(words[start:end]) for start, end in matches(words, phrases)]


def _taken_back(words: list[str]) -> list[str]:
    """Object if nothing that counts follows the words that take an order back."""
    for start, end in matches(words, _TAKEN_BACK):
        nothing_follows = all(word in PAUSES or word in _NOTHING for word in words[end:])
        if nothing_follows and any(counts(word) for word in words[:start]):
            return [f'"{" ".join(words[start:end])}" takes the order back']
    for start, end in negations(words):
        clause = words[end:]
        bare = _EMPTY.issuperset(clause) and not _NOT.isdisjoint(words[start:end])
        if bare and any(counts(word) for word in words[:start]):
            return [f'"{" ".join(words[start:])}" takes the order back']
    return []


def _said_of_another(words: list[str]) -> list[str]:
    """Object to what somebody else has said: "he SAID go to the kitchen"."""
    return [
        f'"{words[place - 1]} {word}" tells of an order'
        for place, word in enumerate(words)
        if word in ("said", "says")
        and place
        and words[place - 1] not in PAUSES | ARTICLES | _OWN
        and not _TO_DO.isdisjoint(words[place + 1 : place + 3])
    ]


def _sides(calls: Sequence[Call]) -> list[frozenset[str]]:
    """Return the words for the sides to which a script turns, and for its speeds."""
    done = {side_of(call) for call in calls}
    speeds = [SPEEDS.get(str(call.argument), _NONE) for call in calls if call.verb == "speed"]
    return [words for side, words in (("left", LEFT), ("right", RIGHT)) if side in done] + speeds


def _negated_later(words: list[str], wished: list[str], calls: Sequence[Call]) -> list[str]:
    """Object if what a script does is wished first, and negated afterwards."""
    reasons = []
    for call in calls:
        if call.verb in NAMING and call.argument != "user":
            name = words_of(call)
            now = [start for start, _ in nouns.find_all(name, wished)]
            all_places = [start for start, _ in nouns.find_all(name, words)]
            if now and all_places and max(all_places) > max(now):
                reasons.append(f"the order names {call.argument}, and then takes it back")
    other = [word for before, word in pairwise(words) if before in OTHER and word in LEFT | RIGHT]
    reasons += [f'the order says "other {word}"' for word in other]
    for side in _sides(calls):
        now = [place for place, word in enumerate(wished) if word in side]
        said = [
            place
            for place, word in enumerate(words)
            if word in side and not _NOT.isdisjoint(words[max(0, place - 2) : place])
        ]
        if now and said and max(said) >= max(now):
            reasons.append(f'the order says "{wished[now[0]]}", and then takes it back')
    return list(dict.fromkeys(reasons))
