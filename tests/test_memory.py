"""The gauges of memory against what the tests touch and drop, and the limit on what may be resident."""

from __future__ import annotations

import builtins
import itertools
import mmap
import os

import numpy as np
import pytest
from tiny_models import predict, rewrite, shape_of, write_model, write_tensors

import tinyrwkv
from tinyrwkv import memory
from tinyrwkv.errors import ArgumentError, UnsupportedError
from tinyrwkv.format import TensorFile, open_file

PAGES = 1024


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    metadata = {
        "kind": "state",
        "model": 64 * "0",
        "arch": "v4",
        "n_layer": 1,
        "n_embd": 1,
        "n_head": 1,
        "head_size": 1,
    }
    array = np.arange(PAGES * mmap.PAGESIZE // 4, dtype=np.int32)
    return write_tensors(tmp_path_factory.mktemp("memory") / "a.trwkv", metadata, {"state": array})


@pytest.fixture
def file(path):
    with open_file(path) as file:
        yield file


def touch(file: TensorFile, first: int, count: int) -> None:
    assert file.bytes[first * mmap.PAGESIZE :: mmap.PAGESIZE][:count].any()


@pytest.mark.usefixtures("linux")
class TestResident:
    def test_counts_what_was_touched_until_it_is_dropped(self, file):
        assert memory.resident(file) == 0
        touch(file, 0, PAGES)
        assert PAGES * mmap.PAGESIZE <= memory.resident(file) <= -(-len(file.bytes) // mmap.PAGESIZE) * mmap.PAGESIZE
        assert memory.advise(file, "MADV_DONTNEED", 0, len(file.bytes))
        assert memory.resident(file) == 0

    def test_a_part_can_be_dropped(self, file):
        touch(file, 0, PAGES)
        before, half = memory.resident(file), PAGES // 2 * mmap.PAGESIZE
        assert memory.advise(file, "MADV_DONTNEED", half + 5, 3 * mmap.PAGESIZE)  # whole pages around that
        assert before - memory.resident(file) >= 4 * mmap.PAGESIZE  # more, where the system maps larger pages

    def test_both_gauges_agree(self, file, monkeypatch):
        touch(file, 0, PAGES)
        expected = memory.resident(file)

        def closed(name, *args, **kwargs):
            if "pagemap" in str(name):
                raise PermissionError(name)
            return builtins.open(name, *args, **kwargs)

        monkeypatch.setattr(memory, "open", closed, raising=False)
        assert memory.resident(file) == expected > 0

    def test_is_unknown_where_proc_is_closed(self, file, monkeypatch):
        def closed(name, *args, **kwargs):
            raise PermissionError(name)

        monkeypatch.setattr(memory, "open", closed, raising=False)
        assert memory.resident(file) is None
        assert memory.process_memory() == {}

    def test_prefault_reads_all(self, file):
        memory.prefault(file)
        assert memory.resident(file) >= PAGES * mmap.PAGESIZE
        assert memory.cached(file) >= PAGES * mmap.PAGESIZE

    def test_the_page_cache_keeps_what_the_process_drops(self, file):
        memory.prefault(file)
        cached = memory.cached(file)
        memory.advise(file, "MADV_DONTNEED", 0, len(file.bytes))
        assert memory.resident(file) == 0 and memory.cached(file) == cached

    def test_the_page_cache_can_be_dropped(self, path):
        memory.drop_from_cache(path)
        with open_file(path) as file:
            assert memory.cached(file) < PAGES * mmap.PAGESIZE / 2  # all but what opening the file reads ahead

    def test_of_this_process(self):
        found = memory.process_memory()
        assert set(found) == {"rss", "anon", "peak"} and 0 < found["anon"] <= found["rss"] <= found["peak"] * 1.5


def test_unknown_where_the_system_does_not_tell(file, monkeypatch):
    monkeypatch.setattr(memory, "LINUX", False)
    memory._libc.cache_clear()
    try:
        assert memory.resident(file) is None and memory.cached(file) is None
        assert memory.lock(file) is False and memory.process_memory() == {}
    finally:
        memory._libc.cache_clear()


def test_advice_that_the_system_lacks_is_no_error(file):
    assert memory.advise(file, "MADV_NO_SUCH_ADVICE", 0, 4096) is False
    memory.prefault(file)  # works without advice too


def test_a_closed_file_is_no_crash(path):
    file = open_file(path)
    file.close()
    assert memory.advise(file, "MADV_DONTNEED", 0, 4096) is False
    assert memory.resident(file) in (0, None)
    assert memory.cached(file) in (0, None)


def test_lock_tells_whether_it_did(file):
    assert memory.lock(file) in (True, False)


# The limit.


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A model whose parts are larger than what the system maps around a touched page."""
    config = shape_of("v7", layers=4, width=256, vocab=16384, head_size=64, ffn=1024)
    return write_model(tmp_path_factory.mktemp("large") / "a.trwkv", config, "int8")


def limited(path, backend):
    limit = tinyrwkv.load(path, backend=backend).parts.least_resident
    return tinyrwkv.load(path, backend=backend, resident_limit=limit), limit


@pytest.mark.usefixtures("linux")
def test_a_limit_changes_no_bit_and_is_held_between_calls(large, backend):
    tokens = np.random.default_rng(0).integers(0, 16384, 40)
    free = tinyrwkv.load(large, backend=backend)
    model, limit = limited(large, backend)
    assert limit < free.plan()["file_bytes"] / 2
    expected, after = free.forward(tokens, logits="all")
    logits, state = model.forward(tokens, logits="all")
    assert logits.tobytes() == expected.tobytes() and state.data.tobytes() == after.data.tobytes()
    assert model.resident() <= limit < free.resident()


@pytest.mark.usefixtures("linux")
def test_no_call_reads_more_than_half_the_limit(large, backend, monkeypatch):
    model, limit = limited(large, backend)
    inner, steps = model.backend.run, []

    def run(workspace, first, last, *rest):
        steps.append((first, last))
        return inner(workspace, first, last, *rest)

    monkeypatch.setattr(model.backend, "run", run)
    model.forward([1, 2, 3])
    cuts = model.parts.cuts
    assert steps[0][0] == 0 and steps[-1][1] == cuts[-1]
    assert all(a[1] == b[0] for a, b in itertools.pairwise(steps))
    for first, last in steps:
        assert model.parts.bytes_between(cuts.index(first), cuts.index(last)) <= limit // 2


@pytest.mark.usefixtures("linux")
def test_rows_that_some_tokens_need_count_too(large, tmp_path, backend, monkeypatch):
    """A predictor that chooses all neurons reads all of their rows, whatever was expected."""
    path = rewrite(large, tmp_path / "a.trwkv", predict)
    free = tinyrwkv.load(path, backend=backend).forward([1, 2])
    model, limit = limited(path, backend)
    inner, cuts, read = model.backend.run, model.parts.cuts, []

    def run(workspace, first, last, *rest):
        workspace.touched = 0
        inner(workspace, first, last, *rest)
        read.append(workspace.touched + model.parts.bytes_between(cuts.index(first), cuts.index(last)))

    monkeypatch.setattr(model.backend, "run", run)
    logits, state = model.forward([1])
    assert max(read) <= limit
    logits, state = model.forward([2], state)
    if backend != "numpy":
        assert logits.tobytes() == free[0].tobytes()


@pytest.mark.usefixtures("linux")
@pytest.mark.parametrize("count", [1, 16])
def test_the_limit_is_held_inside_a_token(large, backend, monkeypatch, count):
    model, limit = limited(large, backend)
    peak, inner = [0], memory.advise

    def advise(file, advice, start, length):
        peak.append(memory.resident(file))
        return inner(file, advice, start, length)

    monkeypatch.setattr(memory, "advise", advise)
    for seed in range(3):
        model.forward(np.random.default_rng(seed).integers(0, 16384, count))
    assert max(peak) <= limit


@pytest.mark.usefixtures("linux")
@pytest.mark.parametrize("limit", [0, 1, -1, True, 1.5e9, "1 GB", 100_000])
def test_a_limit_that_cannot_be_held_is_refused(large, limit):
    with pytest.raises(ArgumentError, match="resident_limit"):
        tinyrwkv.load(large, backend="numpy", resident_limit=limit)


def test_a_limit_is_refused_where_nothing_tells(tiny, monkeypatch):
    monkeypatch.setattr(memory, "LINUX", False)
    with pytest.raises(UnsupportedError, match="resident_limit"):
        tinyrwkv.load(tiny("v7", "int8"), backend="numpy", resident_limit=1 << 30)


def test_prefault_and_lock_are_not_errors_where_limits_forbid_them(tiny):
    model = tinyrwkv.load(tiny("v7", "int8"), backend="numpy", prefault=True, lock=True)
    if memory.LINUX:
        assert model.resident() >= os.path.getsize(model.path) // mmap.PAGESIZE * mmap.PAGESIZE
    else:
        assert model.resident() is None and model.cached() is None
