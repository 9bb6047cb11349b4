"""What every test may use: tiny models, the backends that run here, the number of examples."""

from __future__ import annotations

import functools
import io
import mmap
import os
import pathlib
import signal
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest

import tinyrwkv
from tests.helpers.tiny_models import (
    BACKENDS,
    FORMS,
    Oracle,
    pack_int4,
    rewrite,
    shape_of,
    write_model,
)
from tinyrwkv.cli.cli import main
from tinyrwkv.engine import backends
from tinyrwkv.file import system

hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("brief", deadline=None, max_examples=10)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=1000)
hypothesis.settings.register_profile("nightly", deadline=None, max_examples=5000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# A job that a shell starts in the background ignores Ctrl-C, and so would the commands under test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

PLAIN_OS = os.environ.get("TINYRWKV_TEST_PLAIN_OS") == "1"

if PLAIN_OS:  # as on Windows and macOS: nothing tells what is resident, and nobody takes advice
    system.LINUX = False
    for name in [name for name in dir(mmap) if name.startswith("MADV_")]:
        delattr(mmap, name)


def why_not(backend: str) -> str | None:
    """Return why a backend cannot run here; None if it can."""
    if backend == "native" and backends.choose().path is None:
        return backends.choose().reason
    if backend == "numba" and not backends.has_numba():
        return "numba is not installed"
    return None


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request: Any) -> str:
    """Each backend, skipped with the reason where it cannot run."""
    if reason := why_not(request.param):
        pytest.skip(f"backend {request.param}: {reason}")
    return request.param


@pytest.fixture(scope="session", params=BACKENDS[:2])
def compiled(request: Any) -> str:
    """Each backend of compiled kernels, skipped with the reason where it cannot run."""
    if reason := why_not(request.param):
        pytest.skip(f"backend {request.param}: {reason}")
    return request.param


@pytest.fixture(scope="session")
def linux() -> None:
    """Skip where the system does not tell what is resident."""
    if not system.LINUX:
        pytest.skip("this system does not tell what is resident")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Write, once each, tiny random models: ``tiny(arch, dtype, form)`` is a path.

    The form is "dense", "compressed" (factored projections, exact sparse values), "predicted"
    (bundles of neurons), "networked" (the same, chosen by networks), "previewed" (a head with a
    preview), or "sorted" (a head whose likely rows stand apart).
    """
    folder = tmp_path_factory.mktemp("models")

    @functools.lru_cache(None)
    def make(arch: str = "v7", dtype: str = "int8", form: str = "dense") -> str:
        path = pathlib.Path(folder, f"{arch}-{dtype}-{form}.trwkv")
        if dtype == "int4":
            return rewrite(make(arch, "int8", form), path, pack_int4)
        if form == "dense":
            return write_model(path, shape_of(arch), dtype)
        return rewrite(make(arch, dtype), path, FORMS[form])

    return make


@pytest.fixture(scope="session")
def load(tiny: Callable[..., str]) -> Callable[..., tinyrwkv.Model]:
    """Load, once each, those models: ``load(backend, arch, dtype, threads, form)``."""

    @functools.lru_cache(None)
    def make(
        backend: str, arch: str = "v7", dtype: str = "int8", threads: int = 1, form: str = "dense"
    ) -> tinyrwkv.Model:
        return tinyrwkv.load(tiny(arch, dtype, form), backend=backend, threads=threads)

    return make


@pytest.fixture(scope="session")
def oracle(tiny: Callable[..., str]) -> Callable[..., Oracle]:
    """Return, once each, the reference over those models: ``oracle(arch, dtype, form)``."""
    return functools.lru_cache(None)(
        lambda arch="v7", dtype="int8", form="dense": Oracle(tiny(arch, dtype, form))
    )


@pytest.fixture
def piped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the chat in this process: ``piped(text, *arguments)`` is status, output, notes."""
    monkeypatch.setenv("TINYRWKV_BACKEND", "numpy")

    def run(text: str | bytes, *arguments: str) -> tuple[int, str, str]:
        data = text.encode() if isinstance(text, str) else text
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), "ascii"))
        status = main(["chat", *arguments])
        return status, *capsys.readouterr()

    return run
