"""A pattern as a nondeterministic finite automaton (NFA) over the bytes of UTF-8.

Thompson's construction makes it from a tree of `pattern`. From one state, the same byte may lead to
several states, and other states may follow without a byte. Every part of a tree matches some text.
So every state leads to the end, and a text that fits so far can always be completed.
"""

from __future__ import annotations

from typing import NamedTuple, NoReturn

import numpy as np

from ..errors import ArgumentError
from .characters import byte_sequences
from .pattern import Characters, Either, Graph, Node, Repeat, Sequence

MOST_STATES = 50_000
"""A character takes as many states as it has bytes, a set of characters up to 20."""

MOST_STEPS = 100_000
"""Steps of the construction."""


Move = tuple[int, int, int]
"""Low, high, target: any byte from low to high, both included, leads to the state target."""


class Run(NamedTuple):
    """Copies of a repeated part, whose states lie one copy after the other.

    Each copy reads at least one byte. Whatever may follow one copy may follow any other, except
    the last.

    Attributes
    ----------
    first : int
        The first state of the first copy.
    size : int
        The states of one copy.
    copies : int
    """

    first: int
    size: int
    copies: int


class Nfa:
    """The automaton of a tree.

    Parameters
    ----------
    tree : Node
    name : str, optional
        What messages call it.

    Attributes
    ----------
    moves : list of list of Move
        For each state, the moves from it.
    jumps : list of list of int
        For each state, the states that follow without a byte.
    start, end : int
        The first state, and the one in which the whole pattern has matched.
    runs : list of Run

    Raises
    ------
    ArgumentError
        The automaton is too large.
    """

    def __init__(self, tree: Node, name: str = "pattern") -> None:
        self._name = name
        self.moves: list[list[Move]] = []
        self.jumps: list[list[int]] = []
        self.runs: list[Run] = []
        self._steps = 0
        self.start = self._new_state()
        self.end = self._add(tree, self.start)

    def interchangeable(self, longest: int) -> list[int]:
        """Return, for each state, one that stands for it while a token is read.

        Parameters
        ----------
        longest : int
            Bytes of the longest token. If no token reaches the end of a run from either of two
            copies, the same tokens can be read in both.

        Returns
        -------
        list of int
            The state itself if no other one stands for it.
        """
        states = np.arange(len(self.moves))
        for first, size, copies in self.runs:  # a run comes after those inside of it
            far_from_end = copies - longest
            if far_from_end > 1:
                n_states = far_from_end * size
                states[first : first + n_states] = first + np.arange(n_states) % size
        while not np.array_equal(states[states], states):
            states = states[states]
        return states.tolist()

    def _new_state(self) -> int:
        if len(self.moves) == MOST_STATES:
            _refuse(self._name, f"more than {MOST_STATES:,} states")
        self.moves.append([])
        self.jumps.append([])
        return len(self.moves) - 1

    def _jump(self, start: int, end: int) -> None:
        if start != end:
            self.jumps[start].append(end)

    def _add(self, node: Node, start: int) -> int:
        """Add what matches a node, from the state `start` on; return the state at its end."""
        self._steps += 1
        if self._steps > MOST_STEPS:
            _refuse(self._name, f"more than {MOST_STEPS:,} steps of construction")
        if isinstance(node, Characters):
            return self._add_characters(node, start)
        if isinstance(node, Sequence):
            return self._add_sequence(node.parts, start)
        if isinstance(node, Either):
            return self._add_either(node, start)
        if isinstance(node, Graph):
            return self._add_graph(node, start)
        return self._add_repeat(node, start)

    def _add_graph(self, node: Graph, start: int) -> int:
        states = [self._new_state() for _ in range(node.n_states)]
        self._jump(start, states[0])
        for begin, part, target in node.edges:
            self._jump(self._add(part, states[begin]), states[target])
        end = self._new_state()
        for state in node.ends:
            self._jump(states[state], end)
        return end

    def _add_either(self, node: Either, start: int) -> int:
        end = self._new_state()
        for part in node.parts:
            self._jump(self._add(part, start), end)
        return end

    def _add_sequence(self, parts: tuple[Node, ...], start: int) -> int:
        at = 0
        while at < len(parts):
            separator = _list_separator(parts[at : at + 2])
            if separator is None:
                start = self._add(parts[at], start)
                at += 1
            else:
                start = self._add_list(parts[at], separator, start)
                at += 2
        return start

    def _add_list(self, item: Node, separator: tuple[Node, ...], start: int) -> int:
        """Add ``x(?:, x)*`` with the states of one x only: the separator leads back to it."""
        before_item = self._new_state()
        self._jump(start, before_item)
        after_item = self._add(item, before_item)
        self._jump(self._add_sequence(separator, after_item), before_item)
        # A state of its own: a text that skips the list must not enter it by its end.
        end = self._new_state()
        self._jump(after_item, end)
        return end

    def _add_repeat(self, node: Repeat, start: int) -> int:
        start = self._add_copies(node.part, node.least, start)[-1]
        if node.most is None:
            again = self._new_state()
            end = self._new_state()
            self._jump(start, again)
            self._jump(self._add(node.part, again), again)
            self._jump(again, end)
            return end
        *begins, end = self._add_copies(node.part, node.most - node.least, start)
        for begin in begins:
            self._jump(begin, end)
        return end

    def _add_copies(self, part: Node, count: int, start: int) -> list[int]:
        """Add a part several times; return the state before each copy, then the last state."""
        places = [start]
        first = len(self.moves)
        for _ in range(count):
            places.append(self._add(part, places[-1]))
        if count > 1 and not may_be_empty(part):
            size = (len(self.moves) - first) // count
            self.runs.append(Run(first, size, count))
        return places

    def _add_characters(self, node: Characters, start: int) -> int:
        end = self._new_state()
        # Byte sequences with the same last bytes share the states that read those.
        shared: dict[tuple[tuple[int, int], int], int] = {}
        for low, high in node.ranges:
            for first_span, *later_spans in byte_sequences(low, high):
                self._steps += 1
                target = end
                for span in reversed(later_spans):
                    key = (span, target)
                    if key not in shared:
                        shared[key] = self._new_state()
                        self.moves[shared[key]].append((*span, target))
                    target = shared[key]
                self.moves[start].append((*first_span, target))
        return end


def _refuse(name: str, found: str) -> NoReturn:
    fix = f"repeat less, or shorten the {name}"
    sentence = f"the automaton of the {name} takes {found}"
    raise ArgumentError("constraint", name, found, "a smaller automaton", fix, sentence)


def _list_separator(pair: tuple[Node, ...]) -> tuple[Node, ...] | None:
    """Return what separates the items of a list ``x(?:, x)*``; None for another pair."""
    if len(pair) < 2:
        return None
    item, rest = pair
    if not isinstance(rest, Repeat) or (rest.least, rest.most) != (0, None):
        return None
    again = rest.part
    if isinstance(again, Sequence) and again.parts and again.parts[-1] == item:
        return again.parts[:-1]
    return None


def may_be_empty(node: Node) -> bool:
    """Tell whether the empty text matches."""
    if isinstance(node, Characters):
        return False
    if isinstance(node, Repeat):
        return node.least == 0 or may_be_empty(node.part)
    if isinstance(node, Sequence):
        return all(map(may_be_empty, node.parts))
    if isinstance(node, Graph):
        return _reaches_end_without_text(node)
    return any(map(may_be_empty, node.parts))


def _reaches_end_without_text(node: Graph) -> bool:
    followers: dict[int, list[int]] = {}
    for begin, part, target in node.edges:
        if may_be_empty(part):
            followers.setdefault(begin, []).append(target)
    reached = {0}
    waiting = [0]
    while waiting:
        new = [state for state in followers.get(waiting.pop(), ()) if state not in reached]
        reached.update(new)
        waiting += new
    return not reached.isdisjoint(node.ends)
