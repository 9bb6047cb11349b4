"""Every error the project raises on purpose: what was found, what was expected, how to fix it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


class TinyRWKVError(Exception):
    """Base of every error raised on purpose.

    Parameters
    ----------
    file : str
        The file, program or argument list the trouble is in.
    object : str
        The thing in it: a tensor, a metadata key, an argument.
    found, expected : str
        What is there, and what should be.
    fix : str
        What the reader of the message can do about it.

    Examples
    --------
    >>> print(TinyRWKVError("a.trwkv", "header", "0 bytes", "at least 64", "fetch the file again"))
    a.trwkv: header: found 0 bytes, expected at least 64; fetch the file again
    """

    def __init__(
        self, file: object, object: str, found: object, expected: object, fix: str
    ) -> None:
        self.file, self.object = str(file), object
        self.found, self.expected, self.fix = str(found), str(expected), fix
        super().__init__(f"{file}: {object}: found {found}, expected {expected}; {fix}")

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        return type(self), (self.file, self.object, self.found, self.expected, self.fix)


class FormatError(TinyRWKVError):
    """A file is not what its format promises: cut, altered, oversized, foreign."""


class ChecksumError(FormatError):
    """The bytes of a header, table or tensor differ from their checksum."""


class UnsupportedError(TinyRWKVError):
    """A well-formed thing that this program does not do: a variant, a version, a platform."""


class ArgumentError(TinyRWKVError, ValueError):
    """A value given by the caller is out of range or of the wrong kind."""


@contextlib.contextmanager
def os_errors(path: str, verb: str) -> Iterator[None]:
    """Turn what the system says into a FormatError that names the file."""
    try:
        yield
    except TinyRWKVError:
        raise
    except (OSError, ValueError, OverflowError) as error:
        found, fix = (
            getattr(error, "strerror", None) or str(error),
            "check the path, permissions and free space",
        )
        if isinstance(error, FileNotFoundError):
            folder = os.path.dirname(path) or "."
            found, fix = (
                "nothing",
                "check the name" if os.path.isdir(folder) else f"there is no folder {folder}",
            )
        raise FormatError(path, "file", found, f"a file to {verb}", fix) from error
