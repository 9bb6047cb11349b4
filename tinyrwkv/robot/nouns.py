"""Where an order says the words of a name, allowing for spelling and plural."""

from __future__ import annotations

from collections.abc import Sequence

from .phrases import BLANK, blanked
from .quantities import SMALL, TENS
from .vocabulary import FUNCTION, words_of_text
from .words import PAUSES

_NUMBERS = {word: f"{number:g}" for word, number in (SMALL | TENS).items()}


def find(name: Sequence[str], words: Sequence[str]) -> tuple[int, int] | None:
    """Return where the words of a name stand side by side, or None.

    Words such as "the" may stand between them. "Book shelf" and "bookshelf" are the same.
    """
    if not name:
        return None
    joined = "".join(name)
    for start, word in enumerate(words):
        if word == BLANK or word in PAUSES:
            continue
        end = _along(name, words, start)
        if end is not None:
            return start, end
        for count in (len(name) - 1, len(name) + 1, len(name) + 2):
            window = words[start : start + count]
            whole = len(window) == count > 0 and BLANK not in window
            if whole and similar("".join(window), joined):
                return start, start + count
    return _described(name, words)


def _described(name: Sequence[str], words: Sequence[str]) -> tuple[int, int] | None:
    """Find a name whose adjectives come after it: "the cup that is red", "a cup, the red one"."""
    *adjectives, noun = name
    for start, word in enumerate(words):
        if not adjectives or not similar(word, noun):
            continue
        window = list(words[start + 1 : start + 8])
        if DESCRIBING.isdisjoint(window):
            continue
        ends = [place for place, near in enumerate(window, start + 2) if near in adjectives]
        if len(ends) == len(adjectives) and not names_between(window, adjectives):
            return start, max(ends)
    return None


DESCRIBING = words_of_text("that that's which is one ones whose coloured colored")


def names_between(window: Sequence[str], adjectives: Sequence[str]) -> bool:
    """Tell whether other words than small ones stand before the last adjective."""
    last = max(place for place, word in enumerate(window) if word in adjectives)
    known = FUNCTION | DESCRIBING | PAUSES | set(adjectives)
    return any(word not in known for word in window[:last])


def find_all(name: Sequence[str], words: Sequence[str]) -> list[tuple[int, int]]:
    """Return all places where the words of a name stand."""
    found = list[tuple[int, int]]()
    left = list(words)
    while (place := find(name, left)) is not None:
        found.append(place)
        left = blanked(left, [place])
    return found


def _along(name: Sequence[str], words: Sequence[str], start: int) -> int | None:
    place = start
    for number, part in enumerate(name):
        skipped = 0
        while number and skipped < 3 and place < len(words) and not similar(words[place], part):
            if words[place] not in FUNCTION:
                return None
            place += 1
            skipped += 1
        if place >= len(words) or not similar(words[place], part):
            return None
        place += 1
    return place


def similar(said: str, written: str) -> bool:
    """Tell whether two words are the same but for spelling, plural or digits.

    Examples
    --------
    >>> similar("kichen", "kitchen"), similar("cups", "cup"), similar("two", "2")
    (True, True, True)
    >>> similar("cup", "cap"), similar("lamp", "lab")
    (False, False)
    """
    said = _NUMBERS.get(said, said)
    written = _NUMBERS.get(written, written)
    if said == written or _single(said) == _single(written):
        return True
    shorter = min(len(said), len(written))
    if shorter < 4 or _digits(said) != _digits(written):
        return False
    most = 1 if shorter < 7 else 2
    return abs(len(said) - len(written)) <= most and _distance(said, written, most) <= most


def _digits(word: str) -> str:
    return "".join(letter for letter in word if letter.isdigit())


def _single(word: str) -> str:
    """Return a word without the ending of a plural."""
    for ending, instead in (("ies", "y"), ("ves", "f"), ("es", ""), ("s", "")):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            return word[: -len(ending)] + instead
    return word[:-1] if word.endswith("e") and len(word) > 3 else word


def _distance(said: str, written: str, most: int) -> int:
    """Return how many letters differ: inserted, left out, exchanged or wrong."""
    before: list[int] = []
    row = list(range(len(written) + 1))
    for i, letter in enumerate(said, 1):
        above, before = before, row
        row = [i]
        for j, other in enumerate(written, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other))
            swapped = i > 1 and j > 1 and letter == written[j - 2] and said[i - 2] == other
            row.append(min(cost, above[j - 2] + 1) if swapped else cost)
        if min(row) > most:
            return most + 1
    return row[-1]
