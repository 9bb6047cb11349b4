"""Where the user's own files lie: what may be thrown away, and what is kept between runs."""

from __future__ import annotations

import os
import sys

NAME = "tinyrwkv"


def cache_folder() -> str | None:
    """Return the folder for what can be computed again; None if the user has no home.

    It is $XDG_CACHE_HOME/tinyrwkv, or what the system has instead. It need not exist.
    """
    return _folder("XDG_CACHE_HOME", ".cache", "Library/Caches")


def state_folder() -> str | None:
    """Return the folder for what is kept between runs; None if the user has no home.

    It is $XDG_STATE_HOME/tinyrwkv, or what the system has instead. It need not exist.
    """
    return _folder("XDG_STATE_HOME", ".local/state", "Library/Application Support")


def _folder(variable: str, usual: str, on_macos: str) -> str | None:
    told = os.environ.get(variable)
    if not told and os.name == "nt":
        told = os.environ.get("LOCALAPPDATA")
    if told and os.path.isabs(told):  # the XDG specification says to ignore relative ones
        return os.path.join(told, NAME)
    home = os.path.expanduser("~")
    if not os.path.isdir(home):
        return None
    return os.path.join(home, on_macos if sys.platform == "darwin" else usual, NAME)
