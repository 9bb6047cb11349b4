"""Automata over characters: for patterns that are searched for, and for several things at once.

The automata of `tinyrwkv.constraints.nfa` read bytes, and each needs a tree. Here an automaton
tells where it can go from a state, so that several can go together, step by step.
"""

from __future__ import annotations

from collections.abc import Sequence as List
from typing import NamedTuple, Protocol

from ..characters import Ranges, complement, normalise
from ..pattern import Characters, Either, Node, Repeat, Sequence
from .ecma import Anchor
from .graphs import reached
from .refusals import Work, too_large

MOST_STATES = 20_000
"""States of one automaton, or of several together."""

Step = tuple[int, int, int]
"""Low, high, target: any character from low to high, both included, leads to the state target."""


class Machine(Protocol):
    """An automaton over characters whose first state is 0."""

    def accepts(self, state: int) -> bool:
        """Tell whether the text so far fits."""

    def steps(self, state: int) -> List[Step]:
        """Return the steps from a state, sorted; no character fits two of them."""


class Search:
    """The automaton of the texts in which a pattern is found.

    Parameters
    ----------
    tree : Node
        With its anchors.
    work : Work
    path : str
        The place of the pattern in the schema.
    """

    def __init__(self, tree: Node, work: Work, path: str) -> None:
        self._work = work
        self._path = path
        self._moves: list[list[Step]] = []
        self._jumps: list[list[tuple[str, int]]] = []  # an anchor or "", and the next state
        before, begin = self._new_state(), self._new_state()
        end = self._add(tree, begin)
        after = self._new_state()
        for state in (before, after):
            self._moves[state] += [(low, high, state) for low, high in complement(())]
        self._jumps[before].append(("", begin))
        self._jumps[end].append(("", after))
        self._end = after
        self._useful = self._leading_to_end()
        first = self._closure([before], "^")
        self._numbers = {(first, True): 0}
        self._members = [first]
        self._accepts = [self._end in self._closure(first, "^$")]
        self._known: dict[int, list[Step]] = {}

    def accepts(self, state: int) -> bool:
        """Tell whether the pattern was found in the text so far."""
        return self._accepts[state]

    def steps(self, state: int) -> List[Step]:
        """Return the steps from a state."""
        if state not in self._known:
            self._work.spend(
                sum(len(self._moves[member]) for member in self._members[state]), self._path
            )
            moves = [
                move
                for member in self._members[state]
                for move in self._moves[member]
                if move[2] in self._useful
            ]
            found: list[Step] = []
            for low, high, targets in self._pieces(moves):
                target = self._number(tuple(sorted(targets)))
                if found and found[-1][1:] == (low - 1, target):
                    found[-1] = (found[-1][0], high, target)
                else:
                    found.append((low, high, target))
            self._known[state] = found
        return self._known[state]

    def _pieces(self, moves: list[Step]) -> list[tuple[int, int, set[int]]]:
        """Cut ranges of characters at their ends; return the targets that each piece leads to."""
        borders = sorted({low for low, _, _ in moves} | {high + 1 for _, high, _ in moves})
        index = {border: i for i, border in enumerate(borders)}
        spans = [(index[low], index[high + 1], target) for low, high, target in moves]
        self._work.spend(sum(end - begin for begin, end, _ in spans), self._path)
        targets: list[set[int]] = [set() for _ in borders]
        for begin, end, target in spans:
            for i in range(begin, end):
                targets[i].add(target)
        return [
            (low, following - 1, some)
            for low, following, some in zip(borders, borders[1:], targets, strict=False)
            if some
        ]

    def _number(self, targets: tuple[int, ...]) -> int:
        key = (targets, False)
        if key not in self._numbers:
            if len(self._members) == MOST_STATES:
                too_large(self._path, f"more than {MOST_STATES:,} states")
            self._numbers[key] = len(self._members)
            members = self._closure(targets, "")
            self._members.append(members)
            self._accepts.append(self._end in self._closure(members, "$"))
        return self._numbers[key]

    def _closure(self, states: List[int], anchors: str) -> tuple[int, ...]:
        """Return the states that follow without a character, past these anchors."""
        reached = set(states)
        waiting = list(states)
        while waiting:
            for anchor, target in self._jumps[waiting.pop()]:
                if anchor in anchors and target not in reached:
                    reached.add(target)
                    waiting.append(target)
        self._work.spend(len(reached), self._path)
        return tuple(sorted(reached))

    def _leading_to_end(self) -> set[int]:
        """Return the states that lead to the end once a character was read."""
        pairs = [
            (target, state)
            for state, (moves, jumps) in enumerate(zip(self._moves, self._jumps, strict=True))
            for target in [move[2] for move in moves] + [to for sign, to in jumps if sign != "^"]
        ]
        return reached([self._end], pairs)

    def _new_state(self) -> int:
        if len(self._moves) == MOST_STATES:
            too_large(self._path, f"more than {MOST_STATES:,} states")
        self._moves.append([])
        self._jumps.append([])
        return len(self._moves) - 1

    def _add(self, node: Node, start: int) -> int:
        """Add what matches a node, from the state `start` on; return the state at its end."""
        self._work.spend(1, self._path)
        if isinstance(node, Sequence):
            for part in node.parts:
                start = self._add(part, start)
            if not isinstance(node, Anchor):
                return start
        if isinstance(node, Repeat):
            return self._add_repeat(node, start)
        end = self._new_state()
        if isinstance(node, Anchor):
            self._jumps[start].append((node.sign, end))
        elif isinstance(node, Characters):
            self._work.spend(4 * len(node.ranges), self._path)
            self._moves[start] += [(low, high, end) for low, high in node.ranges]
        elif isinstance(node, Either):
            for part in node.parts:
                self._jumps[self._add(part, start)].append(("", end))
        return end

    def _add_repeat(self, node: Repeat, start: int) -> int:
        for _ in range(node.least):
            start = self._add(node.part, start)
        end = self._new_state()
        if node.most is None:
            again = self._new_state()
            self._jumps[start].append(("", again))
            self._jumps[self._add(node.part, again)].append(("", again))
            self._jumps[again].append(("", end))
            return end
        for _ in range(node.most - node.least):
            self._jumps[start].append(("", end))
            start = self._add(node.part, start)
        self._jumps[start].append(("", end))
        return end


class Without:
    """The automaton of the texts in which a pattern is not found."""

    def __init__(self, search: Search) -> None:
        self.search = search

    def accepts(self, state: int) -> bool:
        """Tell whether the pattern was not found in the text so far."""
        return state == MOST_STATES or not self.search.accepts(state)

    def steps(self, state: int) -> List[Step]:
        """Return the steps from a state; number `MOST_STATES` is where it can't be found."""
        if state == MOST_STATES:
            return [(low, high, state) for low, high in complement(())]
        steps = self.search.steps(state)
        others = complement(normalise([(low, high) for low, high, _ in steps]))
        return sorted([*steps, *((low, high, MOST_STATES) for low, high in others)])


class Lengths:
    """The automaton of the texts that have from `least` to `most` characters."""

    def __init__(self, least: int, most: int | None) -> None:
        self.least = least
        self.most = most

    def accepts(self, state: int) -> bool:
        """Tell whether so many characters are enough."""
        return state >= self.least

    def steps(self, state: int) -> List[Step]:
        """Return the step to the next length."""
        if state == self.most:
            return []
        following = state if self.most is None and state == self.least else state + 1
        return [(low, high, following) for low, high in complement(())]


class Others:
    """The automaton of all texts but some."""

    def __init__(self, texts: List[str]) -> None:
        self.texts = frozenset(texts)
        self._beginnings = [""]
        self._numbers = {"": 0}
        for text in texts:
            for end in range(1, len(text) + 1):
                if text[:end] not in self._numbers:
                    self._numbers[text[:end]] = len(self._beginnings)
                    self._beginnings.append(text[:end])
        self._elsewhere = len(self._beginnings)
        self._next: dict[int, list[str]] = {}
        for text in self._beginnings[1:]:
            self._next.setdefault(self._numbers[text[:-1]], []).append(text)

    def accepts(self, state: int) -> bool:
        """Tell whether the text is none of those."""
        return state == self._elsewhere or self._beginnings[state] not in self.texts

    def steps(self, state: int) -> List[Step]:
        """Return the steps along the texts, and away from them."""
        along = sorted((ord(text[-1]), self._numbers[text]) for text in self._next.get(state, ()))
        steps = [(code, code, target) for code, target in along]
        others = complement(tuple((code, code) for code, _ in along))
        return sorted([*steps, *((low, high, self._elsewhere) for low, high in others)])


class Together(NamedTuple):
    """What several automata allow, as edges between states.

    Attributes
    ----------
    edges : dict of (int, int) to list of (int, int)
        From a state to another one: the characters.
    ends : list of int
    """

    edges: dict[tuple[int, int], list[tuple[int, int]]]
    ends: list[int]


def together(machines: List[Machine], alphabet: Ranges, work: Work, path: str) -> Together:
    """Return the texts that all of some automata accept.

    Parameters
    ----------
    machines : sequence of Machine
    alphabet : Ranges
        Other characters are left out.
    work : Work
    path : str
        The place in the schema for which this is.

    Raises
    ------
    ArgumentError
        There are too many states, or it takes too much work.
    """
    begin = (0,) * len(machines)
    numbers = {begin: 0}
    found = Together({}, [])
    waiting = [begin]
    for states in waiting:  # grows meanwhile
        number = numbers[states]
        pairs = list(zip(machines, states, strict=True))
        if all(machine.accepts(state) for machine, state in pairs):
            found.ends.append(number)
        # Each piece: low, high, the states of the automata that were asked so far.
        pieces: list[tuple[int, int, tuple[int, ...]]] = [(*span, ()) for span in alphabet]
        for machine, state in pairs:
            pieces = _common(pieces, machine.steps(state))
        work.spend(1 + len(pieces), path)
        for low, high, following in pieces:
            if following not in numbers:
                if len(numbers) == MOST_STATES:
                    too_large(path, f"more than {MOST_STATES:,} states")
                numbers[following] = len(numbers)
                waiting.append(following)
            found.edges.setdefault((number, numbers[following]), []).append((low, high))
    return found


def _common(
    pieces: list[tuple[int, int, tuple[int, ...]]], steps: List[Step]
) -> list[tuple[int, int, tuple[int, ...]]]:
    """Return where pieces and steps have characters in common; both are sorted."""
    common = []
    at = 0
    for low, high, states in pieces:
        while at < len(steps) and steps[at][1] < low:
            at += 1
        i = at
        while i < len(steps) and steps[i][0] <= high:
            begin, end, target = steps[i]
            common.append((max(low, begin), min(high, end), (*states, target)))
            i += 1
    return common


def accepts(machine: Machine, text: str) -> bool:
    """Tell whether an automaton accepts a text."""
    state = 0
    for character in text:
        code = ord(character)
        found = [target for low, high, target in machine.steps(state) if low <= code <= high]
        if not found:
            return False
        state = found[0]
    return machine.accepts(state)
