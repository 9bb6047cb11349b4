"""Run a command line: the status that the shell gets, however it ends."""

from __future__ import annotations

import sys
from collections.abc import Callable

from ..errors import TinyRWKVError
from ..notes import tell_with
from ..starting import INTERRUPTED, end_at_interrupts, raise_interrupts
from .streams import NobodyReads, OutputLost, open_streams
from .terminal import is_terminal

CLOSED_OUTPUT = 141
"""Exit status if nobody reads the output; a shell gives it to programs that SIGPIPE ends."""


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
    open_streams()
    tell_with(lambda text: _show(f"{name}: {text}"))
    try:
        try:
            raise_interrupts()
            return work()
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        end_at_interrupts()
        print(f"\n{name}: {interrupted}", file=sys.stderr)
        return INTERRUPTED
    except NobodyReads:
        return CLOSED_OUTPUT
    except (TinyRWKVError, OutputLost, OSError) as error:
        print(f"{name}: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 1
    finally:
        tell_with(None)
        end_at_interrupts()


def _show(note: str) -> None:
    """Show a note to a person; nobody wants one in a file."""
    if is_terminal(sys.stderr):
        print(note, file=sys.stderr, flush=True)
