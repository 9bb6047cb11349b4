"""Every error that the project raises on purpose: what is wrong, and how to fix it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


class TinyRWKVError(Exception):
    """Base of every error that is raised on purpose.

    The message has two halves: what is wrong, then what to do about it. Without `sentence`, the
    first half is made of the other arguments: "file: object: found X, expected Y". This suits
    values that fail a check. Give a `sentence` wherever people would say it differently.
    `file`, `object`, `found` and `expected` are needed in any case: programs read these
    attributes, not the message.

    Parameters
    ----------
    file : str
        The file, program or argument list with the problem.
    object : str
        The part of it that is wrong: a tensor, a metadata key, an argument.
    found, expected : str
        What is there, and what should be there.
    fix : str
        What the reader of the message can do about it.
    sentence : str, optional
        What is wrong, for people. It names the file if there is one, begins with a small letter
        and has no full stop at the end.

    Attributes
    ----------
    file, object, found, expected, fix, sentence : str
        As given; `sentence` is always the first half of the message.

    Examples
    --------
    >>> print(TinyRWKVError("a.trwkv", "header", "0 bytes", "at least 64", "fetch the file again"))
    a.trwkv: header: found 0 bytes, expected at least 64; fetch the file again

    >>> what = ("a.trwkv", "file", "nothing", "a file to read")
    >>> print(FormatError(*what, "check the name", sentence="no such file: a.trwkv"))
    no such file: a.trwkv; check the name
    """

    def __init__(
        self,
        file: object,
        object: str,
        found: object,
        expected: object,
        fix: str,
        sentence: str | None = None,
    ) -> None:
        self.file = str(file)
        self.object = object
        self.found = str(found)
        self.expected = str(expected)
        self.fix = fix
        self.sentence = sentence or f"{file}: {object}: found {found}, expected {expected}"
        super().__init__(f"{self.sentence}; {fix}")

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        """Let the error be pickled, as errors of another process are."""
        arguments = (self.file, self.object, self.found, self.expected, self.fix, self.sentence)
        return type(self), arguments


class FormatError(TinyRWKVError):
    """A file is not what its format promises: it is cut, altered, too large, or of another kind."""


class ChecksumError(FormatError):
    """The bytes of a header, table or tensor differ from their checksum."""


class UnsupportedError(TinyRWKVError):
    """Something is well formed, but this program cannot do it: a variant, a version, a platform."""


class ArgumentError(TinyRWKVError, ValueError):
    """A value given by the caller is out of range or of the wrong kind."""


def attempt(function: Callable[[], T]) -> T | None:
    """Return what a function makes of a caller's value; None if it cannot.

    A class of the caller may raise anything, and does so each time. What is raised only once comes
    from elsewhere, from a signal's handler or an iterator of the caller. It is passed on.

    Parameters
    ----------
    function : callable
        Is called again if it raises an exception.
    """
    try:
        return function()
    except Exception as error:
        try:
            function()
        except Exception:
            return None
        raise error


def show(value: object) -> str:
    """Return a value as short printable ASCII, for messages, whatever the value is."""

    def written() -> str:
        is_long = isinstance(value, (str, bytes, list, tuple)) and len(value) > 80
        return " ".join(ascii(value[:80] if is_long else value).split())  # type: ignore[index]

    # Python writes no integers of 5,000 digits, and a __repr__ may fail.
    text = attempt(written) or f"a value of type {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


@contextlib.contextmanager
def os_errors(path: str, verb: str) -> Iterator[None]:
    """Turn what the system says into a FormatError that names the file.

    Parameters
    ----------
    path : str
        The file.
    verb : str
        What the block does with it, "read" or "write": "cannot read a.trwkv: Permission denied".
    """
    try:
        yield
    except TinyRWKVError:
        raise
    except (OSError, ValueError, OverflowError) as error:
        found = getattr(error, "strerror", None) or str(error)
        fix = "check the path, permissions and free space"
        shown = path or "''"
        sentence = f"cannot {verb} {shown}: {found}"
        if isinstance(error, FileNotFoundError):
            found = "nothing"
            folder = os.path.dirname(path) or "."
            is_there = os.path.isdir(folder)
            fix = "check the name" if is_there else f"there is no folder {folder}"
            if verb == "read":
                sentence = f"no such file: {shown}"
            elif not is_there:
                sentence = f"cannot write {shown}: there is no folder {folder}"
                fix = f"make it first: mkdir -p {folder}"
        raise FormatError(path, "file", found, f"a file to {verb}", fix, sentence) from error
