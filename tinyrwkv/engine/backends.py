"""Choose what runs a program, and give it memory: kernels compiled before, or by Numba, or NumPy on any machine."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from ..errors import ArgumentError, TinyRWKVError, UnsupportedError
from ..native.load import choose, native_run
from ..program.program import Program
from .pool import pool

BACKENDS = ("native", "numba", "numpy")

NO_HEAD, HEAD_OF_LAST, HEAD_OF_ALL = range(3)
"""What SELECT keeps for the head: nothing runs it, the last token, every token."""


class Workspace:
    """The memory that one token at a time needs: activations, and each thread's own copy of the small ones.

    Parameters
    ----------
    program : Program
    threads : int
    """

    def __init__(self, program: Program, threads: int) -> None:
        self.private_bytes = (
            -(-program.private_bytes // 4096) * 4096 + 4096
        )  # threads never share a cache line
        self.memory = np.zeros(
            program.shared_bytes + threads * self.private_bytes + 128 + 64, np.uint8
        )
        self.base = -self.memory.ctypes.data % 64  # offset of the first aligned byte
        self.shared = self.memory[self.base : self.base + program.shared_bytes]
        first = self.base + program.shared_bytes
        first += -(self.memory.ctypes.data + first) % 64
        self.private = [
            self.memory[first + i * self.private_bytes :][: self.private_bytes]
            for i in range(threads)
        ]
        constants = self.shared[: 64 + 4 * program.config["n_embd"]].view(np.float32)
        constants[0] = program.config["ln_x_eps"]
        constants[16:] = 1.0
        self.barrier = np.zeros(256, np.uint8)
        self.arguments = [(ctypes.c_int64 * 17)() for _ in range(threads)]
        for i, block in enumerate(self.arguments):  # what is the same in every call
            part = (65536 * i // threads, 65536 * (i + 1) // threads, threads)
            block[:2] = [program.file.bytes.ctypes.data, program.table.ctypes.data]
            block[8:10] = [self.shared.ctypes.data, self.private[i].ctypes.data]
            block[12:16] = [*part, self.barrier.ctypes.data]
        self.touched = 0  # bytes of weights that only some tokens need, as the backend counted
        self._floats = np.zeros(0, np.float32)
        self.addresses = [ctypes.addressof(block) for block in self.arguments]

    def floats(self, count: int) -> np.ndarray:
        """Return a buffer of `count` float32 that lasts as long as the workspace."""
        if len(self._floats) < count:
            self._floats = np.empty(count, np.float32)
        return self._floats[:count]


class Backend(Protocol):
    """What runs operations ``first`` to ``last - 1`` of a program for a few tokens."""

    name: str
    threads: int

    def run(
        self,
        workspace: Workspace,
        first: int,
        last: int,
        ids: np.ndarray,
        old: np.ndarray,
        new: np.ndarray,
        out: np.ndarray | None,
        head: int,
    ) -> None:
        """Read ids and the old state; write the new state, and logits to `out`."""


class Compiled:
    """Runs compiled kernels through one ctypes call for each thread.

    Parameters
    ----------
    name : str
    program : Program
    function : ctypes function
        The kernels' ``run``.
    threads : int
    """

    def __init__(self, name: str, program: Program, function: Any, threads: int) -> None:
        self.name, self.threads, self.function = name, threads, function
        self._keep = program, program.file.bytes

    def run(
        self,
        workspace: Workspace,
        first: int,
        last: int,
        ids: np.ndarray,
        old: np.ndarray,
        new: np.ndarray,
        out: np.ndarray | None,
        head: int,
    ) -> None:
        """Read ids and the old state; write the new state, and logits to `out`."""
        logits, states = 0 if out is None else out.ctypes.data, (old.ctypes.data, new.ctypes.data)
        for block in workspace.arguments:
            block[2:8] = [first, last, len(ids), ids.ctypes.data, *states]
            block[10:12] = [logits, head]
        if self.threads == 1:
            self.function(workspace.addresses[0])
        else:
            pool(self.threads).call(
                self.function, workspace.addresses, (self, workspace, ids, old, new, out)
            )
        for block in workspace.arguments:
            workspace.touched += block[16]
            block[16] = 0


def make(program: Program, name: str = "auto", threads: int = 1) -> Backend:
    """Make the backend that runs a program.

    Parameters
    ----------
    program : Program
    name : str
        "native", "numba", "numpy", or "auto": what TINYRWKV_BACKEND says, otherwise the first of these that is here.
    threads : int
        Threads for each token; the numpy backend uses one.

    Raises
    ------
    ArgumentError
        There is no backend of that name, or `threads` is not 1 to 64.
    UnsupportedError
        The backend asked for cannot run here.
    """
    if name == "auto":
        name = os.environ.get("TINYRWKV_BACKEND") or "auto"
    if name not in ("auto", *BACKENDS):
        fix = 'give backend="auto", or unset TINYRWKV_BACKEND'
        raise ArgumentError("load", "backend", repr(name), f"auto, {', '.join(BACKENDS)}", fix)
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 64:
        raise ArgumentError(
            "load",
            "threads",
            repr(threads),
            "a number from 1 to 64",
            "give the number of idle cores",
        )
    here: dict[str, Callable[[], object]] = {"native": lambda: choose().path, "numba": has_numba}
    for kind, function in (("native", native_run), ("numba", _numba_run)):
        try:
            if name == kind or (name == "auto" and here[kind]()):
                return Compiled(kind, program, function(), threads)
        except TinyRWKVError:
            if name == kind:
                raise
    from .numpy_backend import NumpyBackend

    return NumpyBackend(program)


def _numba_run() -> Any:
    try:
        from .numba_backend import compiled_run

        return compiled_run()
    except (
        ImportError,
        RuntimeError,
    ) as error:  # not here, too old for this NumPy, or no folder to keep its code in
        fix = 'pip install numba, set NUMBA_CACHE_DIR, or use backend="numpy"'
        raise UnsupportedError(
            "load", "backend 'numba'", str(error), "a numba that can run", fix
        ) from error


def has_numba() -> bool:
    """Tell whether Numba is installed, without importing it."""
    return importlib.util.find_spec("numba") is not None


def reasons() -> dict[str, str]:
    """Return for each backend why it can or cannot run here."""
    native = choose()
    return {
        "native": f"{native.name}.so, {native.reason}" if native.path else native.reason,
        "numba": "numba is installed" if has_numba() else "numba is not installed",
        "numpy": "runs everywhere",
    }
