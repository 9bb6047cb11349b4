"""The tokens of a vocabulary as a tree of bytes in arrays, and which of them an automaton lets pass."""

from __future__ import annotations

import numpy as np

from .automaton import Automaton

LONGEST = 24
"""Longer tokens, which are runs of blanks and dashes, are left out: what they spell, shorter ones can."""

FEW = 128
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

    def __init__(self, data: np.ndarray, starts: np.ndarray, ids: np.ndarray, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        lengths = np.diff(starts)  # (n,)
        self.longest = longest = min(int(lengths.max()), LONGEST)
        shared = np.zeros(len(ids), np.int32)  # bytes that an entry has in common with the one before
        same = np.arange(1, len(ids), dtype=np.int32)  # the entries that agree with the one before so far
        for place in range(longest):
            same = same[(lengths[same] > place) & (lengths[same - 1] > place)]
            same = same[data[starts[same] + place] == data[starts[same - 1] + place]]
            shared[same] += 1
        levels, rest = [], np.arange(len(ids), dtype=np.int32)
        for length in range(1, longest + 1):
            rest = rest[lengths[rest] >= length]
            levels.append(rest[shared[rest] < length])  # the first entries that begin with each node's text
        entries = np.concatenate(levels)
        depths = np.repeat(np.arange(1, longest + 1, dtype=np.int32), [len(level) for level in levels])
        self.bytes = data[starts[entries] + depths - 1]
        self.tokens = np.where(lengths[entries] == depths, ids[entries], -1).astype(np.int32)
        self.starts = np.cumsum([0, *map(len, levels)]).tolist()
        children = [
            begin + np.searchsorted(below, level)
            for begin, level, below in zip(self.starts[1:], levels, [*levels[1:], levels[-1][:0]], strict=True)
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

    def tokens(self, automaton: Automaton, state: int) -> np.ndarray:
        """Return the tokens that an automaton can read from a state on, int32, shape (count,).

        Goes through the tree level by level, with the nodes that are alive and the state in each.
        """
        if not automaton.known[state]:
            automaton.know(state)
        states = automaton.table[state].take(self._classes[: self.trie.starts[1]])
        nodes = np.flatnonzero(states)
        states, level, found = states[nodes], 0, [nodes]
        while total := int(self.trie.counts[nodes].sum()):
            step = self._one_by_one if total <= FEW else self._whole_level
            nodes, states = step(automaton, level, nodes, states)
            level += 1
            found.append(nodes)
        tokens = self.trie.tokens[np.concatenate(found)]
        return tokens[tokens >= 0]

    def _one_by_one(
        self, automaton: Automaton, level: int, nodes: np.ndarray, states: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the nodes of the next level that are alive, and their states."""
        children, classes, table = self.trie.children.data, self._classes.data, automaton.table.data
        alive, reached = list[int](), list[int]()
        for node, state in zip(nodes.tolist(), states.tolist(), strict=True):
            first, last = children[node], children[node + 1]
            if first < last and not automaton.known[state]:
                automaton.know(state)
                table = automaton.table.data
            for child in range(first, last):
                if following := table[state, classes[child]]:
                    alive.append(child)
                    reached.append(following)
        return np.array(alive, np.intp), np.array(reached, np.int32)

    def _whole_level(
        self, automaton: Automaton, level: int, nodes: np.ndarray, states: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Do the same for all nodes of the level at once, the dead ones too."""
        inner = states[self.trie.counts[nodes] > 0]
        unknown = inner[~automaton.known[inner]]
        for state in set(unknown.tolist()):
            automaton.know(state)
        first, (begin, middle, end) = self.trie.starts[1], self.trie.starts[level : level + 3]
        rows = np.zeros(middle - begin, np.intp)  # DEAD is 0
        rows[nodes - begin] = states * automaton.n_classes
        cells = rows.take(self.trie.parents[middle - first : end - first])
        cells += self._classes[middle:end]
        states = automaton.table.ravel().take(cells)
        alive = np.flatnonzero(states)
        return alive + middle, states[alive]
