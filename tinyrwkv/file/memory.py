"""Ask the system about this process's memory; make it forget what it has cached of a file."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys

LINUX = sys.platform.startswith("linux")

_KEYS = {"VmRSS:": "rss", "RssAnon:": "anon", "VmHWM:": "peak"}


@functools.cache
def libc() -> ctypes.CDLL | None:
    """Return the C library, for calls that Python does not have; None if this is not Linux."""
    if not LINUX:
        return None
    with contextlib.suppress(OSError):
        return ctypes.CDLL(None, use_errno=True)
    return None


def process_memory() -> dict[str, int]:
    """Return how much memory this process uses.

    Returns
    -------
    dict
        In bytes: `rss`, all that is resident; `anon`, the part of it that belongs to no file;
        `peak`, the largest `rss` so far. Empty if the system does not tell.
    """
    if not LINUX:
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
