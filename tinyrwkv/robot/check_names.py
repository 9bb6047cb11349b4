"""The names in a script against those in an order: nothing is fetched that was not named."""

from __future__ import annotations

from collections.abc import Sequence

from . import nouns
from .idioms import UNFOLLOWED, UNREAL
from .negations import first_part, forbids_taking_it, named_for_a_pronoun, names_in
from .phrases import blanked, index, matches
from .quantities import UNITS
from .scripts import Call
from .vocabulary import AGAIN, ARTICLES, ELSEWHERE, OTHER, TO_USER, USER, VAGUE
from .words import PAUSES, tokens

Span = tuple[int, int]

SAID = "_said"
"""Stands for what the robot is to say, because those words are not for the guard."""

NAMING = ("goto", "pick", "place", "follow")
"""Calls whose argument is a name."""

_TO_USER = index(TO_USER)


def without_said(words: list[str], calls: Sequence[Call]) -> tuple[list[str], list[str]]:
    """Replace what the robot is to say by SAID; return the words and the objections."""
    reasons = []
    for call in dict.fromkeys(calls):
        if call.verb != "say":
            continue
        place = nouns.find(words_of(call), words)
        if len(words_of(call)) == 1 and words_of(call)[0] in VAGUE:
            reasons.append(f"{call} says no words")
        if place is None:
            reasons.append(f"the order does not say the words of {call}")
        else:
            following = words[place[1]] if place[1] < len(words) else ""
            if names_in([following]):
                reasons.append(f"{call} leaves out words that follow")
            words = blanked(words, [place])
            words[place[0]] = SAID
    return words, reasons


def names(
    words: list[str], wished: list[str], calls: Sequence[Call]
) -> tuple[list[Span], list[str]]:
    """Return where the names of a script stand in an order, and the objections to them."""
    places = list[Span]()
    reasons = []
    sources = named_for_a_pronoun(words, wished)
    to_user = set(words if "but" in wished else wished)  # do not bring me A but B
    for call in calls:
        if call.verb not in NAMING:
            continue
        if call.argument == "user":
            if USER.isdisjoint(to_user):
                reasons.append(f"the order does not ask for {call}")
            continue
        name = words_of(call)
        found = nouns.find_all(name, wished) or nouns.find_all(name, sources)
        if not found or name[0] in VAGUE:
            reasons.append(f"the order does not name {call.argument}")
        elif len(name) == 1 and name[0] in (UNFOLLOWED if call.verb == "follow" else UNREAL):
            reasons.append(f"no robot can {call.verb} the {call.argument}")
        elif any(_overlap(found, other, wished) for other in calls if other != call):
            reasons.append(f"{call.argument} is a part of another name")
        reasons += _another(call, found, wished)
        places += found
    taken = [call.argument for call in calls if call.verb == "pick"]
    things = set(taken)
    if taken and forbids_taking_it(words):
        reasons.append("the order forbids to take it")
    if len(things) < len(taken) and AGAIN.isdisjoint(wished):
        reasons.append("the script takes something twice")
    if things.intersection(call.argument for call in calls if call.verb == "goto"):
        reasons.append("the script takes a thing for a place")
    return places, reasons + _to_user(wished, calls)


def _another(call: Call, found: list[Span], wished: list[str]) -> list[str]:
    """Object if another one is meant, or what is past, behind or around the one that is named."""
    for start, _ in found:
        before = [word for word in wished[max(0, start - 3) : start] if word not in ARTICLES]
        if OTHER.intersection(before[-1:]):
            return [f"the order says another {call.argument}"]
        if call.verb == "goto" and ELSEWHERE.intersection(before[-1:]):
            return [f'the order says "{before[-1]}", and not to go to {call.argument}']
    return []


def words_of(call: Call) -> list[str]:
    """Return the words of the argument of a call."""
    return [word for word in tokens(str(call.argument)) if word not in PAUSES]


def _overlap(found: list[Span], other: Call, wished: list[str]) -> bool:
    """Tell whether another name stands across the place of one that was found."""
    if other.verb not in NAMING or other.argument == "user":
        return False
    others = nouns.find_all(words_of(other), wished)
    return set(others).isdisjoint(found) and any(
        first < end and start < last for start, end in others for first, last in found
    )


def _to_user(wished: list[str], calls: Sequence[Call]) -> list[str]:
    """Object if something is to be brought to the speaker, and the script does not come."""
    told = next(matches(wished, _TO_USER), None)
    taken = any(call.verb == "pick" for call in calls)
    if told and taken and Call("goto", "user") not in calls:
        said = " ".join(wished[slice(*told)])
        return [f'the order says "{said}", and the script does not come to you']
    return []


def corrected(words: list[str], cue: Span, places: list[Span]) -> list[str]:
    """Object if a correction names something, and the script drops nothing for it."""
    used = {place for start, end in places for place in range(start, end)}
    before = [place for place in names_in(words) if place < cue[0]]
    end = cue[1] + len(first_part(words[cue[1] :]))
    after = [place for place in names_in(words) if cue[1] <= place < end]
    if after and not used.intersection(after):
        return ["the order is corrected, and the script does not follow it"]
    if words[cue[1]] in UNITS:
        return ["the order corrects a unit, and the script may not follow it"]
    if after and before and used.issuperset(before):
        return ["the order is corrected, and the script drops nothing"]
    return []
