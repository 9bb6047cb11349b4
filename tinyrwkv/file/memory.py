"""Ask the system about this process's memory; make it forget what it has cached of a file."""

from __future__ import annotations

import contextlib
import os

from . import system

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
