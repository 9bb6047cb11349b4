"""Choose what runs a program: kernels compiled before, or by Numba, or NumPy on any machine."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

from ..arguments import refusal, whole_number
from ..errors import TinyRWKVError, UnsupportedError
from ..native.load import choose, native_run
from ..notes import note
from ..program.program import Program
from .compiled import Compiled
from .workspace import Backend

BACKENDS = ("native", "numba", "numpy")

MAX_THREADS = 64


def make(program: Program, name: str = "auto", threads: int = 1) -> Backend:
    """Make the backend that runs a program.

    Parameters
    ----------
    program : Program
    name : str
        "native", "numba", "numpy" or "auto". With "auto", the environment variable
        TINYRWKV_BACKEND decides; without it, the first of the three that can run here.
    threads : int
        The most threads for each token; fewer while other work wants the cores. The numpy backend
        uses one.

    Raises
    ------
    ArgumentError
        There is no backend of that name, or `threads` is not a number from 1 to 64.
    UnsupportedError
        The backend asked for cannot run here.
    """
    name = _checked_name(name)
    threads = whole_number(
        "load", "threads", threads, 1, MAX_THREADS, "give the number of idle cores"
    )
    if name == "native":
        return Compiled("native", program, native_run(), threads)
    if name == "numba":
        return Compiled("numba", program, numba_run(), threads)
    if name == "auto":
        compiled = _first_compiled(program, threads)
        if compiled:
            return compiled
        note(
            "NumPy computes, ten times slower than compiled kernels would: tinyrwkv info tells why"
        )
    # Imported here, so that it takes no memory if another backend runs.
    from .numpy_backend import NumpyBackend

    return NumpyBackend(program)


def _checked_name(name: str) -> str:
    if isinstance(name, str) and name == "auto":
        name = os.environ.get("TINYRWKV_BACKEND") or "auto"
    if not isinstance(name, str) or name not in ("auto", *BACKENDS):
        fix = 'give backend="auto", or unset TINYRWKV_BACKEND'
        raise refusal("load", "backend", name, f"one of auto, {', '.join(BACKENDS)}", fix)
    return name


def _first_compiled(program: Program, threads: int) -> Compiled | None:
    """Return the first backend with compiled kernels that can run here."""
    candidates: list[tuple[str, Callable[[], bool], Callable[[], object]]] = [
        ("native", has_native, native_run),
        ("numba", has_numba, numba_run),
    ]
    for name, is_here, function in candidates:
        if is_here():
            try:
                return Compiled(name, program, function(), threads)
            except TinyRWKVError:  # it is here, but the system refuses it: take the next one
                continue
    return None


def has_native() -> bool:
    """Tell whether kernels for this processor ship with the package."""
    return choose().path is not None


def has_numba() -> bool:
    """Tell whether Numba is installed, without importing it."""
    return importlib.util.find_spec("numba") is not None


def numba_run() -> Any:
    """Return the kernels' ``run`` as Numba compiles it on this machine.

    Raises
    ------
    UnsupportedError
        Numba is not installed, does not fit this NumPy, or finds no folder to keep its code in.
    """
    try:
        from .numba_backend import compiled_run

        return compiled_run()
    except (ImportError, RuntimeError) as error:
        what = ("load", "backend 'numba'", str(error), "a working numba")
        fix = 'pip install numba, set NUMBA_CACHE_DIR, or use backend="numpy"'
        sentence = f"backend 'numba' needs a working numba: {error}"
        if isinstance(error, ModuleNotFoundError) and error.name == "numba":
            sentence = "backend 'numba' needs the package numba, which is not installed"
            fix = 'pip install numba, or use another backend: "native" or "numpy"'
        raise UnsupportedError(*what, fix, sentence) from error
