"""A pattern as an automaton over the bytes of UTF-8, whose states are made as they are needed.

A tree becomes an automaton with several possible next states (Thompson's construction), and sets of those states are
the states of the automaton that is walked: for each byte there is one next state at most. Every state made leads to an
end of the pattern, because every part of a tree matches some text; so a walk that is alive can always be completed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from ...errors import ArgumentError
from .characters import byte_sequences
from .pattern import Characters, Either, Node, Repeat, Sequence

MOST_PARTS = 50_000
"""States of the automaton with several next states; a character takes as many as it has bytes, a set up to 20."""

MOST_STEPS = 100_000
"""Steps of its construction."""

MOST_STATES = 16_384
"""States that are kept of the automaton that is walked."""

MOST_WORK = 200_000
"""Next states looked at for one token; a pattern that needs more is one that was made to be slow."""

Members = tuple[int, ...]
"""States of `Parts` in order."""

DEAD = 0
"""The state from which nothing matches."""


T = TypeVar("T")

SIMPLER = "let fewer alternatives begin alike, or repeat fewer parts that may be empty"


class FullError(Exception):
    """`MOST_STATES` are kept: begin a new `Automaton`."""


class Parts:
    """The automaton with several next states.

    Attributes
    ----------
    moves : list of list of (int, int, int)
        For each state: from this byte to that one, both included, leads to a state.
    jumps : list of list of int
        For each state those that are reached without a byte.
    start, end : int
    """

    def __init__(self, tree: Node) -> None:
        self.moves: list[list[tuple[int, int, int]]] = []
        self.jumps: list[list[int]] = []
        self._steps = 0
        self.start = self._state()
        self.end = self._add(tree, self.start)

    def _state(self) -> int:
        if len(self.moves) == MOST_PARTS:
            self._refuse(f"more than {MOST_PARTS:,} states")
        self.moves.append([])
        self.jumps.append([])
        return len(self.moves) - 1

    def _refuse(self, found: str) -> None:
        raise ArgumentError("constraint", "pattern", found, "a smaller automaton", "repeat less, or shorten it")

    def _add(self, node: Node, start: int) -> int:
        """Add what matches a node from `start` on; return where it ends."""
        self._steps += 1
        if self._steps > MOST_STEPS:
            self._refuse(f"more than {MOST_STEPS:,} steps of construction")
        if isinstance(node, Characters):
            return self._characters(node, start)
        if isinstance(node, Sequence):
            for part in node.parts:
                start = self._add(part, start)
            return start
        if isinstance(node, Either):
            end = self._state()
            for part in node.parts:
                self._jump(self._add(part, start), end)
            return end
        return self._repeat(node, start)

    def _repeat(self, node: Repeat, start: int) -> int:
        for _ in range(node.least):
            start = self._add(node.part, start)
        if node.most is None:
            again, end = self._state(), self._state()
            self._jump(start, again)
            self._jump(self._add(node.part, again), again)
            self._jump(again, end)
            return end
        places = [start]
        for _ in range(node.most - node.least):
            places.append(self._add(node.part, places[-1]))
        for place in places[:-1]:
            self._jump(place, places[-1])
        return places[-1]

    def _jump(self, start: int, end: int) -> None:
        if start != end:
            self.jumps[start].append(end)

    def _characters(self, node: Characters, start: int) -> int:
        end = self._state()
        shared: dict[tuple[tuple[int, int], int], int] = {}  # what the last bytes of several sequences have in common
        for low, high in node.ranges:
            for first, *rest in byte_sequences(low, high):
                self._steps += 1
                place = end
                for span in reversed(rest):
                    if (span, place) not in shared:
                        shared[span, place] = self._state()
                        self.moves[shared[span, place]].append((*span, place))
                    place = shared[span, place]
                self.moves[start].append((*first, place))
        return end

    def accepts(self, members: Members) -> bool:
        """Tell whether what has been read matches the whole pattern."""
        return self.end in members

    def goes_on(self, members: Members) -> bool:
        """Tell whether any byte may follow."""
        return any(self.moves[member] for member in members)


class Automaton:
    """The automaton that is walked: one next state for each byte. State 0 is `DEAD`.

    Bytes that no part tells apart are one class, so that rows of the table are short. Not for several threads at once.

    Parameters
    ----------
    parts : Parts

    Attributes
    ----------
    classes : ndarray, uint8, shape (256,)
        The class of each byte.
    table : ndarray, int32, shape (capacity, n_classes)
        The next state; only the rows of states that are `known` hold.
    known : ndarray, bool, shape (capacity,)
    members : list of tuple of int
        The states of `parts` that each state stands for; they alone say what it is, in every automaton of these parts.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        borders = {0} | {border for moves in parts.moves for low, high, _ in moves for border in (low, high + 1)}
        numbers = np.zeros(257, np.uint8)
        numbers[sorted(borders - {0})] = 1
        self.classes = np.cumsum(numbers[:256], dtype=np.uint8)  # 257 borders at most, 256 classes
        self.n_classes = int(self.classes[-1]) + 1
        self.table = np.zeros((64, self.n_classes), np.int32)
        self.known = np.zeros(64, bool)
        self.known[DEAD] = True
        self.members: list[Members] = [()]
        self._ids: dict[Members, int] = {(): DEAD}
        self._closures: dict[int, Members] = {}
        self._work = 0

    def begin(self) -> Members:
        """Return the first state."""
        return self._closure(self.parts.start)

    def new_token(self) -> None:
        """Begin to count the work anew."""
        self._work = 0

    def step(self, state: int, byte: int) -> int:
        """Return the state after a byte."""
        if not self.known[state]:
            self.know(state)
        return int(self.table[state, self.classes[byte]])

    def know(self, state: int) -> None:
        """Fill a state's row of the table.

        Raises
        ------
        FullError
            There is no room for the next states.
        ArgumentError
            The pattern needs too much work.
        """
        reached: dict[int, list[int]] = {}  # class -> states of parts
        classes = self.classes
        for member in self.members[state]:
            for low, high, target in self.parts.moves[member]:
                self._count(1 + int(classes[high]) - int(classes[low]))
                for number in range(classes[low], classes[high] + 1):
                    reached.setdefault(number, []).append(target)
        row = np.zeros(self.n_classes, np.int32)
        ids: dict[tuple[int, ...], int] = {}
        for number, targets in reached.items():
            key = tuple(targets)
            if key not in ids:
                ids[key] = self.find(self._union(targets))
            row[number] = ids[key]
        self.table[state] = row
        self.known[state] = True

    def _count(self, work: int) -> None:
        self._work += work
        if self._work > MOST_WORK:
            raise ArgumentError("constraint", "pattern", "too much work for one token", "a simpler one", SIMPLER)

    def _union(self, targets: list[int]) -> Members:
        if len(targets) == 1:
            return self._closure(targets[0])
        closures = [self._closure(target) for target in set(targets)]
        self._count(sum(map(len, closures)))
        return tuple(sorted(set().union(*closures)))

    def _closure(self, start: int) -> Members:
        """Return the states that are reached without a byte and either read one or are the end."""
        if start not in self._closures:
            seen, waiting = {start}, [start]
            while waiting:
                new = [place for place in self.parts.jumps[waiting.pop()] if place not in seen]
                seen.update(new)
                waiting.extend(new)
            self._count(len(seen))
            kept = (place for place in seen if self.parts.moves[place] or place == self.parts.end)
            self._closures[start] = tuple(sorted(kept))
        return self._closures[start]

    def find(self, members: Members) -> int:
        """Return the number of a state, a new one where it has none."""
        if members not in self._ids:
            number = len(self.members)
            if number == MOST_STATES:
                raise FullError
            if number == len(self.known):
                self.table = np.concatenate([self.table, np.zeros_like(self.table)])
                self.known = np.concatenate([self.known, np.zeros_like(self.known)])
            self._ids[members] = number
            self.members.append(members)
        return self._ids[members]


class Machine:
    """An automaton that begins anew when it is full. States are told by their members; the empty one is dead."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._automaton = Automaton(parts)

    def begin(self) -> Members:
        """Return the first state."""
        return self._automaton.begin()

    def step(self, members: Members, data: bytes) -> Members:
        """Return the state after some bytes."""
        for byte in data:

            def next_one(automaton: Automaton, state: int, byte: int = byte) -> Members:
                return automaton.members[automaton.step(state, byte)]

            members = self.ask(members, next_one)
        return members

    def ask(self, members: Members, question: Callable[[Automaton, int], T]) -> T:
        """Answer a question about a state of the automaton.

        Raises
        ------
        ArgumentError
            Not even a new one can.
        """
        for _ in range(2):
            self._automaton.new_token()
            try:
                return question(self._automaton, self._automaton.find(members))
            except FullError:
                self._automaton = Automaton(self.parts)
        found = f"{MOST_STATES:,} states for one token"
        raise ArgumentError("constraint", "pattern", found, "a simpler one", SIMPLER)
