"""The states of conversations: which are kept, which are found, and when."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyrwkv.file.config import Origin
from tinyrwkv.serve.sessions import OVERHEAD, Sessions
from tinyrwkv.state import State

ORIGIN: Origin = {}  # type: ignore[typeddict-item]
SIZE = 4 * 100 + OVERHEAD


def state(tokens: int = 0, size: int = 100) -> State:
    return State(np.zeros(size, np.float32), tokens, ORIGIN)


names = st.binary(min_size=1, max_size=1)


@given(st.integers(0, 5 * SIZE), st.lists(st.tuples(names, st.integers(0, 200)), max_size=30))
def test_no_more_bytes_than_asked_for(most: int, kept: list[tuple[bytes, int]]) -> None:
    sessions = Sessions(most)
    for name, size in kept:
        sessions.keep(name, state(size=size))
        assert 0 <= sessions.n_bytes <= most
    found = {name: sessions.find([name])[1] for name, _ in kept}
    held = [one for one in found.values() if one is not None]
    assert len(sessions) == len(held)
    assert sessions.n_bytes == sum(one.data.nbytes + OVERHEAD for one in held)


@given(st.lists(names, max_size=6), st.lists(names, min_size=1, max_size=6))
def test_the_longest_known_beginning_is_found(known: list[bytes], keys: list[bytes]) -> None:
    sessions = Sessions(100 * SIZE)
    for number, name in enumerate(known):
        sessions.keep(name, state(number))
    count, found = sessions.find(keys)
    assert not set(keys[count:]) & set(known)
    if found is None:
        assert count == 0 and not set(keys) & set(known)
    else:
        assert found.tokens == len(known) - 1 - known[::-1].index(keys[count - 1])


def test_what_was_used_longest_ago_goes_first() -> None:
    sessions = Sessions(2 * SIZE)
    sessions.keep(b"a", state())
    sessions.keep(b"b", state())
    assert sessions.find([b"a"])[0] == 1
    sessions.keep(b"c", state())
    assert [sessions.find([name])[0] for name in (b"a", b"b", b"c")] == [1, 0, 1]


@pytest.mark.parametrize("comes", [True, False])
def test_a_state_that_is_being_computed_is_expected(comes: bool) -> None:
    sessions = Sessions(2 * SIZE)
    sessions.keep(b"a", state(3))
    sessions.expect(b"b")
    assert sessions.expects([b"a", b"b"]) and not sessions.expects([b"a"])
    if comes:
        sessions.keep(b"b", state(7))
    else:
        sessions.give_up(b"b")
    assert not sessions.expects([b"a", b"b"])
    count, one = sessions.find([b"a", b"b"])
    assert one is not None and (count, one.tokens) == ((2, 7) if comes else (1, 3))
