"""Tell of what takes long, or runs slower than it could, while that happens."""

from __future__ import annotations

import functools
from collections.abc import Callable

_listener: Callable[[str], None] | None = None


def tell_with(listener: Callable[[str], None] | None) -> None:
    """Let a function take the notes of this process; with None, they go to ``logging``."""
    global _listener
    _listener = listener


@functools.cache
def note(text: str) -> None:
    """Tell something, once in each process."""
    if _listener is not None:
        _listener(text)
        return
    import logging  # here, because most processes have nothing to tell

    logging.getLogger(__package__).info(text)
