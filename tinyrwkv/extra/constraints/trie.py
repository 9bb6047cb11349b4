"""The tokens of a vocabulary as a tree of bytes in arrays, and which of them an automaton lets pass."""

from __future__ import annotations

import numpy as np

from .automaton import DEAD, Automaton


class Trie:
    """Every text that a token begins with is a node; those of one length lie together, sorted.

    The tokens lie sorted in a model file, so the nodes of a length are the entries that differ from the one before
    within it, and the children of a node are neighbours. 9 bytes for each node: 1.6 MB for the World vocabulary.

    Parameters
    ----------
    data : ndarray, uint8, shape (total,)
    starts : ndarray, int32, shape (n + 1,)
    ids : ndarray, int32, shape (n,)
        The entries as `Tokenizer` takes them: sorted, and all 256 single bytes among them.
    vocab_size : int

    Attributes
    ----------
    bytes : ndarray, uint8, shape (nodes,)
        The last byte of each node's text.
    children : ndarray, int32, shape (nodes + 1,)
        Those of node i are ``children[i]`` up to ``children[i + 1]``.
    tokens : ndarray, int32, shape (nodes,)
        The token that is a node's text, or -1.
    """

    def __init__(self, data: np.ndarray, starts: np.ndarray, ids: np.ndarray, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        lengths = np.diff(starts)  # (n,)
        longest = int(lengths.max())
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
        begin, children = len(levels[0]), []
        for level, below in zip(levels, [*levels[1:], levels[-1][:0]], strict=True):
            children.append(begin + np.searchsorted(below, level))
            begin += len(below)
        self.children = np.concatenate([*children, [begin]]).astype(np.int32)
        self.roots = len(levels[0])

    def tokens_from(self, automaton: Automaton, state: int) -> np.ndarray:
        """Return the tokens whose bytes an automaton can read from a state on, int32, shape (count,)."""
        table, n_classes, classes = automaton.table, automaton.n_classes, automaton.classes
        nodes, states = np.arange(self.roots), np.full(self.roots, state)  # (alive,)
        found: list[np.ndarray] = []
        while len(nodes):
            unknown = states[~automaton.known[states]]
            if len(unknown):
                for number in np.unique(unknown):
                    automaton.know(int(number))
                table = automaton.table
            states = table.ravel().take(states * n_classes + classes[self.bytes[nodes]])
            alive = np.flatnonzero(states != DEAD)
            nodes, states = nodes[alive], states[alive]
            tokens = self.tokens[nodes]
            found.append(tokens[tokens >= 0])
            begins = self.children[nodes]
            counts = self.children[nodes + 1] - begins  # (alive,)
            states = np.repeat(states, counts)
            # The children of the first alive node, then those of the second, ...
            offsets = np.repeat(begins - (np.cumsum(counts) - counts), counts)
            nodes = offsets + np.arange(len(offsets))
        return np.concatenate(found) if found else np.zeros(0, np.int32)
