"""The start of a command line: importing this module prepares the process for all other imports.

A command ends quietly after Ctrl-C from its first import on, and says so if NumPy is missing.
Processes that only use the library stay as they are.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import sys

INTERRUPTED = 130
"""Exit status after Ctrl-C."""

COMMANDS = (
    *("tinyrwkv", "tinyrwkv-convert"),  # as they are installed
    *("converters", "tinyrwkv_converters"),  # after python -m
)

NO_NUMPY = "NumPy is missing: apt install python3-numpy, or pip install numpy"


def begin() -> None:
    """Prepare this process for its imports, if it runs one of the commands."""
    if not _is_command():
        return
    end_at_interrupts()
    if importlib.util.find_spec("numpy") is None:
        sys.exit(NO_NUMPY)


def end_at_interrupts() -> None:
    """Let Ctrl-C end a command at once: nothing is to be cleaned up.

    An exception would be lost in an import, or shown with all that was under way.
    """
    if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        _handle(_end)


def raise_interrupts() -> None:
    """Let Ctrl-C raise a KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end:
        _handle(signal.default_int_handler)


def _is_command() -> bool:
    """Tell whether this process runs one of the commands.

    The program stands before its arguments; ``python -m`` shows it nowhere else so early.
    """
    given = getattr(sys, "argv", [])
    started = sys.orig_argv[-len(given) :] if given else []
    name = os.path.basename(started[0]) if started else ""
    return name.removeprefix("-m").removesuffix(".exe") in COMMANDS


def _handle(handler: signal.Handlers | object) -> None:
    with contextlib.suppress(ValueError):  # only the main thread can set signals
        signal.signal(signal.SIGINT, handler)  # type: ignore[arg-type]


def _end(number: int, frame: object) -> None:
    os._exit(INTERRUPTED)


begin()
