"""Verbs that the robot has, in orders that mean something else: open the door, turn the key."""

from __future__ import annotations

from collections.abc import Sequence

from .idioms import IDIOMS
from .negations import names_in
from .phrases import index, matches
from .scripts import Call
from .vocabulary import ARTICLES, HANDS, NEAR, PAST, SELF, TURNED

_IDIOMS = index(IDIOMS)
_GRIPS = {"open": "open", "close": "close", "shut": "close"}
_POINTING = ARTICLES - {"a", "an"}


def meanings(wished: list[str], rest: list[str], calls: Sequence[Call]) -> list[str]:
    """Object to idioms, to verbs with an object of their own, and to tales of what was done."""
    verbs = {call.verb for call in calls}
    reasons = []
    for start, end in matches(wished, _IDIOMS):
        reasons.append(f'"{" ".join(wished[start:end])}" has a meaning of its own')
    for place, word in enumerate(rest):
        thing, pointed = _object(rest, place)
        if thing and pointed and "turn" in verbs and word in ("turn", "rotate", "spin"):
            if thing not in TURNED:
                reasons.append(f'the order is to {word} "{thing}"')
        if thing and pointed and "stop" in verbs and word == "stop":
            reasons.append(f'the order is to stop "{thing}"')
        before = rest[place - 1] if place else ""
        if word == "yourself" and before not in SELF and names_in([before]):
            reasons.append(f'"{before} yourself" has no call')
        if word in PAST and place and rest[place - 1] == "you":
            reasons.append(f'"you {word}" is no order')
    return reasons + _grips(rest, calls)


def _grips(rest: list[str], calls: Sequence[Call]) -> list[str]:
    """Object if what is opened or closed is no hand, or if the hand does it more often."""
    done = [str(call.argument) for call in calls if call.verb == "gripper"]
    said = [(word, _is_grip(rest, place)) for place, word in enumerate(rest) if word in _GRIPS]
    grips = [_GRIPS[word] for word, is_grip in said if is_grip]
    if done and len(grips) > len(done):
        return ["the script leaves out a movement of the gripper"]
    others = [word for word, is_grip in said if not is_grip]
    return [
        f'"{word}" is not about the gripper'
        for word in others
        if _GRIPS[word] in done and _GRIPS[word] not in grips
    ]


def _is_grip(rest: list[str], place: int) -> bool:
    """Tell whether "open" or "close" is said of a hand: not of a door, and not "close to"."""
    before = rest[place - 1] if place else ""
    following = rest[place + 1] if place + 1 < len(rest) else ""
    thing, _ = _object(rest, place)
    return before not in NEAR and following != "to" and (not thing or thing in HANDS)


def _object(rest: list[str], place: int) -> tuple[str, bool]:
    """Return the thing that a verb is said of, or "", and whether it has an article."""
    following = [*rest[place + 1 : place + 3], "", ""]
    pointed = following[0] in _POINTING
    thing = following[1] if following[0] in ARTICLES else following[0]
    return (thing if names_in([thing]) or thing in HANDS else ""), pointed
