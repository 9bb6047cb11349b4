"""Ask the system about this process's memory; read a file ahead, keep it, or forget it."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os

from . import system
from .tensors import MappedFile

_KEYS = {"VmRSS:": "rss", "RssAnon:": "anon", "VmHWM:": "peak"}


def process_memory() -> dict[str, int]:
    """Return how much memory this process uses.

    Returns
    -------
    dict
        In bytes: `rss`, all that is resident; `anon`, the part of it that belongs to no file;
        `peak`, the largest `rss` so far. Empty if the system does not tell.
    """
    if not system.LINUX:
        return {}
    found = {}
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        for line in status:
            key, *rest = line.split()  # VmRSS:   31248 kB
            if key in _KEYS:
                found[_KEYS[key]] = int(rest[0]) * 1024
    return found


def drop_from_cache(path: str) -> None:
    """Ask the system to forget a file's pages, for measurements that start cold; Linux only."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def prefault(file: MappedFile, mapped: bool = True) -> None:
    """Read a whole file in, so that no later access waits for storage.

    Parameters
    ----------
    file : MappedFile
    mapped : bool
        Read it into this process, not only into the system's cache.
    """
    if mapped:
        file.advise("MADV_WILLNEED")
        int(file.bytes[:: mmap.PAGESIZE].max())
        return
    with contextlib.suppress(OSError), open(file.path, "rb", buffering=0) as plain:
        buffer = bytearray(1 << 18)
        while plain.readinto(buffer):
            pass


def lock(file: MappedFile) -> bool:
    """Keep a file in memory (mlock); return False if the limits do not allow it."""
    libc = system.libc()
    address, size = ctypes.c_void_p(file.bytes.ctypes.data), ctypes.c_size_t(file.size)
    return libc is not None and libc.mlock(address, size) == 0
