"""The numbers and directions in a script against those in an order, both ways."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from .quantities import ANGLE, BARE, LENGTH, MULTIPLES, PARTS, REPEAT, TIME, Quantity, quantities
from .scripts import Call
from .vocabulary import (
    AHEAD,
    AROUND,
    BACK,
    BACKWARD,
    FULL,
    LEFT,
    MOTION,
    ORDINALS,
    OTHER,
    RETURNING,
    RIGHT,
    TURNING,
    TURNING_VERBS,
)
from .words import PAUSES

KINDS = {"move": LENGTH, "turn": ANGLE, "wait": TIME}
ROUNDING = {"move": 0.0051, "turn": 0.0501, "wait": 0.0501}
"""Scripts have two decimals of a metre and one of a degree or a second."""


# ---- numbers ----


def numbers(
    rest: list[str], calls: Sequence[Call], corrected: Sequence[Quantity] = ()
) -> list[str]:
    """Object to a number that the order does not say, and to one that the script leaves out.

    `corrected` are the quantities that a correction replaces: "two feet, no, THREE" are feet too.
    """
    sizes = [one.size for one in corrected if one.kind in (LENGTH, ANGLE, TIME)]
    said = [_in_units(one, sizes) for one in quantities(rest)]
    used = set[int]()
    reasons = []
    circles = [call for call in calls if call.verb == "turn" and number_of(call) % 360 == 0]
    whole = not circles and not FULL.isdisjoint(rest)
    for call in calls:
        if isinstance(call.argument, float):
            fitting = _fitting(call, said, rest, whole)
            used.update(fitting or ())
            if fitting is None:
                reasons.append(f"the order does not say the number of {call}")
    reasons += _multiplied(rest, said)
    if any(call.verb == "wait" for call in calls):
        reasons += _waits_instead(rest, said)
    counts = Counter(calls)
    for at, one in enumerate(said):
        if at not in used and not _needs_no_number(one, rest, counts):
            told = " ".join(rest[one.start : one.end])
            reasons.append(f'the script has no number for "{told}"')
    return reasons


def _fitting(call: Call, said: list[Quantity], rest: list[str], whole: bool) -> list[int] | None:
    """Return which quantities explain the number of a call, or None if nothing explains it."""
    found = [at for at, one in enumerate(said) if fits(call, one)]
    if found or call.verb != "turn":
        return found or None
    angle = abs(number_of(call))
    sideways = not (LEFT | RIGHT).isdisjoint(rest)
    around = not AROUND.isdisjoint(rest)
    units = [90.0] * (sideways and not whole) + [180.0, 360.0] * around
    counts = [
        at for at, one in enumerate(said) if one.kind in (REPEAT, BARE) and not _times(said, at)
    ]
    found = [at for at in counts if any(angle == unit * said[at].value for unit in units)]
    return found if found or angle in units else None


def _times(said: list[Quantity], at: int) -> bool:
    """Tell whether a count multiplies what follows: "2 times 45 degrees"."""
    return any(one.kind == ANGLE and one.start == said[at].end for one in said)


def _multiplied(rest: list[str], said: list[Quantity]) -> list[str]:
    """Object to a part or a multiple of a number: "DOUBLE 2 metres", "HALF OF 4 metres"."""
    reasons = []
    for one in said:
        before = [word for word in rest[max(0, one.start - 3) : one.start] if word != "the"]
        part = before[-2:-1] and before[-2] in PARTS and before[-1] == "of"
        if part or (before and before[-1] in MULTIPLES):
            reasons.append(f'"{" ".join(before[-2:])}" changes a number')
    return reasons


def _waits_instead(rest: list[str], said: list[Quantity]) -> list[str]:
    """Object if a time is for how long to move: "go forward FOR 5 seconds"."""
    return [
        f'the order is to move for "{" ".join(rest[one.start : one.end])}"'
        for one in said
        if one.kind == TIME
        and one.start > 1
        and rest[one.start - 1] == "for"
        and rest[one.start - 2] in MOTION
    ]


def _in_units(said: Quantity, sizes: list[float]) -> Quantity:
    """Give a number without a unit the unit of the quantity that it replaces."""
    if said.kind != BARE or len(sizes) != 1:
        return said
    return replace(said, value=said.value * sizes[0])


def fits(call: Call, said: Quantity) -> bool:
    """Tell whether a quantity is the number of a call, as it is rounded there."""
    kind = KINDS.get(call.verb, BARE)
    off = abs(abs(number_of(call)) - abs(said.value))
    if said.value < 0 < number_of(call):
        return False
    return said.kind in (kind, BARE) and off <= ROUNDING.get(call.verb, 1e-9)


def _needs_no_number(said: Quantity, rest: list[str], counts: Counter[Call]) -> bool:
    """Tell whether a quantity need not stand in the script."""
    if said.kind == REPEAT:
        return said.value == 1 or _repeated(counts, said.value)
    if said.kind == BARE:
        numbers_a_part = rest[said.end : said.end + 1] == [")"]  # 1) and 2)
        means_to = rest[said.start : said.end + 1] in (["2", "me"], ["4", "me"])
        counted = said.value > 1 and _repeated(counts, said.value)  # two photos
        return counted or numbers_a_part or means_to or rest[said.start : said.end] == ["one"]
    return False


def _repeated(counts: Counter[Call], times: float) -> bool:
    """Tell whether a script does all calls of some verb this number of times."""
    verbs = {call.verb for call, count in counts.items() if times and count % times == 0}
    return any(
        all(count % times == 0 for call, count in counts.items() if call.verb == verb)
        for verb in verbs
    )


def number_of(call: Call) -> float:
    """Return the number of a call, or 0."""
    return call.argument if isinstance(call.argument, float) else 0.0


# ---- directions ----


def directions(rest: list[str], calls: Sequence[Call]) -> list[str]:
    """Hold left, right, forward and back against the signs of a script."""
    reasons = []
    sides = [side for side in (_side(rest, place) for place in range(len(rest))) if side]
    minus = any(number.value < 0 for number in quantities(rest))
    if sides and any(map(side_of, calls)) and not minus and not _agree(sides, calls):
        reasons.append("left and right in the script are not those of the order")
    if any(call.verb == "turn" and number_of(call) % 180 for call in calls):
        if not sides and not minus:
            reasons.append("the order does not say left or right")
    if sides and any(map(side_of, calls)) and _other_side(rest):
        reasons.append("the order says another side than the one it names")
    reasons += _away(rest, calls)
    looks = any(call.verb == "look" for call in calls)
    turns = any(call.verb == "turn" for call in calls)
    if looks and turns and TURNING_VERBS.isdisjoint(rest):
        reasons.append("the order does not say to turn")
    moves = [number_of(call) > 0 for call in calls if call.verb == "move"]
    if moves and not minus:
        reasons += _forward_or_back(rest, moves, Call("look", "behind") in calls)
    return reasons


def _other_side(rest: list[str]) -> bool:
    """Tell whether a side is named for the other one: "the OPPOSITE of left", "OTHER left"."""
    told = " ".join(rest)
    said = ("the opposite of", "do the opposite", "the reverse of")
    if any(phrase in told for phrase in said):
        return True
    return any(
        word in LEFT | RIGHT
        and (
            rest[max(0, place - 1)] in OTHER
            or (rest[max(0, place - 2)] == "the" and rest[place - 1] in ORDINALS)
            or "opposite" in rest[place : place + 2]
            or rest[place + 1 : place + 4] == ["the", "other", "way"]
        )
        for place, word in enumerate(rest)
    )


def _away(rest: list[str], calls: Sequence[Call]) -> list[str]:
    """Object to a way with a number that is measured from something."""
    told = " ".join(rest)
    if any(call.verb == "move" and number_of(call) > 0 for call in calls):
        for said in ("away from", "in the direction of"):
            if f" {said} " in f" {told} ":
                return [f'the script does not say "{said}"']
    return []


def _forward_or_back(rest: list[str], moves: list[bool], looks_back: bool) -> list[str]:
    """Hold the words forward and back against the moves, of which True is forward."""
    if not all(moves) and BACK.isdisjoint(rest):
        return ["the order does not say back, as the script does"]
    said = [_ahead(rest, place) for place in range(len(rest))]
    ways = [ahead for ahead in said if ahead is not None]
    if looks_back or False not in ways:
        return []
    if (len(ways) == len(moves) and ways != moves) or all(moves):
        return ["the order says back, and the script goes forward"]
    return []


def _agree(sides: list[str], calls: Sequence[Call]) -> bool:
    """Tell whether the calls turn to the sides that are said, in their order.

    Half and full turns may or may not have a side, so both readings are tried. A side that is said
    several times may stand for one call, and one word for several calls.
    """
    for half in (180, 1e9):
        done = [side for side in (side_of(call, half) for call in calls) if side]
        if sides == done or (set(sides) == set(done) and len(set(sides)) == 1):
            return True
    return False


def _side(rest: list[str], place: int) -> str:
    word = rest[place]
    before = rest[place - 1] if place else ","
    following = rest[place + 1] if place + 1 < len(rest) else ""
    if word == "right" and following in ("angle", "angles"):
        return ""
    begins = before in PAUSES and following in PAUSES
    if word == "right" and (begins or following in ("robot", "so", "like", "well")):
        return ""  # right, go on
    if word == "right" and following in ("now", "away", "here", "there") and before not in TURNING:
        return ""
    return "left" if word in LEFT else "right" if word in RIGHT else ""


def side_of(call: Call, half: float = 180) -> str:
    """Return the side to which a call turns or looks, or ""."""
    if call.verb == "look" and call.argument in ("left", "right"):
        return str(call.argument)
    if call.verb == "turn" and number_of(call) % half:
        return "left" if number_of(call) > 0 else "right"
    return ""


def _ahead(rest: list[str], place: int) -> bool | None:
    """Tell whether a word means forward or backward; None if neither, such as back to a place."""
    following = rest[place + 1] if place + 1 < len(rest) else ""
    if rest[place] in BACKWARD and not (rest[place] == "back" and following in RETURNING):
        return False
    return True if rest[place] in AHEAD else None
