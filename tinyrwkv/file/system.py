"""The C library, for calls that Python does not have."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys

LINUX = sys.platform.startswith("linux")


@functools.cache
def libc() -> ctypes.CDLL | None:
    """Return the C library, for calls that Python does not have; None if this is not Linux."""
    if not LINUX:
        return None
    with contextlib.suppress(OSError):
        return ctypes.CDLL(None, use_errno=True)
    return None
