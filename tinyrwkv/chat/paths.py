"""Where the user's own files lie: what may be thrown away, and what is kept between runs."""

from __future__ import annotations

import os
import sys

NAME = "tinyrwkv"


def cache_folder() -> str | None:
    """Return the folder for what can be computed again: $XDG_CACHE_HOME/tinyrwkv, or what the system has instead.

    None where the user has no home. The folder need not exist.
    """
    return _folder("XDG_CACHE_HOME", ".cache", "Library/Caches")


def state_folder() -> str | None:
    """Return the folder for what is kept: $XDG_STATE_HOME/tinyrwkv, or what the system has instead; None as above."""
    return _folder("XDG_STATE_HOME", ".local/state", "Library/Application Support")


def _folder(variable: str, usual: str, on_macos: str) -> str | None:
    told = os.environ.get(variable) or (os.environ.get("LOCALAPPDATA") if os.name == "nt" else None)
    if told and os.path.isabs(told):  # a relative one is to be ignored, says the XDG specification
        return os.path.join(told, NAME)
    home = os.path.expanduser("~")
    return (
        os.path.join(home, on_macos if sys.platform == "darwin" else usual, NAME)
        if os.path.isdir(home)
        else None
    )
