"""Which tokens of a vocabulary an automaton can read."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .automaton import DEAD, UNKNOWN, Automaton
from .trie import Trie

FEW = 100
"""Up to this number of children, it is faster to look at nodes one by one than in whole levels."""


class Alive(NamedTuple):
    """The nodes of one level of a `Trie` whose texts an automaton can read.

    Attributes
    ----------
    nodes : list of int
    states : list of int
        The state of the automaton after each node's text.
    total : int
        How many children the nodes have together.
    """

    nodes: list[int]
    states: list[int]
    total: int


class Filter:
    """Finds the tokens of a tree that an automaton can read.

    Parameters
    ----------
    trie : Trie
    classes : bytes
        `Automaton.classes`.
    """

    def __init__(self, trie: Trie, classes: bytes) -> None:
        self.trie = trie
        self._classes = np.frombuffer(classes, np.uint8)[trie.bytes]  # (nodes,)
        # Single items of memoryviews are read faster than those of arrays.
        self._class_of = self._classes.data
        self._first_child = trie.children.data
        self._n_children = trie.counts.data
        self._first_level = _by_class(self._classes[: trie.starts[1]], max(classes) + 1)

    def tokens(self, automaton: Automaton, state: int) -> np.ndarray:
        """Return the tokens that an automaton can read from a state on, int32, shape (count,).

        The search goes down the tree level by level, along the nodes that are alive.
        """
        alive = self._begin(automaton.row(state))
        level = 0
        few = alive.nodes[:]  # the nodes that were found one by one
        many = list[np.ndarray]()  # the nodes that were found in whole levels
        while alive.total:
            if alive.total <= FEW:
                alive = self._one_by_one(automaton, alive)
                few += alive.nodes
                level += 1
            else:
                alive, levels = self._whole_levels(automaton, level, alive)
                many += levels
                level += len(levels)
        tokens = self.trie.tokens
        if not many:
            found = map(tokens.data.__getitem__, few)
            return np.array([token for token in found if token >= 0], np.int32)
        ids = tokens[np.concatenate([np.array(few, np.intp), *many])]
        return ids[ids >= 0]

    def _begin(self, row: np.ndarray) -> Alive:
        """Return the alive nodes of the first level, given the next state for each class."""
        nodes, states = list[int](), list[int]()
        for following, of_class in zip(row.tolist(), self._first_level, strict=True):
            if following:  # not DEAD, which is 0
                nodes += of_class
                states += [following] * len(of_class)
        return Alive(nodes, states, sum(map(self._n_children.__getitem__, nodes)))

    def _one_by_one(self, automaton: Automaton, parents: Alive) -> Alive:
        """Return the alive nodes of the next level, below `parents`."""
        first_child, n_children, class_of = self._first_child, self._n_children, self._class_of
        table = automaton.table.data
        nodes, states = list[int](), list[int]()
        total = 0
        for node, state in zip(parents.nodes, parents.states, strict=True):
            count = n_children[node]
            if not count:
                continue
            if table[state, 0] == UNKNOWN:
                automaton.explore(state)
                table = automaton.table.data  # it may have moved
            first = first_child[node]
            for child in range(first, first + count):
                following = table[state, class_of[child]]
                if following:  # not DEAD, which is 0
                    nodes.append(child)
                    states.append(following)
                    total += n_children[child]
        return Alive(nodes, states, total)

    def _whole_levels(
        self, automaton: Automaton, level: int, parents: Alive
    ) -> tuple[Alive, list[np.ndarray]]:
        """Go down while many nodes are alive; look at all nodes of a level at once, dead ones too.

        Returns
        -------
        alive : Alive
            Of the last level, only those that have children.
        levels : list of ndarray, int64
            The nodes that are alive, for each level.
        """
        trie = self.trie
        nodes = np.array(parents.nodes, np.intp)
        states = np.array(parents.states, np.int32)
        levels = list[np.ndarray]()
        total = FEW + 1
        while total > FEW:
            following = self._following(automaton, level, nodes, states)
            places = np.flatnonzero(following)  # not DEAD, which is 0
            nodes = places + trie.starts[level + 1]
            states = following[places]
            levels.append(nodes)
            level += 1
            counts = trie.counts[nodes]
            total = int(counts.sum())
        inner = counts > 0
        return Alive(nodes[inner].tolist(), states[inner].tolist(), total), levels

    def _following(
        self, automaton: Automaton, level: int, nodes: np.ndarray, states: np.ndarray
    ) -> np.ndarray:
        """Return the state after each node of the next level, int32; `DEAD` below dead nodes."""
        trie, n_classes = self.trie, automaton.n_classes
        begin, middle, end = trie.starts[level : level + 3]
        # For each node of this level, where the row of its state begins in the table.
        rows = np.full(middle - begin, DEAD * n_classes, np.intp)
        rows[nodes - begin] = states * n_classes
        first = trie.starts[1]  # nodes of the first level have no parents
        cells = rows.take(trie.parents[middle - first : end - first])
        cells += self._classes[middle:end]
        following = automaton.table.ravel().take(cells)
        if following.min(initial=DEAD) == UNKNOWN:
            for state in set((cells[following == UNKNOWN] // n_classes).tolist()):
                automaton.explore(state)
            following = automaton.table.ravel().take(cells)
        return following


def _by_class(classes: np.ndarray, n_classes: int) -> list[list[int]]:
    """Return the nodes of each class."""
    nodes: list[list[int]] = [[] for _ in range(n_classes)]
    for node, number in enumerate(classes.tolist()):
        nodes[number].append(node)
    return nodes
