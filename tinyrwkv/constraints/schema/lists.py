"""Write parts one after the other, with commas between them: the items of arrays and objects."""

from __future__ import annotations

from collections.abc import Sequence as List
from typing import NamedTuple

from ..pattern import Graph, Node, Sequence
from .graphs import Edge, graph
from .refusals import Work
from .spelling import literal

COMMA = literal(", ")
NOTHING = Sequence(())


class Part(NamedTuple):
    """A part of a list, which may be left out unless it is required."""

    node: Node
    required: bool


class Counts(NamedTuple):
    """How many parts there may be.

    Attributes
    ----------
    least : int
    most : int or None
    """

    least: int
    most: int | None


def some_of(
    parts: List[Part], others: Node | None, counts: Counts, work: Work, path: str
) -> Graph | None:
    """Return the tree of lists that have some of the parts, in their order, then any others.

    Parameters
    ----------
    parts : sequence of Part
    others : Node or None
        May come any number of times after the parts. Two of them may be equal, so `Counts.least`
        counts them only if nothing else was there.
    counts : Counts
    work : Work
    path : str

    Returns
    -------
    Graph or None
        None if there is no such list.
    """
    if others is not None and counts.most is not None and counts.least > 1:
        others = None  # equal ones would count as one
    least, top, is_limited = _limits(parts, others, counts)
    work.spend(4 * (len(parts) + 2) * (top + 2), path)
    # State (i, n): the first i parts are behind us, and n of them are there. When n = `top`, it
    # means that or more, unless `is_limited`. State (i, n, "in"): part i comes next, as number n.
    edges = _Edges(len(parts), top)
    for i, part in enumerate(parts):
        for count in range(top + 1):
            if count < top or not is_limited:
                edges.add(i, count, part.node, i + 1, min(count + 1, top))
            if not part.required:
                edges.skip(i, count)
    end = len(parts)
    if others is not None:
        for count in range(top if is_limited else top + 1):
            edges.add(end, count, others, end, count + 1 if is_limited else max(count, 1))
    return graph(edges.all, [edges.state(end, count) for count in range(least, top + 1)])


class _Edges:
    """The edges between states (i, n): the first i parts are behind us, and n of them are there.

    When n is `top`, it means that or more, unless there may not be more. Besides, there is a state
    before each part and each n that it leads to: after the comma, if there is one.
    """

    def __init__(self, n_parts: int, top: int) -> None:
        self.all: list[Edge] = []
        self._size = top + 1
        self._n_states = (n_parts + 1) * self._size
        self._entered: set[int] = set()

    def state(self, place: int, count: int) -> int:
        return place * self._size + count

    def skip(self, place: int, count: int) -> None:
        self.all.append((self.state(place, count), NOTHING, self.state(place + 1, count)))

    def add(self, place: int, count: int, node: Node, next_place: int, next_count: int) -> None:
        target = self.state(next_place, next_count)
        inside = self._n_states + self.state(place, next_count)
        self.all.append((self.state(place, count), COMMA if count else NOTHING, inside))
        if inside not in self._entered:  # otherwise there was another way to it
            self._entered.add(inside)
            self.all.append((inside, node, target))


def _limits(parts: List[Part], others: Node | None, counts: Counts) -> tuple[int, int, bool]:
    """Return how many parts there must be, how far to count, and whether there may not be more."""
    least, most = counts
    if least <= sum(part.required for part in parts):
        least = 0
    if most is not None and (others is not None or most < len(parts)):
        return least, most, True
    return least, max(1, least), False
