"""What a mapped file costs: bytes resident in this process, bytes in the page cache, and how to let them go."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
import sys
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .mapped import TensorFile

LINUX = sys.platform.startswith("linux")


def pages(file: TensorFile) -> np.ndarray | None:
    """Return for each page of a mapped file whether this process has it in memory now; None where that is not told."""
    page = mmap.PAGESIZE
    with contextlib.suppress(OSError), open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        pagemap.seek(file.bytes.ctypes.data // page * 8)
        entries = np.frombuffer(pagemap.read(-(-len(file.bytes) // page) * 8), np.uint64)
        present: np.ndarray = entries >> np.uint64(63) == 1
        return present
    return None


def resident(file: TensorFile) -> int | None:
    """Return how many bytes of a mapped file this process has in memory now.

    Counts the present bits of /proc/self/pagemap, or where that is closed the Rss line of /proc/self/smaps.

    Returns
    -------
    int or None
        None where the system has neither, as on Windows and macOS.
    """
    if not LINUX:
        return None
    if (present := pages(file)) is not None:
        return int(present.sum()) * mmap.PAGESIZE
    start = file.bytes.ctypes.data
    with contextlib.suppress(OSError), open("/proc/self/smaps") as smaps:
        inside, total = False, 0
        for line in smaps:
            first = line.split(maxsplit=1)[0]
            if "-" in first and not first.endswith(":"):
                low, high = (int(part, 16) for part in first.split("-"))
                inside = low <= start + len(file.bytes) - 1 and start < high
            elif inside and first == "Rss:":
                total += int(line.split()[1]) * 1024
        return total
    return None


@functools.cache
def _libc() -> ctypes.CDLL | None:
    if not LINUX:
        return None
    with contextlib.suppress(OSError):
        return ctypes.CDLL(None, use_errno=True)
    return None


def cached(file: TensorFile) -> int | None:
    """Return how many bytes of a mapped file lie in the page cache, whoever read them; None where unknown.

    Linux tells the owner of a file and those who may write to it; to others it says that all pages are there.
    """
    libc, pages = _libc(), -(-len(file.bytes) // mmap.PAGESIZE)
    try:
        told = os.stat(file.path).st_uid == os.geteuid() or os.access(file.path, os.W_OK)
    except (OSError, AttributeError):  # deleted since; Windows
        told = False
    present = np.zeros(pages, np.uint8)
    address = ctypes.c_void_p(file.bytes.ctypes.data)
    length, target = ctypes.c_size_t(len(file.bytes)), ctypes.c_void_p(present.ctypes.data)
    if libc is None or not told or libc.mincore(address, length, target) != 0:
        return None
    return int((present & 1).sum()) * mmap.PAGESIZE


def advise(file: TensorFile, advice: str, start: int, length: int) -> bool:
    """Give the system an advice such as "MADV_RANDOM" for whole pages of a mapped file; False where it takes none."""
    code = getattr(mmap, advice, None)
    if code is None or file.map is None:
        return False
    first = start // mmap.PAGESIZE * mmap.PAGESIZE
    try:
        file.map.madvise(code, first, start + length - first)
    except OSError:
        return False
    return True


def lock(file: TensorFile) -> bool:
    """Keep a mapped file in memory (mlock); False where limits do not allow it."""
    libc = _libc()
    address = ctypes.c_void_p(file.bytes.ctypes.data)
    return libc is not None and libc.mlock(address, ctypes.c_size_t(len(file.bytes))) == 0


def process_memory() -> dict[str, int]:
    """Return bytes of this process: rss, anon (its own, not the file's) and peak; empty where the system tells none."""
    if not LINUX:
        return {}
    names = {"VmRSS": "rss", "RssAnon": "anon", "VmHWM": "peak"}
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        lines = (line.split() for line in status)
        return {names[key[:-1]]: int(rest[0]) * 1024 for key, *rest in lines if key[:-1] in names}
    return {}


def drop_from_cache(path: str) -> None:
    """Ask the system to forget a file's pages, for measurements that start cold; Linux only."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def prefault(file: TensorFile, mapped: bool = True) -> None:
    """Read a whole file in, so that no later access waits for storage; into the page cache alone, if not `mapped`."""
    if mapped:
        advise(file, "MADV_WILLNEED", 0, len(file.bytes))
        int(file.bytes[:: mmap.PAGESIZE].max())
    else:
        with contextlib.suppress(OSError), open(file.path, "rb", buffering=0) as plain:
            buffer = bytearray(1 << 18)
            while plain.readinto(buffer):
                pass
