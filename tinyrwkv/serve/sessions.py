"""The states of conversations, so that a follow-up turn costs only its new tokens."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from ..state import State

OVERHEAD = 1_000
"""Bytes of the objects around a state."""

PATIENCE = 60.0
"""Seconds to wait at most for a state that is being computed."""


class Sessions:
    """The states after the beginnings of conversations that were used last, in so many bytes.

    Any number of threads may use it.

    Parameters
    ----------
    most_bytes : int
        What all states may take together. Those that were used longest ago go first.

    Attributes
    ----------
    n_bytes : int
        What they take.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.n_bytes = 0
        self._states: OrderedDict[bytes, State] = OrderedDict()
        self._expected: set[bytes] = set()
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._states)

    def find(self, keys: Sequence[bytes]) -> tuple[int, State | None]:
        """Return how many segments the longest known beginning has, and the state after them.

        A beginning whose state is being computed is waited for.

        Parameters
        ----------
        keys : sequence of bytes
            `Conversation.keys`, the shortest beginning first.

        Returns
        -------
        count : int
        state : State or None
            None if no beginning is known.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._expected.isdisjoint(keys), PATIENCE)
            for count in range(len(keys), 0, -1):
                state = self._states.get(keys[count - 1])
                if state is not None:
                    self._states.move_to_end(keys[count - 1])
                    return count, state
        return 0, None

    def expect(self, key: bytes) -> None:
        """Announce a state that will be kept, or given up."""
        with self._changed:
            self._expected.add(key)

    def give_up(self, key: bytes) -> None:
        """Tell those who wait for a state that it does not come."""
        with self._changed:
            self._expected.discard(key)
            self._changed.notify_all()

    def keep(self, key: bytes, state: State) -> None:
        """Keep a state, unless it alone is too large; drop old ones to make room for it."""
        size = _size(state)
        with self._changed:
            self._expected.discard(key)
            self._changed.notify_all()
            if size > self.most_bytes:
                return
            if key in self._states:
                self.n_bytes -= _size(self._states.pop(key))
            self._states[key] = state
            self.n_bytes += size
            while self.n_bytes > self.most_bytes:
                self.n_bytes -= _size(self._states.popitem(last=False)[1])


def _size(state: State) -> int:
    return state.data.nbytes + OVERHEAD
