"""The gauges of memory against what the tests touch and drop, and the limit on it."""

from __future__ import annotations

import builtins
import functools
import itertools
import mmap
import os
import pathlib
import signal
import threading
import warnings

import numpy as np
import pytest

import tinyrwkv
from tests.helpers.tiny_models import (
    predict,
    preview,
    rewrite,
    shape_of,
    write_model,
    write_tensors,
)
from tinyrwkv.engine.limit import least_resident
from tinyrwkv.errors import ArgumentError, UnsupportedError
from tinyrwkv.file import memory, system, tensors
from tinyrwkv.file.mapped import open_file
from tinyrwkv.file.tensors import MappedFile, TensorFile

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
        assert file.resident() == 0
        touch(file, 0, PAGES)
        assert (
            PAGES * mmap.PAGESIZE
            <= file.resident()
            <= -(-len(file.bytes) // mmap.PAGESIZE) * mmap.PAGESIZE
        )
        assert file.drop()
        assert file.resident() == 0

    def test_a_part_can_be_dropped(self, file):
        touch(file, 0, PAGES)
        before, half = file.resident(), PAGES // 2 * mmap.PAGESIZE
        assert file.drop(half + 5, 3 * mmap.PAGESIZE)  # whole pages around that
        assert (
            before - file.resident() >= 4 * mmap.PAGESIZE
        )  # more, where the system maps larger pages

    def test_both_gauges_agree(self, file, monkeypatch):
        touch(file, 0, PAGES)
        expected = file.resident()

        def closed(name, *args, **kwargs):
            if "pagemap" in str(name):
                raise PermissionError(name)
            return builtins.open(name, *args, **kwargs)

        monkeypatch.setattr(tensors, "open", closed, raising=False)
        assert file.resident() == expected > 0

    def test_is_unknown_where_proc_is_closed(self, file, monkeypatch):
        def closed(name, *args, **kwargs):
            raise PermissionError(name)

        for module in (tensors, memory):
            monkeypatch.setattr(module, "open", closed, raising=False)
        assert file.resident() is None
        assert memory.process_memory() == {}

    def test_prefault_reads_all(self, file):
        memory.prefault(file)
        assert file.resident() >= PAGES * mmap.PAGESIZE
        assert file.cached() >= PAGES * mmap.PAGESIZE

    def test_the_page_cache_keeps_what_the_process_drops(self, file):
        memory.prefault(file)
        cached = file.cached()
        file.drop()
        assert file.resident() == 0 and file.cached() == cached

    def test_the_page_cache_of_a_file_of_somebody_else_is_unknown(self, file, monkeypatch):
        memory.prefault(file)
        monkeypatch.setattr(os, "geteuid", lambda: os.stat(file.path).st_uid + 1)
        monkeypatch.setattr(os, "access", lambda path, mode: path != file.path)
        assert file.cached() is None

    def test_the_page_cache_can_be_dropped(self, path):
        memory.drop_from_cache(path)
        with open_file(path) as file:
            assert (
                file.cached() < PAGES * mmap.PAGESIZE / 2
            )  # all but what opening the file reads ahead

    def test_of_this_process(self):
        found = memory.process_memory()
        assert (
            set(found) == {"rss", "anon", "peak"}
            and 0 < found["anon"] <= found["rss"] <= found["peak"] * 1.5
        )


def test_unknown_where_the_system_does_not_tell(file, monkeypatch):
    monkeypatch.setattr(system, "LINUX", False)
    system.libc.cache_clear()
    try:
        assert file.resident() is None and file.cached() is None
        assert memory.lock(file) is False and memory.process_memory() == {}
    finally:
        system.libc.cache_clear()


def test_advice_that_the_system_lacks_is_no_error(file):
    assert file.advise("MADV_NO_SUCH_ADVICE", 0, 4096) is False
    memory.prefault(file)  # works without advice too


def test_a_closed_file_is_no_crash(path):
    file = open_file(path)
    file.close()
    assert file.drop(0, 4096) is False and file.size == os.path.getsize(path)


@pytest.mark.usefixtures("linux")
def test_a_closed_file_does_not_tell_what_is_in_memory(path):
    file = open_file(path)
    file.close()
    for ask in (file.resident, file.cached, file.resident_pages):
        with pytest.raises(ArgumentError, match="closed"):
            ask()


def locked_bytes() -> int:
    """Return how much memory of this process the system holds locked; 0 where it does not tell."""
    if not os.path.exists("/proc/self/status"):
        return 0
    with open("/proc/self/status") as status:
        lines = dict(line.split(":", 1) for line in status)
    return int(lines["VmLck"].split()[0]) * 1024


def test_lock_tells_whether_it_did(file):
    before = locked_bytes()
    assert memory.lock(file) == (locked_bytes() > before)


# The limit.


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A model whose parts are larger than what the system maps around a touched page."""
    config = shape_of("v7", layers=4, width=256, vocab=16384, head_size=64, ffn=1024)
    return write_model(tmp_path_factory.mktemp("large") / "a.trwkv", config, "int8")


@pytest.fixture(scope="module")
def with_bundles(large, tmp_path_factory):
    """That model with rows which only some tokens need; these need all."""
    return rewrite(large, tmp_path_factory.mktemp("bundles") / "a.trwkv", predict)


@pytest.fixture(scope="module")
def with_preview(large, tmp_path_factory):
    """That model with a head of which few rows are read."""
    return rewrite(
        large, tmp_path_factory.mktemp("preview") / "a.trwkv", functools.partial(preview, rows=300)
    )


@pytest.fixture(scope="module")
def with_deep(tmp_path_factory):
    """A model whose deep embedding is several times as large as the rest."""
    config = shape_of("v7a", layers=2, width=128, vocab=16384, head_size=64, ffn=256)
    return write_model(tmp_path_factory.mktemp("deep") / "a.trwkv", config, "int8")


def limited(path, backend, more=0, threads=1):
    limit = least_resident(tinyrwkv.load(path, backend=backend).steps) + more
    return tinyrwkv.load(path, backend=backend, threads=threads, resident_limit=limit), limit


def watch(model, monkeypatch):
    """Return a list that grows by what is resident after each call of the kernels."""
    inner, sizes = model.backend.run, []

    def run(*args):
        inner(*args)
        sizes.append(model.resident())

    monkeypatch.setattr(model.backend, "run", run)
    return sizes


@pytest.mark.usefixtures("linux")
@pytest.mark.parametrize("more", [0, 2_000_000, 1 << 40])
@pytest.mark.parametrize("form", ["large", "with_bundles", "with_preview", "with_deep"])
def test_a_limit_changes_no_bit_and_is_held_inside_a_token(
    form, backend, more, monkeypatch, request
):
    path = request.getfixturevalue(form)
    memory.drop_from_cache(path)
    pathlib.Path(
        path
    ).read_bytes()  # the system then keeps large pieces together, and maps them whole
    tokens = np.random.default_rng(0).integers(0, 16384, 18)
    free = tinyrwkv.load(path, backend=backend)
    model, limit = limited(path, backend, more)
    assert more > 2_000_000 or limit < free.plan()["file_bytes"] / 2
    sizes = watch(model, monkeypatch)
    logits, state = model.forward(tokens, logits="all")
    last, after = model.forward([7], state)
    assert max(sizes) <= limit and model.resident() <= limit
    expected, free_state = free.forward(tokens, logits="all")
    expected_last, free_after = free.forward([7], free_state)
    assert logits.tobytes() == expected.tobytes() and last.tobytes() == expected_last.tobytes()
    assert after.data.tobytes() == free_after.data.tobytes()


@pytest.mark.usefixtures("linux")
def test_the_limit_holds_for_exact_rows_of_a_head_too(with_preview, backend, monkeypatch):
    pathlib.Path(with_preview).read_bytes()
    model, limit = limited(with_preview, backend)
    model.forward([3])
    sizes, inner = [], MappedFile.advise

    def advise(*args):
        sizes.append(model.resident())
        return inner(*args)

    monkeypatch.setattr(MappedFile, "advise", advise)
    ids, hidden = np.random.default_rng(0).integers(0, 16384, 900), np.ones(257, np.float32)
    found = model.exact_logits(ids, np.empty(0), hidden)
    assert np.array_equal(
        found, tinyrwkv.load(with_preview, backend=backend).exact_logits(ids, np.empty(0), hidden)
    )
    assert model.resident() < 500_000 < 1_000_000 < max(sizes) <= limit


@pytest.mark.usefixtures("linux")
def test_the_limit_holds_where_borders_lie_far_apart(with_deep, monkeypatch):
    """As in a table of a gigabyte, which has no more borders than a small one."""
    needed = least_resident(tinyrwkv.load(with_deep, backend="numpy").steps)
    monkeypatch.setattr("tinyrwkv.engine.limit.STRIPES", 1 << 6)
    pathlib.Path(with_deep).read_bytes()
    model, limit = limited(with_deep, "numpy")
    assert limit > needed + 5_000_000
    sizes = watch(model, monkeypatch)
    model.forward(np.random.default_rng(0).integers(0, 16384, 18), logits="all")
    assert 0 < max(sizes) <= limit


@pytest.mark.usefixtures("linux")
def test_a_token_reads_few_pages_of_a_deep_embedding(with_deep):
    memory.drop_from_cache(with_deep)
    model = tinyrwkv.load(with_deep, backend="numpy")
    if model.cached() > len(model.file.bytes) / 2:
        pytest.skip("this file system is in memory")
    table = model.file.tensors["deep_emb.table"]
    tokens = np.random.default_rng(0).permutation(16384)[:100]
    model.forward(tokens, logits=None)
    present = model.file.resident_pages()
    first, last = (place // mmap.PAGESIZE for place in (table.offset, table.offset + table.nbytes))
    row_bytes = 2 * (1024 + 4)
    pages_of_a_row = 2 + row_bytes // mmap.PAGESIZE
    assert 100 <= present[first:last].sum() <= 100 * pages_of_a_row < (last - first) / 10
    (part,) = (part for part in model.plan()["parts"] if part["part"] == "deep_embedding")
    assert part["touched_bytes_per_token"] == row_bytes and part["file_bytes"] == table.nbytes


@pytest.mark.usefixtures("linux")
def test_more_room_keeps_more(large, backend):
    kept = []
    for more in (0, 500_000, 1_000_000, 2_000_000, 8_000_000, 1 << 40):
        model, _ = limited(large, backend, more)
        for token in (1, 2, 3):
            model.forward([token])
        kept.append(model.resident())
    assert kept == sorted(kept) and kept[0] < 100_000 < 2_000_000 < kept[-1]


@pytest.mark.usefixtures("linux")
def test_the_limit_holds_for_threads_of_workers_and_of_callers(large, compiled, monkeypatch):
    model, limit = limited(large, compiled, threads=2)
    sizes, expected = (
        watch(model, monkeypatch),
        tinyrwkv.load(large, backend=compiled).forward([5, 6])[0].tobytes(),
    )
    found = []
    callers = [
        threading.Thread(target=lambda: found.append(model.forward([5, 6])[0].tobytes()))
        for _ in range(4)
    ]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    assert found == [expected] * 4 and max(sizes) <= limit


@pytest.mark.usefixtures("linux")
def test_an_interrupt_leaves_a_limit_that_is_held(large, backend, monkeypatch):
    model, limit = limited(large, backend, 500_000)
    expected, inner, calls = model.forward([9])[0], model.backend.run, itertools.count()

    def run(*args):
        inner(*args)
        if next(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(model.backend, "run", run)
    with pytest.raises(KeyboardInterrupt):
        model.forward([9])
    sizes = watch(model, monkeypatch)
    assert model.forward([9])[0].tobytes() == expected.tobytes() and max(sizes) <= limit


@pytest.mark.usefixtures("linux")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_does_not_wait_for_a_thread_of_its_parent(large):
    model, _ = limited(large, "numpy")
    ids = np.array([1], np.int32)
    with model.reader.limit.step(0, 1, ids), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of threads
        child = os.fork()
        if child == 0:
            signal.alarm(5)
            with model.reader.limit.step(0, 1, ids):
                os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.usefixtures("linux")
def test_a_limit_and_prefault_hold_together(large):
    model, limit = limited(large, "numpy")
    model = tinyrwkv.load(large, backend="numpy", resident_limit=limit, prefault=True)
    assert model.resident() <= limit and model.cached() > limit


@pytest.mark.usefixtures("linux")
@pytest.mark.parametrize("limit", [0, 1, -1, True, 1.5e9, "1 parsec", 100_000])
def test_a_limit_that_cannot_be_held_is_refused(large, limit):
    with pytest.raises(ArgumentError, match="resident_limit"):
        tinyrwkv.load(large, backend="numpy", resident_limit=limit)


def test_a_limit_is_refused_where_nothing_tells(tiny, monkeypatch):
    monkeypatch.setattr(system, "LINUX", False)
    with pytest.raises(UnsupportedError, match="resident_limit"):
        tinyrwkv.load(tiny("v7", "int8"), backend="numpy", resident_limit=1 << 30)


def test_prefault_and_lock_are_not_errors_where_limits_forbid_them(tiny):
    model = tinyrwkv.load(tiny("v7", "int8"), backend="numpy", prefault=True, lock=True)
    if system.LINUX:
        assert model.resident() >= os.path.getsize(model.path) // mmap.PAGESIZE * mmap.PAGESIZE
    else:
        assert model.resident() is None and model.cached() is None
