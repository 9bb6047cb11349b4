"""The states of conversations, so that a follow-up turn costs only its new tokens."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from ..state import State

OVERHEAD = 1_000
"""Bytes of the objects around a state."""


class Sessions:
    """The states after the beginnings of conversations that were used last, in so many bytes.

    For use in one thread.

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

    def __len__(self) -> int:
        return len(self._states)

    def find(self, keys: Sequence[bytes]) -> tuple[int, State | None]:
        """Return how many segments the longest known beginning has, and the state after them.

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
        for count in range(len(keys), 0, -1):
            state = self._states.get(keys[count - 1])
            if state is not None:
                self._states.move_to_end(keys[count - 1])
                return count, state
        return 0, None

    def expects(self, keys: Sequence[bytes]) -> bool:
        """Tell whether the state after one of these beginnings is being computed."""
        return not self._expected.isdisjoint(keys)

    def expect(self, key: bytes) -> None:
        """Announce a state that will be kept, or given up."""
        self._expected.add(key)

    def give_up(self, key: bytes) -> None:
        """Tell that a state does not come."""
        self._expected.discard(key)

    def keep(self, key: bytes, state: State) -> None:
        """Keep a state, unless it alone is too large; drop old ones to make room for it."""
        size = _size(state)
        self._expected.discard(key)
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
