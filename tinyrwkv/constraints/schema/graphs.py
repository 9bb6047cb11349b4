"""Make graphs of which every state can be reached and leads to an end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..pattern import Graph, Node

Edge = tuple[int, Node, int]
"""A state, what is written there, and the state after it."""


def graph(edges: Sequence[Edge], ends: Iterable[int]) -> Graph | None:
    """Return a graph without useless states, or None if none of the ends can be reached.

    Parameters
    ----------
    edges : sequence of Edge
        State 0 is the first one. Other numbers may be left out.
    ends : iterable of int

    Examples
    --------
    >>> a = Node.__args__[0](((97, 97),))
    >>> graph([(0, a, 5), (5, a, 7), (3, a, 5)], [5])
    Graph(n_states=2, edges=((0, Characters(ranges=((97, 97),)), 1),), ends=(1,))
    """
    forward = reached([0], [(begin, target) for begin, _, target in edges])
    ends = [end for end in ends if end in forward]
    useful = reached(ends, [(target, begin) for begin, _, target in edges]) & forward
    if 0 not in useful:
        return None
    number = {state: i for i, state in enumerate(sorted(useful))}
    kept = tuple(
        (number[begin], part, number[target])
        for begin, part, target in edges
        if begin in useful and target in useful
    )
    return Graph(len(number), kept, tuple(number[end] for end in ends))


def reached(starts: Iterable[int], pairs: Iterable[tuple[int, int]]) -> set[int]:
    """Return the states that can be reached along pairs of a state and the next one."""
    followers: dict[int, list[int]] = {}
    for begin, target in pairs:
        followers.setdefault(begin, []).append(target)
    found = set(starts)
    waiting = list(found)
    while waiting:
        new = [state for state in followers.get(waiting.pop(), ()) if state not in found]
        found.update(new)
        waiting += new
    return found
