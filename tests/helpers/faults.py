"""A disk that fails: each operation on files in a folder fails once, one run after the other.

SQLite's tests do the same: run until a run meets no fault, and look after each at what is left.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tinyrwkv.errors import TinyRWKVError

OPERATIONS = ("open", "read", "write", "fsync", "rename", "truncate", "mkdir")


class Disk:
    """Counts the operations on the files below a folder, and lets one of them fail.

    Parameters
    ----------
    folder : Path
    operation : str
        One of `OPERATIONS`.
    number : int
        Which one fails, counted from 1.
    code : int
        What the system says.

    Attributes
    ----------
    failed : bool
        Whether the fault was met.
    """

    def __init__(self, folder: Path, operation: str, number: int, code: int = errno.EIO) -> None:
        self.folder = str(folder)
        self.operation = operation
        self.number = number
        self.code = code
        self.count = 0
        self.failed = False

    def meet(self, operation: str, path: object) -> None:
        """Count an operation; raise an OSError if its turn has come."""
        if operation != self.operation or self.folder not in str(path):
            return
        self.count += 1
        if self.count == self.number:
            self.failed = True
            raise OSError(self.code, os.strerror(self.code))

    @contextlib.contextmanager
    def mounted(self) -> Iterator[None]:
        """Put the disk between the program and the system."""
        before = {name: getattr(os, name) for name in ("fsync", "replace", "truncate", "mkdir")}
        opened = builtins.open
        builtins.open = io.open = self._opening  # type: ignore[assignment]
        for name, real in before.items():
            setattr(os, name, self._watching(name, real))
        try:
            yield
        finally:
            builtins.open = io.open = opened
            for name, real in before.items():
                setattr(os, name, real)

    def _watching(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        operation = "rename" if name == "replace" else name

        def watched(first: Any, *rest: Any, **named: Any) -> Any:
            path = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else first
            self.meet(operation, path)
            return real(first, *rest, **named)

        return watched

    def _opening(
        self,
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        """Do as `open` does, with a raw file that fails."""
        kind = mode.replace("b", "").replace("t", "")
        self.meet("open", file)
        raw = _File(file, kind, closefd, opener)
        raw.disk = self
        made: Any = raw
        if buffering != 0:
            buffers = {True: io.BufferedRandom, False: io.BufferedWriter}
            made = buffers["+" in kind](raw) if kind != "r" else io.BufferedReader(raw)
        return made if "b" in mode else io.TextIOWrapper(made, encoding, errors, newline)


class _File(io.FileIO):
    disk: Disk

    def write(self, data: Any) -> int:
        self.disk.meet("write", self.name)
        return super().write(data)

    def readinto(self, buffer: Any) -> int:
        self.disk.meet("read", self.name)
        return super().readinto(buffer) or 0

    def read(self, size: int = -1) -> bytes:
        self.disk.meet("read", self.name)
        return super().read(size) or b""

    def readall(self) -> bytes:
        self.disk.meet("read", self.name)
        return super().readall() or b""

    def truncate(self, size: int | None = None) -> int:
        self.disk.meet("truncate", self.name)
        return super().truncate(size)


def disks(folder: Path, growth: float = 1.0) -> Iterator[Disk]:
    """Yield disks that fail at the first operation, the second, and so on.

    For each kind of operation, this ends when a run has met no fault.

    Parameters
    ----------
    folder : Path
        Only files below it count.
    growth : float, optional
        Above 1, operations are left out, the more the later they are: for writers that are slow.
    """
    for operation in OPERATIONS:
        number = 1
        while True:
            disk = Disk(folder, operation, number)
            yield disk
            if not disk.failed:
                break
            number = max(number + 1, int(number * growth))


def check_writer(
    write: Callable[[], object],
    outputs: dict[Path, Callable[[Path], object]],
    growth: float = 1.0,
) -> int:
    """Let a writer meet every fault, over older files; return how many it met.

    After each fault, every output is whole: the older file after an error, the new one otherwise.
    The error is one of ours and names a file. Nothing else is in the folder.

    Parameters
    ----------
    write : callable
    outputs : dict of Path to callable
        What `write` writes, all in one folder. Each callable raises if a file is not whole.
    growth : float, optional
        As for `disks`.
    """
    folder = next(iter(outputs)).parent
    older = {path: path.read_bytes() for path in outputs}
    names = sorted(os.listdir(folder))
    met = 0
    for disk in disks(folder, growth):
        for path, data in older.items():
            path.write_bytes(data)
        error = None
        with disk.mounted():
            try:
                write()
            except TinyRWKVError as caught:
                error = caught
        where = f"{disk.operation} {disk.number}: {error}"
        assert disk.failed or error is None, where
        assert error is None or str(folder) in str(error), where
        for path, is_whole in outputs.items():
            is_whole(path)
            assert error is None or len(outputs) > 1 or path.read_bytes() == older[path], where
        assert sorted(os.listdir(folder)) == names, where
        met += disk.failed
    return met
