"""How the C library keeps the memory of states that are no longer needed."""

from __future__ import annotations

import contextlib
import ctypes

M_MMAP_THRESHOLD = -3
"""The option of mallopt: from how many bytes on memory comes from the system by itself."""


def map_large_memory() -> None:
    """Let the C library give the memory of old states back to the system at once."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # only glibc has it
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 18)
