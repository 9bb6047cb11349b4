"""A file that is changed while it is mapped: told in time, or read into memory before."""

from __future__ import annotations

import os
import pathlib
import shutil

import pytest

import tinyrwkv
from tinyrwkv import ArgumentError, FormatError, Sampler


@pytest.fixture
def path(tiny, tmp_path):
    return pathlib.Path(shutil.copy(tiny(), tmp_path / "model.trwkv"))


def overwrite(path: pathlib.Path) -> None:
    """Write the same number of other bytes, as scp and cp do."""
    data = path.read_bytes()
    with open(path, "r+b") as file:
        file.write(bytes(len(data)))
    seen = os.stat(path)
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns + 1))


def cut(path: pathlib.Path) -> None:
    os.truncate(path, 100)


@pytest.mark.parametrize("change", [overwrite, cut])
def test_a_file_changed_in_place_is_refused(path, backend, change):
    model = tinyrwkv.load(path, backend=backend)
    state = model.forward([1, 2])[1]
    generation = model.generate([3], sampler=Sampler(temperature=0, logit_bias={0: -100}))
    next(generation)
    change(path)
    for call in (
        lambda: model.forward([1]),
        lambda: model.forward([1], state),
        lambda: model.generate([1]),
        lambda: list(generation),
        lambda: model.score([1], ["a"]),
        model.resident,
    ):
        with pytest.raises(FormatError, match=r"changed while it was in use.*renaming.*copy=True"):
            call()


def test_a_file_may_be_replaced_by_renaming_and_removed(path, backend, tiny, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    model = tinyrwkv.load("model.trwkv", backend=backend)
    expected = model.forward([1, 2])[0].tobytes()
    os.replace(shutil.copy(tiny("v4"), tmp_path / "new"), path)
    assert model.forward([1, 2])[0].tobytes() == expected
    path.unlink()
    assert model.forward([1, 2])[0].tobytes() == expected
    monkeypatch.chdir("/")
    assert model.forward([1, 2])[0].tobytes() == expected


@pytest.mark.parametrize("change", [overwrite, cut])
def test_a_copy_outlives_every_change(path, backend, change):
    expected = tinyrwkv.load(path, backend=backend).forward([1, 2])[0].tobytes()
    model = tinyrwkv.load(path, backend=backend, copy=True, verify=True, prefault=True)
    change(path)
    assert model.forward([1, 2])[0].tobytes() == expected
    assert model.score([1], ["a"])[0].logprob < 0
    with pytest.raises(ValueError, match="read-only"):
        model.file.bytes[0] = 1


def test_a_copy_is_wholly_in_memory(path):
    model = tinyrwkv.load(path, backend="numpy", copy=True)
    plan = model.plan()
    assert plan["resident_bytes_typical"] == plan["resident_bytes_max"] >= plan["file_bytes"]
    assert model.cached() is None
    assert model.resident() in (None, plan["resident_bytes_max"])
    with pytest.raises(ArgumentError, match="copy and resident_limit exclude each other"):
        tinyrwkv.load(path, copy=True, resident_limit=10**9)


def test_a_model_closed_by_another_thread_ends_its_call(path, backend):
    model = tinyrwkv.load(path, backend=backend)
    expected = model.forward([1, 2])[0].tobytes()
    run = model.backend.run

    def close_and_run(*arguments):
        model.close()
        run(*arguments)

    model.backend.run = close_and_run
    assert model.forward([1, 2])[0].tobytes() == expected
    for call in (model.plan, model.resident, model.cached, lambda: model.forward([1])):
        with pytest.raises(ArgumentError, match="is closed"):
            call()
