"""Run a command line: the status that the shell gets, however it ends."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

from tinyrwkv.cli.streams import CLOSED_OUTPUT, drop_output
from tinyrwkv.errors import TinyRWKVError


def run(name: str, work: Callable[[], int], interrupted: str = "interrupted") -> int:
    """Do the work of a command line.

    Parameters
    ----------
    name : str
        Of the command, to begin its messages with.
    work : callable
        Returns the status.
    interrupted : str, optional
        What to say after Ctrl-C.

    Returns
    -------
    int
        The status of the work; 1 after an error, 130 after Ctrl-C, 141 if nobody reads the output.
    """
    try:
        try:
            return work()
        finally:
            _flush_output()
    except KeyboardInterrupt:
        _say(f"\n{name}: {interrupted}")
        return 130
    except BrokenPipeError:
        return CLOSED_OUTPUT
    except (TinyRWKVError, OSError) as error:
        _say(f"{name}: {' '.join(str(error).splitlines())}")
        return 1


def _flush_output() -> None:
    """Write what was printed: later, the interpreter would only complain that it can't."""
    if sys.stdout is None:  # it was closed before the start
        return
    try:
        sys.stdout.flush()
    except OSError:
        drop_output()
        raise


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr)
