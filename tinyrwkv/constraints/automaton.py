"""A pattern as an automaton over the bytes of UTF-8, whose states are made as they are needed.

A tree becomes an automaton with several possible next states (Thompson's construction), and sets of those states are
the states of the automaton that is walked: for each byte there is one next state at most. Every state made leads to an
end of the pattern, because every part of a tree matches some text; so a walk that is alive can always be completed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np

from ..errors import ArgumentError
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

DEAD = 0
"""The state from which nothing matches."""

UNKNOWN = -1
"""In the table: what follows this state was not looked at yet."""


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
    runs : list of (int, int, int)
        Of each repeated part: its first state, the states of one copy, the number of copies. A copy reads a byte at
        least, and what may follow one is what may follow any other, until the last.
    """

    def __init__(self, tree: Node) -> None:
        self.moves: list[list[tuple[int, int, int]]] = []
        self.jumps: list[list[int]] = []
        self.runs: list[tuple[int, int, int]] = []
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
        raise ArgumentError(
            "constraint", "pattern", found, "a smaller automaton", "repeat less, or shorten it"
        )

    def _add(self, node: Node, start: int) -> int:
        """Add what matches a node from `start` on; return where it ends."""
        self._steps += 1
        if self._steps > MOST_STEPS:
            self._refuse(f"more than {MOST_STEPS:,} steps of construction")
        if isinstance(node, Characters):
            return self._characters(node, start)
        if isinstance(node, Sequence):
            return self._sequence(node.parts, start)
        if isinstance(node, Either):
            end = self._state()
            for part in node.parts:
                self._jump(self._add(part, start), end)
            return end
        return self._repeat(node, start)

    def _sequence(self, parts: tuple[Node, ...], start: int) -> int:
        at = 0
        while at < len(parts):
            between = _joins(*parts[at : at + 2])
            if between is None:
                start = self._add(parts[at], start)
                at += 1
            else:  # the way back leads to the first x: there need not be two of it
                again = self._state()
                self._jump(start, again)
                end = self._add(parts[at], again)
                self._jump(self._sequence(between, end), again)
                start = self._state()  # whoever skips the list must not come to where it goes on
                self._jump(end, start)
                at += 2
        return start

    def _repeat(self, node: Repeat, start: int) -> int:
        start = self._copies(node.part, node.least, start)[-1]
        if node.most is None:
            again, end = self._state(), self._state()
            self._jump(start, again)
            self._jump(self._add(node.part, again), again)
            self._jump(again, end)
            return end
        *places, end = self._copies(node.part, node.most - node.least, start)
        for place in places:
            self._jump(place, end)
        return end

    def _copies(self, part: Node, count: int, start: int) -> list[int]:
        """Add a part several times; return where each begins, and the end."""
        places, first = [start], len(self.moves)
        for _ in range(count):
            places.append(self._add(part, places[-1]))
        if count > 1 and not may_be_empty(part):
            self.runs.append((first, (len(self.moves) - first) // count, count))
        return places

    def _jump(self, start: int, end: int) -> None:
        if start != end:
            self.jumps[start].append(end)

    def _characters(self, node: Characters, start: int) -> int:
        end = self._state()
        shared: dict[
            tuple[tuple[int, int], int], int
        ] = {}  # what the last bytes of several sequences have in common
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

    def alike(self, longest: int) -> list[int]:
        """Return for each state one from which the same can be read, as far as so many bytes go; often itself."""
        states = np.arange(len(self.moves))
        for first, size, count in self.runs:  # those inside of others come before them
            copies = count - longest  # that do not see the end
            if copies > 1:
                states[first : first + copies * size] = first + np.arange(copies * size) % size
        while not np.array_equal(states[states], states):
            states = states[states]
        return states.tolist()


def _joins(part: Node, following: Node | None = None) -> tuple[Node, ...] | None:
    """Return what comes between the parts of a list ``x(?:, x)*``, or None where these two parts are none."""
    if isinstance(following, Repeat) and (following.least, following.most) == (0, None):
        again = following.part
        if isinstance(again, Sequence) and again.parts and again.parts[-1] == part:
            return again.parts[:-1]
    return None


def may_be_empty(node: Node) -> bool:
    """Tell whether the empty text matches."""
    if isinstance(node, Characters):
        return False
    if isinstance(node, Repeat):
        return node.least == 0 or may_be_empty(node.part)
    return (all if isinstance(node, Sequence) else any)(map(may_be_empty, node.parts))


class Automaton:
    """The automaton that is walked: one next state for each byte. State 0 is `DEAD`. Not for several threads at once.

    Bytes that no part tells apart are one class, so that rows of the table are short.

    Parameters
    ----------
    parts : Parts

    Attributes
    ----------
    classes : bytes
        The class of each of the 256 bytes.
    table : ndarray, int32, shape (capacity, n_classes)
        The next state; `UNKNOWN` in whole rows, until `know` fills them.
    members : list of tuple of int
        The states of `parts` that each state stands for.
    begin : int
        The first state.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        borders = {
            border for moves in parts.moves for low, high, _ in moves for border in (low, high + 1)
        }
        numbers = np.zeros(257, np.uint8)
        numbers[sorted(borders - {0})] = 1
        classes = np.cumsum(numbers[:256], dtype=np.uint8)
        self.classes, self.n_classes = classes.tobytes(), int(classes[-1]) + 1
        self.table = np.full((64, self.n_classes), UNKNOWN, np.int32)
        self.table[DEAD] = DEAD
        self.members: list[tuple[int, ...]] = [()]
        self._ids: dict[tuple[int, ...], int] = {(): DEAD}
        self._after: dict[
            tuple[int, ...], int
        ] = {}  # states of parts that a byte leads to: the state they are
        self._closures: dict[int, tuple[int, ...]] = {}
        self._work = 0
        self.begin = self.find(self._closure(parts.start))

    def new_token(self) -> None:
        """Begin to count the work anew."""
        self._work = 0

    def accepts(self, state: int) -> bool:
        """Tell whether what has been read matches the whole pattern."""
        return self.parts.end in self.members[state]

    def goes_on(self, state: int) -> bool:
        """Tell whether any byte may follow."""
        return any(map(self.parts.moves.__getitem__, self.members[state]))

    def read(self, state: int, data: bytes) -> int:
        """Return the state after some bytes."""
        for number in data.translate(self.classes):
            state = int(self.row(state)[number])
        return state

    def row(self, state: int) -> np.ndarray:
        """Return the next state for each class, int32, shape (n_classes,)."""
        if self.table[state, 0] == UNKNOWN:
            self.know(state)
        return self.table[state]

    def know(self, state: int) -> None:
        """Fill a state's row of the table.

        Raises
        ------
        FullError
            There is no room for the next states.
        ArgumentError
            The pattern needs too much work.
        """
        classes, parts = self.classes, self.parts.moves
        moves = [  # from the first class up to another one
            (classes[low], classes[high] + 1, target)
            for member in self.members[state]
            for low, high, target in parts[member]
        ]
        moves.sort()
        self._count(sum([last - first for first, last, _ in moves]))
        if all([one[1] <= other[0] for one, other in itertools.pairwise(moves)]):
            spans = [(first, last, self._state_after(target)) for first, last, target in moves]
            row = self.table[state]  # only now: the table may have moved
            row.fill(DEAD)
            for first, last, target in spans:
                row[first:last] = target
        else:
            targets: list[tuple[int, ...]] = [()] * self.n_classes
            for first, last, target in moves:
                for number in range(first, last):
                    targets[number] += (target,)
            states = [self._state_after(*several) if several else DEAD for several in targets]
            self.table[state] = states

    def _state_after(self, *targets: int) -> int:
        if targets not in self._after:
            self._after[targets] = self.find(
                self._closure(targets[0]) if len(targets) == 1 else self._union(targets)
            )
        return self._after[targets]

    def _count(self, work: int) -> None:
        self._work += work
        if self._work > MOST_WORK:
            raise ArgumentError(
                "constraint", "pattern", "too much work for one token", "a simpler one", SIMPLER
            )

    def _union(self, targets: tuple[int, ...]) -> tuple[int, ...]:
        closures = [self._closure(target) for target in set(targets)]
        self._count(sum(map(len, closures)))
        return tuple(sorted(set().union(*closures)))

    def _closure(self, start: int) -> tuple[int, ...]:
        """Return the states that are reached without a byte and either read one or are the end."""
        if not self.parts.jumps[start]:
            return (start,)
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

    def find(self, members: tuple[int, ...]) -> int:
        """Return the number of a state, a new one where it has none."""
        if members not in self._ids:
            number = len(self.members)
            if number == MOST_STATES:
                raise FullError
            if number == len(self.table):
                self.table = np.concatenate([self.table, np.full_like(self.table, UNKNOWN)])
            self._ids[members] = number
            self.members.append(members)
        return self._ids[members]


class Place(NamedTuple):
    """A state of one automaton."""

    automaton: Automaton
    state: int

    def __bool__(self) -> bool:
        """Tell whether anything matches from here on."""
        return self.state != DEAD


class Machine:
    """An automaton that begins anew when it is full; places in the old one are found again in the new."""

    def __init__(self, parts: Parts) -> None:
        self.automaton = Automaton(parts)

    def begin(self) -> Place:
        """Return where texts begin."""
        return Place(self.automaton, self.automaton.begin)

    def read(self, place: Place, data: bytes) -> Place:
        """Return the place after some bytes; false where they do not fit."""
        return self.ask(
            place, lambda automaton, state: Place(automaton, automaton.read(state, data))
        )

    def ask(self, place: Place, question: Callable[[Automaton, int], T]) -> T:
        """Answer a question about a state.

        Raises
        ------
        ArgumentError
            Not even a new automaton has room for the answer.
        """
        for _ in range(2):
            self.automaton.new_token()
            try:
                same = place.automaton is self.automaton
                state = (
                    place.state
                    if same
                    else self.automaton.find(place.automaton.members[place.state])
                )
                return question(self.automaton, state)
            except FullError:
                self.automaton = Automaton(self.automaton.parts)
        found = f"{MOST_STATES:,} states for one token"
        raise ArgumentError("constraint", "pattern", found, "a simpler one", SIMPLER)
