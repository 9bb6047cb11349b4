"""Which tokens each state of an automaton allows, kept once they are known."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator

import numpy as np

from ..tokenizer import END_OF_DOCUMENT
from .automaton import DEAD, Automaton, Machine, Members, Place
from .filter import Filter
from .nfa import Nfa
from .trie import Trie

CACHE_BYTES = 4 << 20
"""Memory for the masks of one constraint. The mask that was used longest ago goes first."""

OVERHEAD = 512
"""Bytes of the objects around a mask."""

FEW = 128
"""Up to this number of allowed tokens, a mask is their ids instead of a bit for every token."""


class MaskCache:
    """The masks that were used last, in at most `CACHE_BYTES`.

    Attributes
    ----------
    n_bytes : int
        Bytes that the masks take.
    """

    def __init__(self) -> None:
        self.n_bytes = 0
        self._masks: OrderedDict[Members, np.ndarray] = OrderedDict()

    def __len__(self) -> int:
        return len(self._masks)

    def __iter__(self) -> Iterator[Members]:
        return iter(self._masks)

    def get(self, name: Members) -> np.ndarray | None:
        """Return a mask, if it is here."""
        mask = self._masks.get(name)
        if mask is not None:
            self._masks.move_to_end(name)
        return mask

    def put(self, name: Members, mask: np.ndarray) -> None:
        """Keep a mask, and drop old ones to make room for it."""
        self._masks[name] = mask
        self.n_bytes += mask.nbytes + OVERHEAD
        while self.n_bytes > CACHE_BYTES:
            _, old = self._masks.popitem(last=False)
            self.n_bytes -= old.nbytes + OVERHEAD


class Masks:
    """The allowed tokens of one vocabulary. Any number of threads may use it.

    Parameters
    ----------
    nfa : Nfa
    trie : Trie

    Attributes
    ----------
    machine : Machine
    cache : MaskCache
    """

    def __init__(self, nfa: Nfa, trie: Trie) -> None:
        self.machine = Machine(nfa)
        self.cache = MaskCache()
        self._vocab_size = trie.vocab_size
        self._filter = Filter(trie, self.machine.automaton.classes)
        self._stands_for = nfa.interchangeable(trie.longest)
        # The names of the states of one automaton. States of the same name allow the same tokens.
        self._names: dict[int, Members] = {}
        self._named = self.machine.automaton
        self._lock = threading.Lock()

    def begin(self) -> Place:
        """Return the place at which texts begin."""
        with self._lock:
            return self.machine.begin()

    def read(self, place: Place, data: bytes) -> Place:
        """Return the place after some bytes; it is false if they do not fit."""
        with self._lock:
            return self.machine.read(place, data)

    def allowed(self, place: Place) -> np.ndarray:
        """Return the mask of a place, from the cache if it is there.

        Returns
        -------
        ndarray
            The ids of the allowed tokens, int32. If these are more than `FEW`, packed bits, uint8:
            one for each token, set if that token is not allowed.
        """
        with self._lock:
            return self.machine.ask(place, self._mask)

    def candidates(self, place: Place) -> np.ndarray:
        """Return the tokens that can be read from a place on, int32, shape (count,)."""
        with self._lock:
            return self.machine.ask(place, self._filter.tokens)

    def prepare(self, most: int) -> int:
        """Make the masks of the states nearest to the beginning; return the number of states."""
        places = [self.begin()]
        seen = {DEAD, places[0].state}
        for place in places:  # grows meanwhile
            self.allowed(place)
            with self._lock:
                row = self.machine.ask(place, Automaton.row)
                if self.machine.automaton is not place.automaton:  # it was full
                    break
            new = sorted(set(row.tolist()) - seen)
            new = new[: most - len(places)]
            seen.update(new)
            places += [Place(place.automaton, state) for state in new]
        return len(places)

    def _mask(self, automaton: Automaton, state: int) -> np.ndarray:
        if self._named is not automaton:
            self._named = automaton
            self._names = {}
        name = self._names.get(state)
        if name is None:
            members = {self._stands_for[member] for member in automaton.members[state]}
            name = self._names[state] = tuple(sorted(members))
        mask = self.cache.get(name)
        if mask is None:
            mask = self._make(automaton, state)
            self.cache.put(name, mask)
        return mask

    def _make(self, automaton: Automaton, state: int) -> np.ndarray:
        tokens = self._filter.tokens(automaton, state)
        if automaton.accepts(state):
            tokens = np.append(tokens, np.int32(END_OF_DOCUMENT))
        if len(tokens) <= FEW:
            return tokens
        forbidden = np.ones(self._vocab_size, bool)
        forbidden[tokens] = False
        return np.packbits(forbidden)
