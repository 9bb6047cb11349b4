"""Threads beside other work: when they stay away, when they come back, and always the same bits."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyrwkv
from tests.helpers.tiny_models import VOCAB_SIZE
from tinyrwkv.engine.pool import cores, pool
from tinyrwkv.engine.team import LONGEST_PAUSE, Team
from tinyrwkv.engine.workspace import Workspace
from tinyrwkv.kernels import abi as op

LATE = 4
"""The byte of a barrier that a thread sets when it has waited too long."""


class Clock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def call(team: Team, clock: Clock, seconds: float, most_with_cores: int) -> int:
    """Let a call take place, which goes well if each thread has a core; return its threads."""
    threads = team.size_of_next_call()
    clock.now += seconds
    if threads > 1:
        team.learn(threads, went_well=threads <= most_with_cores)
    return threads


def test_all_threads_take_part_while_calls_go_well() -> None:
    clock = Clock()
    team = Team(4, clock)
    assert {call(team, clock, 0.005, 4) for _ in range(1000)} == {4}


@given(st.integers(2, 8), st.floats(1e-4, 0.5), st.data())
def test_beside_other_work_few_calls_wait(most, seconds, data) -> None:
    with_cores = data.draw(st.integers(1, most - 1))
    clock = Clock()
    team = Team(most, clock)
    while clock.now < 50 + 8 * LONGEST_PAUSE:  # until the pauses are as long as they get
        call(team, clock, seconds, with_cores)
    begin = clock.now
    threads = []
    while clock.now < begin + 20 * LONGEST_PAUSE:
        threads.append(call(team, clock, seconds, with_cores))
    assert set(threads) <= set(range(1, most + 1))
    waited = sum(n > with_cores for n in threads)
    assert 1 <= waited <= 6 * 21  # at most six calls for each pause
    assert threads.count(with_cores) >= len(threads) - waited - most


@given(st.integers(2, 8), st.floats(1e-4, 0.5))
def test_threads_come_back_when_the_cores_are_idle_again(most, seconds) -> None:
    clock = Clock()
    team = Team(most, clock)
    while clock.now < 50 + 8 * LONGEST_PAUSE:
        call(team, clock, seconds, 1)
    end = clock.now + most * (LONGEST_PAUSE + seconds)
    while clock.now < end:
        call(team, clock, seconds, most)
    assert call(team, clock, seconds, most) == most


@given(st.integers(1, 8), st.lists(st.tuples(st.floats(0, 2), st.booleans())))
def test_a_call_has_one_to_all_threads_whatever_happens(most, calls) -> None:
    clock = Clock()
    team = Team(most, clock)
    for seconds, well in calls:
        threads = team.size_of_next_call()
        assert 1 <= threads <= most
        clock.now += seconds
        if threads > 1:
            team.learn(threads, went_well=well)


def test_one_wait_in_many_calls_sends_no_thread_away() -> None:
    clock = Clock()
    team = Team(2, clock)
    for i in range(1000):
        threads = team.size_of_next_call()
        assert threads == 2
        clock.now += 0.01
        team.learn(threads, went_well=i % 10 > 0)


def test_no_more_threads_take_part_than_there_are_cores() -> None:
    assert pool(cores() + 3).team.size_of_next_call() == cores()


# The same bits.

FORMS = ("dense", "compressed", "predicted", "networked", "previewed")


def run_together(model, workspace, first, last, states, ids, out) -> None:
    """Run operations as all threads of a workspace at the same time."""
    for block in workspace.arguments:
        block[op.FIRST], block[op.LAST] = first, last
        block[op.TOKENS], block[op.IDS] = len(ids), ids.ctypes.data
        block[op.OLD], block[op.NEW] = (state.ctypes.data for state in states)
        block[op.OUT], block[op.HEAD] = out.ctypes.data, op.HEAD_OF_ALL
    with ThreadPoolExecutor(len(workspace.addresses)) as workers:
        list(workers.map(model.backend.function, workspace.addresses))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("arch", ["v4", "v5.2", "v7"])
@pytest.mark.parametrize("threads", [2, 3])
def test_the_first_thread_can_end_a_call_alone_from_every_barrier(
    load, compiled, arch, form, threads
) -> None:
    model = load(compiled, arch, "int8", 1, form)
    ids = np.array([5, 3, 200], np.int32)
    expected, after = model.forward(ids, logits="all")
    old = model.new_state().data
    end = len(model.program.operations)
    syncs = [i for i, one in enumerate(model.program.operations) if one.opcode == op.SYNC]
    for sync in syncs:
        workspace = Workspace(model.program, threads)
        new, out = np.empty_like(old), np.empty_like(expected)
        run_together(model, workspace, 0, sync, (old, new), ids, out)
        workspace.barrier[LATE] = 1
        run_together(model, workspace, sync, end, (old, new), ids, out)
        assert [block[op.LAST] for block in workspace.arguments] == [end, *[0] * (threads - 1)]
        assert out.tobytes() == expected.tobytes()
        assert new.tobytes() == after.data.tobytes()


class Sizes:
    """A team with another number of threads in each call."""

    def __init__(self, most: int, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.most = most
        self.given: set[int] = set()

    def size_of_next_call(self) -> int:
        size = int(self.random.integers(1, self.most + 1))
        self.given.add(size)
        return size

    def learn(self, threads: int, went_well: bool) -> None:
        pass


@given(
    st.sampled_from(["v5.2", "v7"]),
    st.sampled_from(FORMS),
    st.integers(0, 99),
    st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_threads_that_go_and_come_change_no_bit(load, compiled, arch, form, seed, pausing) -> None:
    alone, together = (load(compiled, arch, "int8", n, form) for n in (1, 4))
    workers = pool(4)
    before, workers.team = workers.team, Sizes(4, seed)
    try:
        ids = np.random.default_rng(seed).integers(0, VOCAB_SIZE, 60).tolist()
        state, other = alone.new_state(), together.new_state()
        for part in (ids[:1], ids[1:2], ids[2:40], *([one] for one in ids[40:])):
            expected, state = alone.forward(part, state)
            if pausing:  # in several calls
                data = other.data
                for at in range(0, len(part), 16):
                    chunk = np.array(part[at : at + 16], np.int32)
                    new, found = np.empty_like(data), np.empty(VOCAB_SIZE, np.float32)
                    together.reader.pace.until = lambda first, *_: first + 1
                    assert together.reader.read(chunk, data, new, found, lambda: False)
                    data = new
                other = tinyrwkv.State(data, state.tokens, together.origin)
            else:
                found, other = together.forward(part, other)
            assert found.tobytes() == expected.tobytes()
            assert other.data.tobytes() == state.data.tobytes()
        assert len(workers.team.given) > 1
    finally:
        workers.team = before
        together.reader.pace.__dict__.pop("until", None)


def test_sessions_share_a_pool_while_threads_go_and_come(load, compiled) -> None:
    alone, together = (load(compiled, "v7", "int8", n) for n in (1, 3))
    ids = [5, 3, 200, 7]
    expected = alone.forward(ids)[0].tobytes()
    workers = pool(3)
    before, workers.team = workers.team, Sizes(3, 0)
    try:
        with ThreadPoolExecutor(4) as sessions:
            found = sessions.map(lambda _: together.forward(ids)[0].tobytes(), range(200))
        assert set(found) == {expected}
    finally:
        workers.team = before


def test_a_call_that_is_ended_alone_is_told_to_the_team(load, compiled, monkeypatch) -> None:
    model = load(compiled, "v7", "int8", 2)
    workers = pool(2)
    told: list[tuple[int, bool]] = []

    class Told(Sizes):
        def size_of_next_call(self) -> int:
            return 2

        def learn(self, threads: int, went_well: bool) -> None:
            told.append((threads, went_well))

    before, workers.team = workers.team, Told(2, 0)
    turns = itertools.count()
    original = workers.call

    def late(function, addresses, memory=None):
        memory[1].barrier[LATE] = next(turns) % 2  # every second call
        original(function, addresses, memory)

    monkeypatch.setattr(workers, "call", late)
    try:
        expected = load(compiled, "v7", "int8").forward([1])[0].tobytes()
        for _ in range(4):
            assert model.forward([1])[0].tobytes() == expected
    finally:
        workers.team = before
    assert [well for _, well in told[1::2]] == [False, False]
