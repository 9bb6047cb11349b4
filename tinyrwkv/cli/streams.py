"""Standard input, output and error of a command line: any text passes, and none may be missing."""

from __future__ import annotations

import contextlib
import io
import os
import sys

CLOSED_OUTPUT = 141
"""Exit status where nobody reads the output: what a shell says of a program that SIGPIPE ends."""

_ERRORS = {"stdin": "surrogateescape", "stdout": "replace", "stderr": "replace"}


def open_streams() -> None:
    """Prepare the streams of the process.

    They carry UTF-8 through pipes, and what a terminal can show on terminals. Streams that the
    caller closed lead nowhere. Call this before any file is opened, or a file could take their
    place: then it would be written to.
    """
    for name, errors in _ERRORS.items():
        stream = getattr(sys, name)
        if stream is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))
        elif isinstance(stream, io.TextIOWrapper):
            encoding = None if stream.isatty() else "utf-8"
            with contextlib.suppress(OSError, ValueError):
                stream.reconfigure(encoding=encoding, errors=errors)


def flush_output() -> None:
    """Write what is still to be written; drop it where that is not possible."""
    try:
        sys.stdout.flush()
    except OSError:
        drop_output()


def drop_output() -> None:
    """Send what is still to be written nowhere, so that Python does not complain when it ends."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
