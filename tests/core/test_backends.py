"""The choice of a backend, what it says where it cannot run, and the memory it is given."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyrwkv
from tests.helpers.places import ROOT
from tests.helpers.tiny_models import BACKENDS
from tinyrwkv.engine import backends
from tinyrwkv.engine import reasons as found
from tinyrwkv.engine.workspace import Workspace
from tinyrwkv.errors import ArgumentError, TinyRWKVError, UnsupportedError
from tinyrwkv.file.mapped import open_file
from tinyrwkv.native.load import KernelObject
from tinyrwkv.program.program import Program

MISSING = KernelObject("", None, "no object is made for this system")


@pytest.fixture
def program(tiny):
    return Program(open_file(tiny("v7", "int8")))


NATIVE = "tinyrwkv.native.load.choose"


@pytest.fixture
def bare(monkeypatch):
    """A machine with NumPy alone."""
    monkeypatch.delenv("TINYRWKV_BACKEND", raising=False)
    monkeypatch.setattr(NATIVE, lambda *_: MISSING)
    monkeypatch.setitem(sys.modules, "tinyrwkv.engine.numba_backend", None)


def test_each_backend_by_name(program, backend):
    made = backends.make(program, backend, 1)
    assert made.name == backend and made.threads == 1


@pytest.mark.usefixtures("bare")
def test_auto_takes_what_is_here(program, monkeypatch):
    assert backends.make(program).name == "numpy"
    monkeypatch.setenv("TINYRWKV_BACKEND", "")
    assert backends.make(program).name == "numpy"


@pytest.mark.usefixtures("bare")
def test_what_is_not_here_is_refused_with_the_reason(program, monkeypatch):
    with pytest.raises(UnsupportedError, match="numba"):
        backends.make(program, "numba")
    monkeypatch.setenv("TINYRWKV_BACKEND", "numba")
    with pytest.raises(UnsupportedError, match="numba"):
        backends.make(program)
    assert (
        backends.make(program, "numpy").name == "numpy"
    )  # a name counts more than the environment


def test_the_environment_chooses_for_auto_alone(program, monkeypatch, backend):
    monkeypatch.setenv("TINYRWKV_BACKEND", backend)
    assert backends.make(program).name == backend
    monkeypatch.setenv("TINYRWKV_BACKEND", "cuda")
    with pytest.raises(ArgumentError, match="TINYRWKV_BACKEND"):
        backends.make(program)


@pytest.mark.parametrize("name", ["cuda", "", "NumPy", None, 1, ["numpy"]])
def test_other_names_are_refused(program, name):
    with pytest.raises(ArgumentError, match="backend"):
        backends.make(program, name)


@pytest.mark.parametrize("name", ["numpy", "auto"])
@pytest.mark.parametrize("threads", [0, -1, 65, 1.0, "2", None, True])
def test_other_numbers_of_threads_are_refused(program, name, threads):
    with pytest.raises(ArgumentError, match="threads"):
        backends.make(program, name, threads)


def test_reasons_are_given_for_each():
    reasons = found.reasons()
    assert set(reasons) == set(BACKENDS) and all(reasons.values())


def script(code: str, *args: str, path: str = "") -> str:
    environment = {key: value for key, value in os.environ.items() if key != "TINYRWKV_BACKEND"}
    environment["PYTHONPATH"] = os.pathsep.join([*filter(None, [path]), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


WITHOUT_OBJECTS = """
import sys
import tinyrwkv.native.load as native
native.choose = lambda *_: native.KernelObject("", None, "none")
"""


def test_a_numba_that_cannot_be_imported_is_passed_over(tiny, tmp_path):
    """Numba refuses to be imported beside a NumPy that is too new for it."""
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text(
        'raise ImportError("Numba needs NumPy 2.3 or less")'
    )
    code = WITHOUT_OBJECTS + "import tinyrwkv; print(tinyrwkv.load(sys.argv[1]).backend.name)"
    assert script(code, tiny("v7", "int8"), path=str(tmp_path)) == "numpy"


def test_a_numba_that_cannot_be_imported_is_refused_by_name(tiny, tmp_path):
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text(
        'raise ImportError("Numba needs NumPy 2.3 or less")'
    )
    code = """
import sys
import tinyrwkv
try:
    tinyrwkv.load(sys.argv[1], backend="numba")
except tinyrwkv.UnsupportedError as error:
    print("NumPy 2.3" in str(error))
"""
    assert script(code, tiny("v7", "int8"), path=str(tmp_path)) == "True"


def test_numba_is_not_imported_for_others(tiny):
    code = """
import sys
import tinyrwkv
tinyrwkv.load(sys.argv[1], backend="numpy").forward([1, 2, 3])
print(sorted({"numba", "llvmlite"} & set(sys.modules)), "numpy.random" in sys.modules)
"""
    assert script(code, tiny("v7", "int8")) in (
        "[] False",
        "[] True",
    )  # old NumPy imports numpy.random itself


# The memory of a token.


@pytest.mark.parametrize("threads", [1, 2, 3, 5, 16])
@pytest.mark.parametrize("arch", ["v4", "v6", "v7"])
def test_workspaces_are_aligned_and_apart(tiny, arch, threads):
    program = Program(open_file(tiny(arch, "int8")))
    for _ in range(5):  # at different addresses
        workspace = Workspace(program, threads)
        regions = [workspace.shared, *workspace.private]
        assert len(workspace.shared) == program.shared_bytes and len(workspace.private) == threads
        assert all(len(private) >= program.private_bytes for private in workspace.private)
        spans = sorted((region.ctypes.data, region.ctypes.data + len(region)) for region in regions)
        assert all(start % 64 == 0 for start, _ in spans)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
        first, last = (
            workspace.memory.ctypes.data,
            workspace.memory.ctypes.data + workspace.memory.nbytes,
        )
        assert first <= spans[0][0] and spans[-1][1] <= last
        private = sorted(region.ctypes.data for region in workspace.private)
        assert all(b - a >= program.private_bytes + 64 for a, b in itertools.pairwise(private))


def test_workspaces_hold_the_constants_that_kernels_know(program):
    workspace = Workspace(program, 1)
    constants = workspace.shared[: 64 + 4 * 64].view(np.float32)
    assert constants[0] == np.float32(program.config["ln_x_eps"])
    assert (constants[16:] == 1).all()
    assert not workspace.barrier.any()


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=20))
@settings(max_examples=20)
def test_the_buffer_of_floats_grows_and_stays(tiny, sizes):
    workspace = Workspace(Program(open_file(tiny("v7", "int8"))), 1)
    largest = 0
    for size in sizes:
        buffer = workspace.floats(size)
        assert buffer.shape == (size,) and buffer.dtype == np.float32
        if size <= largest:
            assert np.shares_memory(buffer, workspace.floats(largest)) or size == 0
        largest = max(largest, size)


def test_the_numpy_backend_has_one_thread(tiny):
    model = tinyrwkv.load(tiny("v7", "int8"), backend="numpy", threads=3)
    assert model.backend.threads == 1
    assert model.forward([1])[0].shape == (300,)


@pytest.fixture
def damaged(monkeypatch, tmp_path):
    """A shared object that the system refuses, as on a file system mounted noexec."""
    bad = tmp_path / "bad.so"
    bad.write_bytes(b"\x7fELF no more")
    monkeypatch.delenv("TINYRWKV_BACKEND", raising=False)
    monkeypatch.setattr(NATIVE, lambda *_: KernelObject("bad", bad, "the best"))
    monkeypatch.setitem(sys.modules, "tinyrwkv.engine.numba_backend", None)


@pytest.mark.usefixtures("damaged")
def test_an_object_that_the_system_refuses_is_named(program):
    with pytest.raises(TinyRWKVError, match=r"bad\.so"):
        backends.make(program, "native")


@pytest.mark.usefixtures("damaged")
def test_auto_passes_over_an_object_that_the_system_refuses(program):
    assert backends.make(program).name == "numpy"


@pytest.fixture
def uncached(monkeypatch):
    """A Numba that finds no folder to keep code in: installation and home are read-only."""
    pytest.importorskip("numba", reason="numba is not installed")
    from tinyrwkv.engine import numba_backend

    def refuse():
        raise RuntimeError("cannot cache function 'entry': no locator available")

    monkeypatch.delenv("TINYRWKV_BACKEND", raising=False)
    monkeypatch.setattr(NATIVE, lambda *_: MISSING)
    monkeypatch.setattr(numba_backend, "compiled_run", refuse)


@pytest.mark.usefixtures("uncached")
def test_a_numba_that_can_keep_nothing_is_passed_over(program):
    assert backends.make(program).name == "numpy"


@pytest.mark.usefixtures("uncached")
def test_a_numba_that_can_keep_nothing_is_refused_by_name(program):
    with pytest.raises(UnsupportedError, match="cannot cache"):
        backends.make(program, "numba")
