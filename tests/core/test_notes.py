"""Notes of what takes long: once, to whom they belong."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.helpers.places import ROOT
from tinyrwkv import notes
from tinyrwkv.cli import exits
from tinyrwkv.engine import backends
from tinyrwkv.file.mapped import open_file
from tinyrwkv.program.program import Program


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Forget what was told, before and after."""
    notes.note.cache_clear()
    yield
    notes.note.cache_clear()
    notes.tell_with(None)


def test_the_library_tells_the_log_once(caplog, capsys):
    with caplog.at_level(logging.INFO, "tinyrwkv"):
        notes.note("this takes long")
        notes.note("this takes long")
    assert caplog.record_tuples == [("tinyrwkv", logging.INFO, "this takes long")]
    assert capsys.readouterr() == ("", "")


def test_nothing_is_written_where_nobody_reads_the_log():
    code = "from tinyrwkv.notes import note; note('this takes long')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "expected"),
    [(Terminal(), "tinyrwkv: this takes long\n"), (io.StringIO(), "")],
    ids=["terminal", "file"],
)
def test_a_command_tells_a_person(monkeypatch, capsys, stream, expected):
    def work() -> int:
        notes.note("this takes long")
        return 0

    monkeypatch.setattr(sys, "stderr", stream)
    assert exits.run("tinyrwkv", work) == 0
    assert stream.getvalue() == expected and capsys.readouterr().out == ""


def test_after_a_command_the_log_is_told_again(caplog):
    exits.run("tinyrwkv", lambda: 0)
    with caplog.at_level(logging.INFO, "tinyrwkv"):
        notes.note("this takes long")
    assert caplog.messages == ["this takes long"]


@pytest.mark.parametrize(("asked", "told"), [("auto", 1), ("numpy", 0)])
def test_numpy_is_told_of_unless_it_was_asked_for(monkeypatch, caplog, tiny, asked, told):
    monkeypatch.delenv("TINYRWKV_BACKEND", raising=False)
    monkeypatch.setattr(backends, "has_native", lambda: False)
    monkeypatch.setattr(backends, "has_numba", lambda: False)
    with caplog.at_level(logging.INFO, "tinyrwkv"):
        assert backends.make(Program(open_file(tiny("v7", "int8"))), asked).name == "numpy"
    assert len(caplog.messages) == told and all("NumPy computes" in m for m in caplog.messages)


COMPILE = """
from numba import njit, types
from tinyrwkv import notes
from tinyrwkv.engine import numba_backend
notes.tell_with(print)
numba_backend.run = njit(lambda arguments: None)  # compiled in a moment
numba_backend.compiled_run()
"""


def test_numba_tells_when_it_compiles_and_not_when_it_finds_its_code(tmp_path):
    pytest.importorskip("numba", reason="numba is not installed")
    settings = {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}

    def told() -> str:
        command = [sys.executable, "-c", COMPILE]
        environment = {**os.environ, **settings}
        return subprocess.run(command, env=environment, capture_output=True, text=True).stdout

    assert told().startswith("compiling the kernels for this machine, once")
    assert told() == ""
