"""Which tokens each state of an automaton allows, kept once they are known."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..generate import InterruptionError
from ..tokenizer import END_OF_DOCUMENT, Tokenizer
from .automaton import DEAD, Automaton, Machine, Members, Place
from .filter import Filter
from .nfa import Nfa
from .trie import LONGEST, Trie

CACHE_BYTES = 4 << 20
"""Memory for the masks of one constraint. The mask that was used longest ago goes first."""

OVERHEAD = 512
"""Bytes of the objects around a mask."""

PAUSE = 0.001
"""Seconds between looks at whether another thread has ended its turn, if there is a deadline."""

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
        self.n_bytes += _size(name, mask)
        while self.n_bytes > CACHE_BYTES:
            self.n_bytes -= _size(*self._masks.popitem(last=False))


def _size(name: Members, mask: np.ndarray) -> int:
    return mask.nbytes + 8 * len(name) + OVERHEAD


class _Learned:
    """What one process has learned of a pattern, and the lock that its threads take to use it."""

    def __init__(self, nfa: Nfa) -> None:
        self.process = os.getpid()
        self.lock = threading.Lock()
        self.machine = Machine(nfa)
        self.cache = MaskCache()
        # The names of the states of one automaton. States of the same name allow the same tokens.
        self.names: dict[int, Members] = {}
        self.named = self.machine.automaton
        # By the state of one automaton, the token that is expected, and the state after it; None
        # where more than one byte may follow.
        self._steps: dict[int, tuple[int, int] | None] = {}
        self._stepped = self.machine.automaton

    def steps_of(self, automaton: Automaton) -> dict[int, tuple[int, int] | None]:
        """Return the steps of an automaton; those of an earlier one are forgotten."""
        if self._stepped is not automaton:
            self._stepped = automaton
            self._steps = {}
        return self._steps

    def wait(self, stopped: Callable[[], Any] | None) -> None:
        """Wait until no other thread holds the lock, but no longer than `stopped` allows."""
        while stopped is not None and self.lock.locked():
            if stopped():
                raise InterruptionError
            time.sleep(PAUSE)


class Masks:
    """The allowed tokens of one vocabulary. Any number of threads may use it.

    Parameters
    ----------
    nfa : Nfa
    trie : Trie

    """

    def __init__(self, nfa: Nfa, trie: Trie) -> None:
        self._nfa = nfa
        self._learned = _Learned(nfa)
        self._vocab_size = trie.vocab_size
        self._filter = Filter(trie, self.machine.automaton.classes)
        self._stands_for = nfa.interchangeable(trie.longest)

    @property
    def machine(self) -> Machine:
        """The automaton of this process."""
        return self._own().machine

    @property
    def cache(self) -> MaskCache:
        """The masks of this process."""
        return self._own().cache

    def _own(self) -> _Learned:
        """Return what this process has learned; a forked child begins anew.

        When it was forked, a thread may have held the lock, or have been writing to the tables.
        """
        own = self._learned
        if own.process != os.getpid():
            own = self._learned = _Learned(self._nfa)
        return own

    def begin(self) -> Place:
        """Return the place at which texts begin."""
        own = self._own()
        with own.lock:
            return own.machine.begin()

    def read(self, place: Place, data: bytes) -> Place:
        """Return the place after some bytes; it is false if they do not fit."""
        own = self._own()
        with own.lock:
            return own.machine.read(place, data)

    def allowed(self, place: Place, stopped: Callable[[], Any] | None = None) -> np.ndarray:
        """Return the mask of a place, from the cache if it is there.

        Parameters
        ----------
        place : Place
        stopped : callable, optional
            Asked while new states are looked at; a true answer ends that.

        Returns
        -------
        ndarray
            The ids of the allowed tokens, int32. If these are more than `FEW`, packed bits, uint8:
            one for each token, set if that token is not allowed.

        Raises
        ------
        InterruptionError
            `stopped` has told to end.
        """
        own = self._own()

        def mask(automaton: Automaton, state: int) -> np.ndarray:
            return self._mask(own, automaton, state)

        own.wait(stopped)
        with own.lock:
            return own.machine.ask(place, mask, stopped)

    def advance(self, place: Place, token: int, data: bytes) -> Place:
        """Return the place after a token that was chosen; it is false if it does not fit.

        Where one text must follow, it is remembered how the token spelled it. A token that goes
        beyond that text can be guessed by nobody.
        """
        own = self._own()

        def advance(automaton: Automaton, state: int) -> Place:
            after = automaton.read(state, data)
            steps = own.steps_of(automaton)
            expected = steps.get(state)
            if after != DEAD and expected is not None and token != expected[0]:
                is_within = len(data) <= len(automaton.forced(state, len(data)))
                steps[state] = (token, after) if is_within else None
            return Place(automaton, after)

        with own.lock:
            return own.machine.ask(place, advance)

    def forced(
        self,
        place: Place,
        most: int,
        tokenizer: Tokenizer,
        stopped: Callable[[], Any] | None = None,
    ) -> list[int]:
        """Return tokens, at most so many, that may spell the text that must follow.

        They are those that were chosen at the same places before, else the tokenizer's own.

        Parameters
        ----------
        place : Place
        most : int
        tokenizer : Tokenizer
        stopped : callable, optional
            As for `allowed`.
        """
        own = self._own()

        def spell(automaton: Automaton, state: int) -> list[int]:
            steps = own.steps_of(automaton)
            found: list[int] = []
            while len(found) < most:
                if state not in steps:
                    steps[state] = _forced_step(automaton, state, tokenizer)
                step = steps[state]
                if step is None or not automaton.goes_on(step[1]):
                    break  # nobody reads the last token of a text
                found.append(step[0])
                state = step[1]
            return found

        own.wait(stopped)
        with own.lock:
            return own.machine.ask(place, spell, stopped)

    def candidates(self, place: Place) -> np.ndarray:
        """Return the tokens that can be read from a place on, int32, shape (count,)."""
        own = self._own()
        with own.lock:
            return own.machine.ask(place, self._filter.tokens)

    def prepare(self, most: int) -> int:
        """Make the masks of the states nearest to the beginning; return the number of states."""
        own = self._own()
        places = [self.begin()]
        seen = {DEAD, places[0].state}
        for place in places:  # grows meanwhile
            self.allowed(place)
            with own.lock:
                row = own.machine.ask(place, Automaton.row)
                if own.machine.automaton is not place.automaton:  # it was full
                    break
            new = sorted(set(row.tolist()) - seen)
            new = new[: most - len(places)]
            seen.update(new)
            places += [Place(place.automaton, state) for state in new]
        return len(places)

    def _mask(self, own: _Learned, automaton: Automaton, state: int) -> np.ndarray:
        if own.named is not automaton:
            own.named = automaton
            own.names = {}
        name = own.names.get(state)
        if name is None:
            members = {self._stands_for[member] for member in automaton.members[state]}
            name = own.names[state] = tuple(sorted(members))
        mask = own.cache.get(name)
        if mask is None:
            mask = self._make(automaton, state)
            own.cache.put(name, mask)
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


def _forced_step(automaton: Automaton, state: int, tokenizer: Tokenizer) -> tuple[int, int] | None:
    """Return the tokenizer's token for what must follow, and the state after it; None if none."""
    data = automaton.forced(state, LONGEST)
    if not data:
        return None
    (token,), place = tokenizer.encode_part(data, 0, 1)
    return token, automaton.read(state, data[:place])
