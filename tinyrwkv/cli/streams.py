"""Standard input, output and error of a command line: they take any text, and always exist."""

from __future__ import annotations

import contextlib
import io
import os
import sys

CLOSED_OUTPUT = 141
"""Exit status if nobody reads the output; a shell gives it to programs that SIGPIPE ends."""

_ERRORS = {"stdin": "surrogateescape", "stdout": "replace", "stderr": "replace"}


def open_streams() -> None:
    """Prepare the streams of the process.

    Pipes carry UTF-8, and terminals carry what they can show. Streams that the caller closed are
    opened on the null device. Call this before any file is opened. Otherwise a file could take the
    place of a closed stream, and be written to.
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
    """Write the output that is still waiting; drop it if it cannot be written."""
    try:
        sys.stdout.flush()
    except OSError:
        drop_output()


def drop_output() -> None:
    """Drop the output that is still waiting, so that Python does not complain when it ends."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
