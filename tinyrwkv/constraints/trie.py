"""The tokens of a vocabulary as a tree of their bytes, in arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from ..tokenizer import Tokenizer

if TYPE_CHECKING:
    from ..core import Core

LONGEST = 24
"""Bytes. Longer tokens are left out: runs of blanks and dashes, which shorter tokens spell."""

NO_TOKEN = -1
"""In `Trie.tokens`, for a text that is only the beginning of longer tokens."""


class Trie:
    """A tree whose nodes are the texts that tokens begin with.

    The nodes of one length are a level. They lie together and are sorted, because a model file has
    its tokens sorted. An entry begins a new node of a level if its first bytes, as many as the
    level is long, differ from those of the entry before. The children of a node are neighbours. A
    node takes 21 bytes, and the tree of the World vocabulary 2.4 MB.

    Parameters
    ----------
    data : ndarray, uint8, shape (total,)
    starts : ndarray, int32, shape (n + 1,)
    ids : ndarray, int32, shape (n,)
        The entries as `Tokenizer` takes them: sorted, with all 256 single bytes among them.
    vocab_size : int

    Attributes
    ----------
    longest : int
        Bytes of the longest token in the tree.
    bytes : ndarray, uint8, shape (nodes,)
        The last byte of each node's text.
    starts : list of int
        The first node of each level, from length 1 on, then the number of all nodes.
    children : ndarray, int32, shape (nodes + 1,)
        The children of node i are ``children[i]`` up to ``children[i + 1]``.
    counts : ndarray, int32, shape (nodes,)
        The number of children of each node.
    parents : ndarray, int64, shape (nodes - starts[1],)
        For each node below level 1, its parent, counted from the first node of the parent's level.
    tokens : ndarray, int32, shape (nodes,)
        The token that is a node's text, or `NO_TOKEN`.
    """

    def __init__(
        self, data: np.ndarray, starts: np.ndarray, ids: np.ndarray, vocab_size: int
    ) -> None:
        self.vocab_size = vocab_size
        lengths = np.diff(starts)  # (n,)
        self.longest = min(int(lengths.max()), LONGEST)
        levels = _levels(lengths, _shared_bytes(data, starts, lengths, self.longest), self.longest)
        sizes = [len(level) for level in levels]
        self.starts = np.cumsum([0, *sizes]).tolist()

        entries = np.concatenate(levels)  # (nodes,)
        depths = np.repeat(np.arange(1, self.longest + 1, dtype=np.int32), sizes)  # (nodes,)
        self.bytes = data[starts[entries] + depths - 1]
        is_whole = lengths[entries] == depths
        self.tokens = np.where(is_whole, ids[entries], NO_TOKEN).astype(np.int32)

        self.children = self._first_children(levels)
        self.counts = np.diff(self.children)
        places_in_level = np.arange(len(entries)) - np.repeat(self.starts[:-1], sizes)
        self.parents = np.repeat(places_in_level, self.counts)

    def _first_children(self, levels: list[np.ndarray]) -> np.ndarray:
        nothing = levels[-1][:0]
        levels_below = [*levels[1:], nothing]
        children = [
            begin + np.searchsorted(below, level)
            for begin, level, below in zip(self.starts[1:], levels, levels_below, strict=True)
        ]
        return np.concatenate([*children, [self.starts[-1]]]).astype(np.int32)


def _shared_bytes(
    data: np.ndarray, starts: np.ndarray, lengths: np.ndarray, longest: int
) -> np.ndarray:
    """Return how many first bytes each entry shares with the one before, int32, shape (n,)."""
    shared = np.zeros(len(lengths), np.int32)
    same = np.arange(1, len(lengths), dtype=np.int32)  # entries that agree so far
    for place in range(longest):
        same = same[(lengths[same] > place) & (lengths[same - 1] > place)]
        same = same[data[starts[same] + place] == data[starts[same - 1] + place]]
        shared[same] += 1
    return shared


def _levels(lengths: np.ndarray, shared: np.ndarray, longest: int) -> list[np.ndarray]:
    """Return, for each length, the first entry that begins with each text of that length."""
    levels = []
    entries = np.arange(len(lengths), dtype=np.int32)
    for length in range(1, longest + 1):
        entries = entries[lengths[entries] >= length]
        levels.append(entries[shared[entries] < length])
    return levels


_tries: WeakKeyDictionary[Tokenizer, Trie] = WeakKeyDictionary()


def trie_of(model: Core) -> Trie:
    """Return the tree of a model's vocabulary; it is kept as long as the tokenizer lives.

    Raises
    ------
    UnsupportedError
        The model has no tokenizer.
    """
    tokenizer = model.tokenizer
    trie = _tries.get(tokenizer)
    if trie is None:
        data = model.file["tokenizer.bytes"]
        starts = model.file["tokenizer.starts"]
        ids = model.file["tokenizer.ids"]
        trie = _tries.setdefault(tokenizer, Trie(data, starts, ids, tokenizer.vocab_size))
    return trie
