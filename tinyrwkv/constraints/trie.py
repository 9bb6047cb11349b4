"""The tokens of a vocabulary as a tree of bytes in arrays, and which of them an automaton lets pass."""

from __future__ import annotations

import numpy as np

from .automaton import DEAD, UNKNOWN, Automaton

LONGEST = 24
"""Longer tokens, which are runs of blanks and dashes, are left out: what they spell, shorter ones can."""

FEW = 100
"""Up to so many nodes are faster looked at one by one."""


class Trie:
    """Every text that a token begins with is a node; those of one length lie together, sorted.

    The tokens lie sorted in a model file, so the nodes of a length are the entries that differ from the one before
    within it, and the children of a node are neighbours. 21 bytes for each node: 2.4 MB for the World vocabulary.

    Parameters
    ----------
    data : ndarray, uint8, shape (total,)
    starts : ndarray, int32, shape (n + 1,)
    ids : ndarray, int32, shape (n,)
        The entries as `Tokenizer` takes them: sorted, and all 256 single bytes among them.
    vocab_size : int

    Attributes
    ----------
    longest : int
        Bytes of the longest token that counts.
    bytes : ndarray, uint8, shape (nodes,)
        The last byte of each node's text.
    starts : list of int
        The first node of each length, from 1 on, and the number of all nodes.
    children : ndarray, int32, shape (nodes + 1,)
        Those of node i are ``children[i]`` up to ``children[i + 1]``.
    counts : ndarray, int32, shape (nodes,)
        How many each node has.
    parents : ndarray, int64, shape (nodes - starts[1],)
        For each node that has one the parent, counted from the first of its length.
    tokens : ndarray, int32, shape (nodes,)
        The token that is a node's text, or -1.
    """

    def __init__(
        self, data: np.ndarray, starts: np.ndarray, ids: np.ndarray, vocab_size: int
    ) -> None:
        self.vocab_size = vocab_size
        lengths = np.diff(starts)  # (n,)
        self.longest = longest = min(int(lengths.max()), LONGEST)
        shared = np.zeros(
            len(ids), np.int32
        )  # bytes that an entry has in common with the one before
        same = np.arange(
            1, len(ids), dtype=np.int32
        )  # the entries that agree with the one before so far
        for place in range(longest):
            same = same[(lengths[same] > place) & (lengths[same - 1] > place)]
            same = same[data[starts[same] + place] == data[starts[same - 1] + place]]
            shared[same] += 1
        levels, rest = [], np.arange(len(ids), dtype=np.int32)
        for length in range(1, longest + 1):
            rest = rest[lengths[rest] >= length]
            levels.append(
                rest[shared[rest] < length]
            )  # the first entries that begin with each node's text
        entries = np.concatenate(levels)
        depths = np.repeat(
            np.arange(1, longest + 1, dtype=np.int32), [len(level) for level in levels]
        )
        self.bytes = data[starts[entries] + depths - 1]
        self.tokens = np.where(lengths[entries] == depths, ids[entries], -1).astype(np.int32)
        self.starts = np.cumsum([0, *map(len, levels)]).tolist()
        children = [
            begin + np.searchsorted(below, level)
            for begin, level, below in zip(
                self.starts[1:], levels, [*levels[1:], levels[-1][:0]], strict=True
            )
        ]
        self.children = np.concatenate([*children, [len(entries)]]).astype(np.int32)
        self.counts = np.diff(self.children)
        places = np.arange(len(entries)) - np.repeat(self.starts[:-1], np.diff(self.starts))
        self.parents = np.repeat(places, self.counts)


class Filter:
    """Which tokens of a tree an automaton lets pass.

    Parameters
    ----------
    trie : Trie
    classes : bytes
        Those of the automaton.
    """

    def __init__(self, trie: Trie, classes: bytes) -> None:
        self.trie = trie
        self._classes = np.frombuffer(classes, np.uint8)[trie.bytes]  # (nodes,)
        self._views = (
            trie.children.data,
            trie.counts.data,
            self._classes.data,
        )  # single items of these are faster
        self._first: list[list[int]] = [
            [] for _ in range(max(classes) + 1)
        ]  # the nodes of length 1 of each class
        for node, number in enumerate(self._classes[: trie.starts[1]].tolist()):
            self._first[number].append(node)

    def tokens(self, automaton: Automaton, state: int) -> np.ndarray:
        """Return the tokens that an automaton can read from a state on, int32, shape (count,).

        Goes through the tree level by level, with the nodes that are alive and the state in each.
        """
        counts, tokens = self._views[1], self.trie.tokens
        nodes, states = list[int](), list[int]()
        for following, first in zip(automaton.row(state).tolist(), self._first, strict=True):
            if following:
                nodes += first
                states += [following] * len(first)
        few, many, level, total = (
            nodes[:],
            list[np.ndarray](),
            0,
            sum(map(counts.__getitem__, nodes)),
        )
        while total:
            if total <= FEW:
                nodes, states, total = self._one_by_one(automaton, nodes, states)
                few += nodes
                level += 1
            else:
                nodes, states, levels, total = self._whole_levels(automaton, level, nodes, states)
                many += levels
                level += len(levels)
        if not many:
            return np.array(
                [token for token in map(tokens.data.__getitem__, few) if token >= 0], np.int32
            )
        found = tokens[np.concatenate([np.array(few, np.intp), *many])]
        return found[found >= 0]

    def _one_by_one(
        self, automaton: Automaton, nodes: list[int], states: list[int]
    ) -> tuple[list[int], list[int], int]:
        """Return the nodes of the next level that are alive, their states, and how many children they have."""
        children, counts, classes = self._views
        table = automaton.table.data
        alive, reached, total = list[int](), list[int](), 0
        for node, state in zip(nodes, states, strict=True):
            if not (count := counts[node]):
                continue
            if table[state, 0] == UNKNOWN:
                automaton.know(state)
                table = automaton.table.data
            first = children[node]
            for child in range(first, first + count):
                if following := table[state, classes[child]]:
                    alive.append(child)
                    reached.append(following)
                    total += counts[child]
        return alive, reached, total

    def _whole_levels(
        self, automaton: Automaton, level: int, nodes: list[int], states: list[int]
    ) -> tuple[list[int], list[int], list[np.ndarray], int]:
        """Do the same for all nodes of a level at once, the dead ones too, as long as many are alive.

        Returns those of the last level that have children, their states, the nodes of each level, and the children's
        number.
        """
        trie, first = self.trie, self.trie.starts[1]
        some, where = np.array(nodes, np.intp), np.array(states, np.int32)
        levels, total = list[np.ndarray](), FEW + 1
        while total > FEW:
            begin, middle, end = trie.starts[level : level + 3]
            rows = np.zeros(middle - begin, np.intp)  # DEAD is 0
            rows[some - begin] = where * automaton.n_classes
            cells = rows.take(trie.parents[middle - first : end - first])
            cells += self._classes[middle:end]
            reached = automaton.table.ravel().take(cells)
            if reached.min(initial=DEAD) == UNKNOWN:
                for state in set((cells[reached == UNKNOWN] // automaton.n_classes).tolist()):
                    automaton.know(state)
                reached = automaton.table.ravel().take(cells)
            alive = np.flatnonzero(reached)
            some, where = alive + middle, reached[alive]
            levels.append(some)
            level += 1
            counts = trie.counts[some]
            total = int(counts.sum())
        inner = counts > 0
        return some[inner].tolist(), where[inner].tolist(), levels, total
