"""Write strings: of some lengths, with patterns and formats."""

from __future__ import annotations

from collections.abc import Sequence as List

from ...errors import ArgumentError
from ..characters import complement
from ..pattern import MOST_REPEATS, Characters, Node, Repeat, Sequence
from .ecma import in_whole_texts
from .formats import FORMATS, format_of
from .graphs import graph
from .reader import Reader
from .refusals import too_large
from .search import Lengths, Machine, Together, together
from .shapes import Strings, smaller
from .spelling import SPELLABLE, literal, spelled, spelled_tree

SHORT = 100
"""Characters of a string at most, if its patterns and its length together take too much."""

MOST_OF_A_STRING = 12_000
"""Of the automaton of one string, about."""

SIZE_OF_UNICODE = 10
"""States that it takes to read a character of several bytes, about."""


def string(shape: Strings, reader: Reader, path: str) -> Node | None:
    """Return the tree of JSON strings, with their quotes; None if there are none.

    Raises
    ------
    ArgumentError
        The automaton of the patterns is too large.
    """
    inside = _inside(shape, reader, path)
    return None if inside is None else Sequence((literal('"'), inside, literal('"')))


def _inside(shape: Strings, reader: Reader, path: str) -> Node | None:
    most = shape.most
    for name in shape.formats:
        most = smaller(most, FORMATS[name].longest)
    least = shape.least
    if least > MOST_REPEATS:
        too_large(path, f"strings of more than {MOST_REPEATS:,} characters")
    if most is not None and most < least:
        return None
    most = None if most is None else min(most, MOST_REPEATS)
    patterns = (*shape.patterns, *map(format_of, shape.formats))
    has_length = bool(least) or most is not None
    if not patterns:
        any_character = spelled(complement(()))
        return None if any_character is None else Repeat(any_character, least, most)
    if len(patterns) == 1 and not has_length and not patterns[0].without:
        tree = in_whole_texts(patterns[0].tree)
        if tree is not None:
            return spelled_tree(tree)
    searches = [machine for pattern in patterns for machine in reader.machines(pattern)]
    if not has_length:
        return texts(searches, reader, path)
    shorter = most if most is None else min(most, max(least, SHORT))
    try:
        return texts([*searches, Lengths(least, most)], reader, path)
    except ArgumentError:
        if shorter == most:
            raise
    return texts([*searches, Lengths(least, shorter)], reader, path)


def texts(machines: List[Machine], reader: Reader, path: str) -> Node | None:
    """Return the tree of the texts that all of some automata accept, as written in a string."""
    found: Together = together(machines, SPELLABLE, reader.work, path)
    edges = []
    for (begin, target), ranges in found.edges.items():
        reader.work.spend(len(ranges), path)
        part = spelled(tuple(ranges))
        if part is not None:
            edges.append((begin, part, target))
    whole = graph(edges, found.ends)
    size = sum(_size(part) for _, part, _ in whole.edges) if whole is not None else 0
    if size > MOST_OF_A_STRING:
        too_large(path, f"more than {MOST_OF_A_STRING:,} states for a string")
    return whole


def _size(part: Node) -> int:
    """Return about how many states it takes to read one character of a set."""
    is_ascii = isinstance(part, Characters) and part.ranges[-1][1] < 0x80
    return 1 if is_ascii else SIZE_OF_UNICODE
