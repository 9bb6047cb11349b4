"""The deterministic automaton (DFA) of a pattern: each byte leads to one next state at most.

Each of its states is a set of states of an `Nfa`. A state is made only when a text comes to it. So
a pattern may have millions of possible states, and costs only those that are used.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, TypeVar

import numpy as np

from ..errors import ArgumentError
from ..generate import InterruptionError
from .nfa import Nfa

MOST_STATES = 16_384
"""States that an `Automaton` keeps."""

MOST_WORK = 200_000
"""Next states to look at for one token. Only a pattern that is slow on purpose needs more."""

MOST_KEPT = 4_000_000
"""Next states to look at, after which an `Automaton` is full: what it keeps grows with them."""

DEAD = 0
"""The state from which nothing matches."""

UNKNOWN = -1
"""In the table, for next states that were not looked at yet."""

NO_BYTE = -1
"""Of a class that has several bytes."""

FIRST_CAPACITY = 64
"""Rows of the table at the beginning."""

T = TypeVar("T")

Members = tuple[int, ...]
"""The states of an `Nfa` that are one state here, sorted."""


class FullError(Exception):
    """`MOST_STATES` or `MOST_KEPT` are reached: begin a new `Automaton`."""


class Automaton:
    """A table of next states. Only one thread at a time may use it.

    Bytes that no state tells apart are one class. This keeps the rows of the table short.

    Parameters
    ----------
    nfa : Nfa

    Attributes
    ----------
    classes : bytes
        The class of each of the 256 bytes.
    n_classes : int
    table : ndarray, int32, shape (capacity, n_classes)
        The next state; `UNKNOWN` in whole rows, until `explore` fills them.
    members : list of tuple of int
        The states of `nfa` that each state stands for.
    begin : int
        The first state.
    stopped : callable or None
        Asked before a row is filled. If the answer is true, an InterruptionError is raised: what
        was learned so far stays.
    """

    def __init__(self, nfa: Nfa) -> None:
        self.nfa = nfa
        classes = _byte_classes(nfa)
        self.classes = classes.tobytes()
        self.n_classes = int(classes[-1]) + 1
        sizes = np.bincount(classes)
        first = np.searchsorted(classes, np.arange(self.n_classes))
        self._only_byte = np.where(sizes == 1, first, NO_BYTE).tolist()  # by the class
        self.table = np.full((FIRST_CAPACITY, self.n_classes), UNKNOWN, np.int32)
        self.table[DEAD] = DEAD
        self.members: list[Members] = [()]
        self._numbers: dict[Members, int] = {(): DEAD}  # the state, by its members
        self._after: dict[tuple[int, ...], int] = {}  # the state, by the targets of a byte
        self._closures: dict[int, Members] = {}
        self._work = 0  # for this token
        self._all_work = 0
        self.stopped: Callable[[], Any] | None = None
        self.begin = self.number_of(self._closure(nfa.start))

    def new_token(self) -> None:
        """Count the work from 0 again."""
        self._work = 0

    def accepts(self, state: int) -> bool:
        """Tell whether the text so far matches the whole pattern."""
        return self.nfa.end in self.members[state]

    def goes_on(self, state: int) -> bool:
        """Tell whether any byte may follow."""
        return any(map(self.nfa.moves.__getitem__, self.members[state]))

    def read(self, state: int, data: bytes) -> int:
        """Return the state after some bytes."""
        for number in data.translate(self.classes):
            state = int(self.row(state)[number])
        return state

    def forced(self, state: int, most: int) -> bytes:
        """Return the bytes that must follow a state, at most so many."""
        found = bytearray()
        while len(found) < most and not self.accepts(state):
            row = self.row(state)
            (classes,) = row.nonzero()  # not DEAD, which is 0
            byte = self._only_byte[classes[0]] if len(classes) == 1 else NO_BYTE
            if byte == NO_BYTE:
                break
            found.append(byte)
            state = int(row[classes[0]])
        return bytes(found)

    def row(self, state: int) -> np.ndarray:
        """Return the next state for each class, int32, shape (n_classes,)."""
        if self.table[state, 0] == UNKNOWN:
            self.explore(state)
        return self.table[state]

    def explore(self, state: int) -> None:
        """Fill the row of a state in the table.

        Raises
        ------
        FullError
            There is no room for the next states.
        ArgumentError
            The pattern needs too much work.
        InterruptionError
            `stopped` has told to end.
        """
        if self.stopped is not None and self.stopped():
            raise InterruptionError
        classes, all_moves = self.classes, self.nfa.moves
        moves = [  # from a class up to another one, not included, and the target
            (classes[low], classes[high] + 1, target)
            for member in self.members[state]
            for low, high, target in all_moves[member]
        ]
        moves.sort()
        self._count_work(sum([end - begin for begin, end, _ in moves]))
        if any([one[1] > other[0] for one, other in itertools.pairwise(moves)]):
            self._explore_overlapping(state, moves)
            return
        spans = [(begin, end, self._state_after(target)) for begin, end, target in moves]
        row = self.table[state]  # only now, because a new state may have moved the table
        row.fill(DEAD)
        for begin, end, following in spans:
            row[begin:end] = following

    def _explore_overlapping(self, state: int, moves: list[tuple[int, int, int]]) -> None:
        """Fill the row of a state from which some classes lead to several targets."""
        targets: list[list[int]] = [[] for _ in range(self.n_classes)]
        for begin, end, target in moves:
            for number in range(begin, end):
                targets[number].append(target)
        row = [self._state_after(*several) if several else DEAD for several in targets]
        self.table[state] = row

    def _state_after(self, *targets: int) -> int:
        if targets not in self._after:
            members = self._closure(targets[0]) if len(targets) == 1 else self._union(targets)
            self._after[targets] = self.number_of(members)
        return self._after[targets]

    def _count_work(self, work: int) -> None:
        self._work += work
        self._all_work += work
        if self._all_work > MOST_KEPT:
            raise FullError
        if self._work > MOST_WORK:
            _refuse("too much work for one token")

    def _union(self, targets: tuple[int, ...]) -> Members:
        closures = [self._closure(target) for target in set(targets)]
        self._count_work(sum(map(len, closures)))
        return tuple(sorted(set().union(*closures)))

    def _closure(self, start: int) -> Members:
        """Return the states that follow without a byte and that read one or are the end."""
        if not self.nfa.jumps[start]:
            return (start,)
        if start not in self._closures:
            jumps, moves = self.nfa.jumps, self.nfa.moves
            seen = {start}
            waiting = [start]
            while waiting:
                new = [state for state in jumps[waiting.pop()] if state not in seen]
                seen.update(new)
                waiting.extend(new)
            self._count_work(len(seen))
            kept = (state for state in seen if moves[state] or state == self.nfa.end)
            self._closures[start] = tuple(sorted(kept))
        return self._closures[start]

    def number_of(self, members: Members) -> int:
        """Return the state that stands for some states of the NFA; make it if it is new.

        Raises
        ------
        FullError
            There is no room for it.
        """
        if members not in self._numbers:
            number = len(self.members)
            if number == MOST_STATES:
                raise FullError
            if number == len(self.table):
                self.table = np.concatenate([self.table, np.full_like(self.table, UNKNOWN)])
            self._numbers[members] = number
            self.members.append(members)
        return self._numbers[members]


def _byte_classes(nfa: Nfa) -> np.ndarray:
    """Return the class of each byte, uint8, shape (256,).

    A new class begins at each byte at which a move begins, and after each byte at which one ends.
    """
    spans = {(low, high) for low, high, _ in itertools.chain.from_iterable(nfa.moves)}
    begins = {low for low, _ in spans}
    after_ends = {high + 1 for _, high in spans}
    borders = (begins | after_ends) - {0}
    is_border = np.zeros(257, np.uint8)
    is_border[sorted(borders)] = 1
    return np.cumsum(is_border[:256], dtype=np.uint8)


class Place(NamedTuple):
    """A state of one automaton."""

    automaton: Automaton
    state: int

    def __bool__(self) -> bool:
        """Tell whether anything matches from here on."""
        return self.state != DEAD


class Machine:
    """An automaton that begins anew when it is full.

    The new one finds places of the old one again, by the states of the `Nfa`.
    """

    def __init__(self, nfa: Nfa) -> None:
        self.automaton = Automaton(nfa)

    def begin(self) -> Place:
        """Return the place at which texts begin."""
        return Place(self.automaton, self.automaton.begin)

    def read(self, place: Place, data: bytes) -> Place:
        """Return the place after some bytes; it is false if they do not fit."""

        def read(automaton: Automaton, state: int) -> Place:
            return Place(automaton, automaton.read(state, data))

        return self.ask(place, read)

    def ask(
        self,
        place: Place,
        question: Callable[[Automaton, int], T],
        stopped: Callable[[], Any] | None = None,
    ) -> T:
        """Answer a question about a state.

        Raises
        ------
        ArgumentError
            Not even a new automaton has room for the answer.
        InterruptionError
            `stopped` has told to end.
        """
        for _ in range(2):
            automaton, state = place
            self.automaton.new_token()
            self.automaton.stopped = stopped
            try:
                if automaton is not self.automaton:
                    state = self.automaton.number_of(automaton.members[state])
                return question(self.automaton, state)
            except FullError:
                self.automaton = Automaton(self.automaton.nfa)
        _refuse(f"{MOST_STATES:,} states for one token")


def _refuse(found: str) -> NoReturn:
    fix = "make it simpler: fewer alternatives that begin alike, fewer repeats of what may be empty"
    sentence = f"the constraint takes {found}"
    raise ArgumentError("constraint", "pattern", found, "a simpler one", fix, sentence)
