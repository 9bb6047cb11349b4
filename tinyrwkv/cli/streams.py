"""Standard input, output and error of a command line: they take any text, and always exist.

=================  ===========================================  ============================
stream             is closed                                    fails
=================  ===========================================  ============================
standard input     it is empty                                  the command ends with 1
standard output    what is written is lost, like in /dev/null   the command ends with 1, or
                                                                with 141 if nobody reads
standard error     the same                                     the same: notes are lost
=================  ===========================================  ============================
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from typing import Any

from ..errors import FormatError
from .encodings import refuse_utf16


class OutputLost(Exception):
    """Standard output cannot be written. argparse would hide an OSError, chats a TinyRWKVError."""


class NobodyReads(OutputLost):
    """Nobody reads the output any more."""


def open_streams() -> None:
    """Prepare the streams of the process.

    Pipes carry UTF-8, and terminals carry what they can show. A byte-order mark is no text. Streams
    that the caller closed are opened on the null device. Call this before any file is opened.
    Otherwise a file could take the place of a closed stream, and be written to.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)  # stays open as long as the process
            setattr(sys, name, open(nowhere, mode, encoding="utf-8", closefd=False))
    sys.stdin = _guarded(sys.stdin, _Input, "utf-8-sig", "surrogateescape")
    sys.stdout = _guarded(sys.stdout, _Output, "utf-8", "replace")
    sys.stderr = _guarded(sys.stderr, _Notes, "utf-8", "replace")


def _guarded(stream: Any, kind: type[_Descriptor], encoding: str, errors: str) -> Any:
    """Return a stream like the one given, whose failures are handled by `kind`."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream  # somebody put it in the place of a stream of the process
    if stream.isatty():
        encoding = stream.encoding
    raw = getattr(stream.buffer, "raw", stream.buffer)
    if type(raw) is not io.FileIO or (kind is _Input and stream.isatty()):
        with contextlib.suppress(OSError, ValueError):
            stream.reconfigure(encoding=encoding, errors=errors)
        return stream
    stream.flush()
    guard: Any = kind(stream)
    if raw is not stream.buffer:  # Python runs without -u
        guard = io.BufferedReader(guard) if kind is _Input else io.BufferedWriter(guard)
    lines, through = stream.line_buffering, stream.write_through
    newline = None if os.name == "nt" else "\n"  # elsewhere, a carriage return is text
    return io.TextIOWrapper(guard, encoding, errors, newline, lines, through)


class _Descriptor(io.RawIOBase):
    """The open file of a stream, which stays open."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self._stream = stream  # kept: a stream that nobody has any more closes its file
        self._descriptor = stream.fileno()

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)


class _Input(_Descriptor):
    """Standard input, which refuses UTF-16."""

    _begun = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        try:
            data = self._read(len(buffer))
        except OSError as error:
            found = error.strerror or str(error)
            fix, sentence = "check where it comes from", f"cannot read standard input: {found}"
            what = ("standard input", "file", found, "a file to read")
            raise FormatError(*what, fix, sentence) from error
        if not self._begun:
            refuse_utf16("standard input", data)
            self._begun = True
        buffer[: len(data)] = data
        return len(data)

    def _read(self, size: int) -> bytes:
        while True:
            try:
                return os.read(self._descriptor, size)
            except BlockingIOError:  # another program made it so
                select.select([self], [], [])


class _Output(_Descriptor):
    """Standard output, which complains once: afterwards all that comes is lost."""

    _lost = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        if self._lost:
            return len(data)
        try:
            return self._write(data)
        except OSError as error:
            self._lost = True
            self._complain(error)
            return len(data)

    def _write(self, data: Any) -> int:
        while True:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:  # another program made it so
                select.select([], [self], [])

    def _complain(self, error: OSError) -> None:
        if isinstance(error, BrokenPipeError):
            raise NobodyReads from error
        sentence = f"cannot write standard output: {error.strerror or error}"
        raise OutputLost(f"{sentence}; check where it goes to") from error


class _Notes(_Output):
    """Standard error: nothing is wrong with a command whose notes are lost."""

    def _complain(self, error: OSError) -> None:
        pass
