"""Write arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..pattern import MOST_REPEATS, Node, Repeat, Sequence
from .apart import written
from .graphs import Edge, graph
from .lists import COMMA, NOTHING, Counts, Part, some_of
from .reader import Reader, json_text
from .refusals import too_large, unsupported
from .shapes import All, Arrays, Branch, same, smaller
from .spelling import literal
from .validity import is_valid

Write = Callable[[All], "Node | None"]
"""Returns the tree of the values that are valid for all of some schemas."""


def array(shape: Arrays, reader: Reader, path: str, write: Write) -> Node | None:
    """Return the tree of the arrays of a shape; None if there are none."""
    if shape.least > MOST_REPEATS:
        too_large(path, f"arrays of more than {MOST_REPEATS:,} items")
    if shape.unique and (shape.most is None or shape.most > 1):
        inside = _unique(shape, reader)
    else:
        inside = _items(shape, reader, path, write)
    return None if inside is None else Sequence((literal("["), inside, literal("]")))


def _items(shape: Arrays, reader: Reader, path: str, write: Write) -> Node | None:
    """Return the first items, each with its own schema, then any others."""
    most = shape.most if shape.most is None else min(shape.most, MOST_REPEATS)
    n_first = max((len(items.first) for items in shape.items), default=0)
    edges: list[Edge] = []
    for place in range(n_first):
        if place == most:
            break
        item = write(shape.at(place))
        if item is None:
            most = place
            break
        reader.work.spend(10, path)
        edges.append((place, Sequence((COMMA, item)) if place else item, place + 1))
    ends = [place for place in range(shape.least, len(edges) + 1)]
    if most is None or most > len(edges):
        others = _others(shape, len(edges), most, write)
        if others is not None:
            edges.append((n_first, others, n_first + 1))
            ends.append(n_first + 1)
    if not edges:
        return NOTHING if shape.least == 0 else None
    return graph(edges, ends)


def _others(shape: Arrays, n_first: int, most: int | None, write: Write) -> Node | None:
    """Return one or more of the items after the first ones."""
    item = write(shape.at(n_first))
    if item is None:
        return None
    least = max(shape.least - n_first, 1)
    if most is not None and most - n_first < least:
        return None
    again = Sequence((COMMA, item))
    if n_first:
        return Repeat(again, least, None if most is None else most - n_first)
    further = Repeat(again, least - 1, None if most is None else most - 1)
    return Sequence((item, further))


def _unique(shape: Arrays, reader: Reader) -> Node | None:
    """Return some of the values that an item may have, each once, in the order of the schema."""
    path = shape.unique
    item = shape.at(0)
    values: list[Any] = []
    for branch in reader.branches(item):
        few = _values(branch)
        if few is None or any(items.first for items in shape.items):
            expected = "used where the items are an enum"
            fix = "list the items with enum, or leave it out"
            sentence = f"{path} is true, but can only be {expected}"
            unsupported(path, "true", expected, fix, sentence)
        values += [value for value in few if is_valid(value, item, reader, False)]
    once: list[Any] = []
    for value in values:
        reader.work.spend(len(once), path)
        if not any(same(value, other) for other in once):
            once.append(value)
    parts = [Part(literal(json_text(value, path)), False) for value in once]
    most = smaller(shape.most, len(parts))
    return some_of(parts, None, Counts(shape.least, most), reader.work, path)


def _values(branch: Branch) -> list[Any] | None:
    """Return the few values that a branch may have; None if there are many."""
    if branch.values is not None:
        return list(branch.values)
    kinds = written(branch).keys()
    if not kinds <= {"boolean", "null"}:
        return None
    return [*((True, False) if "boolean" in kinds else ()), *([None] if "null" in kinds else ())]
