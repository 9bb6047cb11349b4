"""Lengths, angles, times and other numbers that an order says, in metres, degrees and seconds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

SMALL = {
    word: number
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
        "fifteen sixteen seventeen eighteen nineteen".split()
    )
}
TENS = {
    word: 10 * number
    for number, word in enumerate(
        "twenty thirty forty fifty sixty seventy eighty ninety".split(), 2
    )
}
PARTS = {
    **{"half": 1 / 2, "halves": 1 / 2, "third": 1 / 3, "thirds": 1 / 3},
    **{"quarter": 1 / 4, "quarters": 1 / 4, "fourth": 1 / 4, "fourths": 1 / 4},
    **{"fifth": 1 / 5, "fifths": 1 / 5, "sixth": 1 / 6, "eighth": 1 / 8, "eighths": 1 / 8},
    **{"tenth": 1 / 10, "tenths": 1 / 10, "hundredth": 1 / 100, "hundredths": 1 / 100},
}
MULTIPLES = frozenset("double triple treble quadruple".split())
TIMES = {"once": 1.0, "twice": 2.0, "thrice": 3.0}

LENGTH = "length"
ANGLE = "angle"
TIME = "time"
BARE = "bare"
OTHER = "other"
REPEAT = "repeat"

_UNIT_WORDS = {
    # kind, size in metres, degrees or seconds: its words
    (LENGTH, 1.0): "m meter meters metre metres mtr mtrs mt mts",
    (LENGTH, 0.1): "dm decimeter decimeters decimetre decimetres",
    (LENGTH, 0.01): "cm cms centimeter centimeters centimetre centimetres centimter centimters",
    (LENGTH, 0.001): "mm mms millimeter millimeters millimetre millimetres",
    (LENGTH, 1000.0): "km kms kilometer kilometers kilometre kilometres",
    (LENGTH, 0.0254): "inch inches ins inchs",
    (LENGTH, 0.3048): "foot feet ft",
    (LENGTH, 0.9144): "yard yards yd yds",
    (LENGTH, 1609.344): "mile miles",
    (ANGLE, 1.0): "degree degrees deg degs",
    (ANGLE, 57.29577951308232): "radian radians rad rads",
    (ANGLE, 360.0): "turn turns revolution revolutions rotation rotations circle circles spin "
    "spins lap laps twirl twirls pirouette pirouettes",
    (TIME, 0.001): "ms millisecond milliseconds",
    (TIME, 1.0): "s sec secs second seconds",
    (TIME, 60.0): "min mins minute minutes",
    (TIME, 3600.0): "h hr hrs hour hours",
    (TIME, 86400.0): "day days",
    (TIME, 604800.0): "week weeks",
    (OTHER, 1.0): "step steps pace paces stride strides o'clock am pm percent mph kmh kph",
}
UNITS = {
    word: unit for unit, words in _UNIT_WORDS.items() for word in words.replace("'", "").split()
}

SMALLER = {0.3048: 0.0254, 1.0: 0.01, 3600.0: 60.0, 60.0: 1.0}
"""What a number without a unit means after one with a unit: "six foot one"."""

BETWEEN = frozenset("big little small good whole full more further extra complete entire".split())
"""What may stand between a number and its unit."""

WHOLE = frozenset("full whole complete entire".split())

ONE = frozenset(("a", "an", "another"))


@dataclass(frozen=True)
class Quantity:
    """A number that is said, with or without a unit.

    Attributes
    ----------
    value : float
        In metres, degrees or seconds, if it has a unit.
    kind : str
        LENGTH, ANGLE, TIME, REPEAT ("twice"), BARE or OTHER: a unit that no script has.
    start, end : int
        Its place among the tokens.
    size : float
        Of its unit.
    """

    value: float
    kind: str
    start: int
    end: int
    size: float = 1.0


def quantities(words: Sequence[str]) -> list[Quantity]:
    """Return what `words.tokens` has of numbers.

    Examples
    --------
    >>> [q.value for q in quantities("two and a half meters then three quarters of a turn".split())]
    [2.5, 270.0]
    >>> [round(q.value, 4) for q in quantities("6 feet 1 inch and half an hour".split())]
    [1.8542, 1800.0]
    """
    found = list[Quantity]()
    place = 0
    while place < len(words):
        quantity = _quantity(words, place)
        if quantity is None:
            place += 1
            continue
        place = quantity.end
        if found and _continues(words, found[-1], quantity):
            last = found[-1]
            value = last.value + quantity.value
            quantity = replace(quantity, value=value, start=last.start)
            found.pop()
        found.append(quantity)
    return found


def _continues(words: Sequence[str], last: Quantity, quantity: Quantity) -> bool:
    """Tell whether two quantities are one, such as 5 feet 3 inches."""
    between = [word for word in words[last.end : quantity.start] if word != "and"]
    return (
        between in ([], [","])
        and last.kind == quantity.kind
        and last.kind in (LENGTH, TIME)
        and quantity.size < last.size
    )


def _quantity(words: Sequence[str], place: int) -> Quantity | None:
    if _at(words, place) in TIMES:
        return Quantity(TIMES[words[place]], REPEAT, place, place + 1)
    number, end = _signed(words, place)
    if number is None:
        return None
    if _at(words, end) in ("times", "x") and place < end:
        return Quantity(number, REPEAT, place, end + 1)
    unit_at = _unit_place(words, end)
    if unit_at is None:
        named_one = _at(words, place) in ONE
        return None if named_one or end == place else Quantity(number, BARE, place, end)
    kind, size = _unit(words, unit_at)
    if size == 360.0 and number == 1.0 and not WHOLE.intersection(words[place:unit_at]):
        return None  # a turn to the left is a quarter
    more, end = _rest(words, unit_at + 1, size)
    return Quantity((number + more) * size, kind, place, end, size)


def _unit_place(words: Sequence[str], place: int) -> int | None:
    """Return where the unit of a number stands that ends at a place."""
    for skipped in (0, 1, 2):
        if _unit(words, place + skipped)[0]:
            return place + skipped
        if _at(words, place + skipped) not in BETWEEN | ONE | {"of", "the"}:
            return None
    return None


def _unit(words: Sequence[str], place: int) -> tuple[str, float]:
    """Return the kind and the size of the unit at a place."""
    word = _at(words, place)
    following = _at(words, place + 1)
    if word == "right" and following in ("angle", "angles"):
        return ANGLE, 90.0
    if word == "in":  # 18 in back, but not: 2 in the kitchen
        short = _is_digits(_at(words, place - 1)) and following in AFTER_INCHES
        return (LENGTH, 0.0254) if short else ("", 0.0)
    if word == "way" and following in ("round", "around"):
        return ANGLE, 360.0
    if word in ("turn", "spin", "circle") and following in ("left", "right", "around", "round"):
        if _at(words, place - 1) not in {*PARTS, *BETWEEN, *ONE}:
            return "", 0.0  # go 2 turn left
    return UNITS.get(word, ("", 0.0))


AFTER_INCHES = frozenset(
    ", . ; ! ? and then back backward backwards forward forwards ahead left right please straight "
    "on off".split()
) | {""}


def _rest(words: Sequence[str], place: int, size: float) -> tuple[float, int]:
    """Return what follows a unit: "a metre AND A HALF", "six foot ONE"; in that unit."""
    if _at(words, place) == "and":
        skip = 2 if _at(words, place + 1) in ONE else 1
        part = PARTS.get(_at(words, place + skip))
        another = _unit_place(words, place + skip + 1) is not None  # and half AN HOUR
        if part:
            return (0.0, place) if another else (part, place + skip + 1)
        count = SMALL.get(_at(words, place + 1))
        part = PARTS.get(_at(words, place + 2))
        if count and part:
            return count * part, place + 3
        return 0.0, place
    number, end = _number(words, place)
    plain = number is not None and end > place and _at(words, place) not in ONE
    if plain and size in SMALLER and _unit_place(words, end) is None and number is not None:
        if _at(words, end) in ("times", "x"):
            return 0.0, place
        return number * SMALLER[size] / size, end
    return 0.0, place


def _signed(words: Sequence[str], place: int) -> tuple[float | None, int]:
    if _at(words, place) in ("minus", "negative"):
        number, end = _number(words, place + 1)
        return (None if number is None else -number), end
    return _number(words, place)


def _number(words: Sequence[str], place: int) -> tuple[float | None, int]:
    """Return the number at a place, and where it ends."""
    word = _at(words, place)
    part, end = _part(words, place)
    if part is not None:
        return part, end
    if word == "point" and _goes_on(words, place + 1):
        return _point(words, 0.0, place + 1)
    if _is_digits(word):
        number, end = _of_digits(word), place + 1
        if _at(words, end) == "point" and _is_digits(_at(words, end + 1)):
            number, end = float(f"{word}.{words[end + 1]}"), end + 2
        if _at(words, end) in ("st", "nd", "rd", "th"):
            return None, end + 1
        if _at(words, end) in ("hundred", "thousand"):
            number, end = number * {"hundred": 100, "thousand": 1000}[words[end]], end + 1
        elif re.fullmatch(r"\d+/\d+", _at(words, end)) and "." not in word:
            number, end = number + _of_digits(words[end]), end + 1
    else:
        spoken, end = _spoken(words, place)
        if spoken is None:
            in_unit = word in ONE and _unit_place(words, place + 1) is not None
            return (1.0, place + 1) if in_unit else (None, place + 1)
        number = spoken
    return _and_a_part(words, number, end)


def _and_a_part(words: Sequence[str], number: float, end: int) -> tuple[float, int]:
    """Add what follows a number: two AND A HALF, one AND THREE QUARTERS."""
    if _at(words, end) != "and":
        return number, end
    if _at(words, end + 1) in ONE and _at(words, end + 2) in PARTS:
        return number + PARTS[words[end + 2]], end + 3
    if _at(words, end + 1) in PARTS:
        return number + PARTS[words[end + 1]], end + 2
    if _at(words, end + 1) in SMALL and _at(words, end + 2) in PARTS:
        return number + SMALL[words[end + 1]] * PARTS[words[end + 2]], end + 3
    if re.fullmatch(r"\d+/\d+", _at(words, end + 1)):
        return number + _of_digits(words[end + 1]), end + 2
    return number, end


def _part(words: Sequence[str], place: int) -> tuple[float | None, int]:
    """Return a part such as half a, a quarter of a, three quarters of a, and where it ends."""
    count = 1.0
    end = place
    if _at(words, end) in ONE:
        end += 1
    elif _at(words, end) in SMALL and _at(words, end + 1) in PARTS:
        count, end = float(SMALL[words[end]]), end + 1
    elif _is_digits(_at(words, end)) and _at(words, end + 1) in PARTS:
        count, end = _of_digits(words[end]), end + 1
    part = PARTS.get(_at(words, end))
    if part is None:
        return None, place
    end += 1
    if _at(words, end) == "of":
        end += 1
    if _at(words, end) in ONE:
        end += 1
    if _at(words, end) == "dozen":
        return count * part * 12, end + 1
    return (count * part, end) if _unit_place(words, end) is not None else (None, place)


def _spoken(words: Sequence[str], place: int) -> tuple[float | None, int]:
    """Return a number in words, and where it ends."""
    total = 0.0
    group: float | None = None  # what is below a thousand
    end = place
    while True:
        word = _at(words, end)
        following = _at(words, end + 1)
        more = _joined(group, word)
        if more is not None:
            group = more
        elif group is None and word in ONE and following in ("hundred", "thousand", "dozen"):
            group = 1.0
        elif word == "thousand":
            total += 1000 * (1.0 if group is None else group)
            group = 0.0
        elif not (word == "and" and group and group % 100 == 0 and _goes_on(words, end + 1)):
            break
        end += 1
    if group is None:
        return None, place + 1
    if _at(words, end) == "point" and _goes_on(words, end + 1):
        return _point(words, total + group, end + 1)
    return total + group, end


def _joined(group: float | None, word: str) -> float | None:
    """Return a number with one word more, or None if the word does not go on with it."""
    hundreds = group is None or (group > 0 and group % 100 == 0) or group == 0
    if word in SMALL and hundreds:
        return (group or 0.0) + SMALL[word]
    if word in SMALL and group is not None and group % 10 == 0 and 0 < SMALL[word] < 10:
        return group + SMALL[word] if 20 <= group % 100 <= 90 else None
    if word in TENS and group is not None and 1 <= group <= 9:
        return 100 * group + TENS[word]  # one eighty
    if word in TENS and hundreds:
        return (group or 0.0) + TENS[word]
    if word in ("hundred", "dozen"):
        return (1.0 if group is None else group) * {"hundred": 100, "dozen": 12}[word]
    return None


def _goes_on(words: Sequence[str], place: int) -> bool:
    """Tell whether a hundred AND goes on with a number, and not with another quantity."""
    return _at(words, place) in TENS or _at(words, place) in SMALL


def _point(words: Sequence[str], number: float, end: int) -> tuple[float, int]:
    scale = 0.1
    while _at(words, end) in SMALL or _at(words, end) in TENS or _at(words, end) in ("oh", "o"):
        digit = SMALL.get(words[end], TENS.get(words[end], 0))
        tens = digit > 9  # point seventy-five
        number += digit * (scale / 10 if tens else scale)
        scale /= 10
        end += 1
    return number, end


def _is_digits(word: str) -> bool:
    return word[:1].isdigit() or (word[:1] == "." and word[1:].isdigit())


def _of_digits(word: str) -> float:
    if "/" in word:
        over, under = (float(part) for part in word.split("/"))
        return over / under if under else 0.0
    if re.fullmatch(r"\d+(?:,\d{3})+(?:\.\d+)?", word):
        word = word.replace(",", "")
    return float(word.replace(",", "."))


def _at(words: Sequence[str], place: int) -> str:
    return words[place] if 0 <= place < len(words) else ""
