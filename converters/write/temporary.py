"""A folder for the files of a conversion that is under way: beside its output, and never left over.

The folder holds a locked file while its process lives. So the next conversion to the same output
can tell what a killed one has left.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from tinyrwkv.errors import os_errors
from tinyrwkv.file.output import abandoned_names, hold, temporary_name

LOCK = "~lock"
"""The locked file. It sorts behind the others, which are removed first."""


@contextlib.contextmanager
def folder_beside(output: str) -> Iterator[str]:
    """Give a new folder beside a file; it is removed at the end.

    Raises
    ------
    FormatError
        There can be no such folder.
    """
    target = os.path.realpath(output)
    remove_folders(output)
    with contextlib.ExitStack() as stack:
        with os_errors(output, "write"):
            folder = _create(target, stack)
        yield folder


def remove_folders(output: str) -> None:
    """Remove the temporary folders for an output whose processes have ended."""
    for folder in abandoned_names(os.path.realpath(output)):
        if not os.path.isdir(folder) or os.path.islink(folder):
            continue
        try:
            _remove_abandoned(folder)
        except FileNotFoundError:  # it was killed at once, or is just beginning: it is empty
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        except OSError:
            continue


def _remove_abandoned(folder: str) -> None:
    lock = os.path.join(folder, LOCK)
    if os.name == "nt":
        os.unlink(lock)  # Windows refuses that while a process has it open
        _remove(folder)
        return
    with open(lock, "r+b") as file:
        if hold(file):
            _remove(folder)


def _create(target: str, stack: contextlib.ExitStack) -> str:
    while True:
        folder = temporary_name(target)
        stack.callback(_remove, folder)  # a signal may come as soon as the folder exists
        os.mkdir(folder, 0o700)
        # Another run may take the folder for litter before the lock is held.
        with contextlib.suppress(FileNotFoundError):
            lock = stack.enter_context(open(os.path.join(folder, LOCK), "xb"))
            if hold(lock) is not False and os.fstat(lock.fileno()).st_nlink:
                return folder


def _remove(folder: str) -> None:
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(folder)):
            os.unlink(os.path.join(folder, name))
        os.rmdir(folder)
