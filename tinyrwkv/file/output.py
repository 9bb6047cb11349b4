"""Write a file so that nothing is lost: under another name first, over its own kind only.

The temporary name is that of the file with ``.tmp-HOST-TOKEN`` behind it. While its process lives,
the file is locked. So the next run for the same name can tell what a killed one has left.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from ..errors import ArgumentError, TinyRWKVError, os_errors
from .mapped import open_file

try:
    import fcntl
except ImportError:  # Windows has none, and lets nobody remove an open file
    fcntl = None  # type: ignore[assignment]


class Kind(NamedTuple):
    """What a file to be written holds, and how an older file is known to hold the same.

    Attributes
    ----------
    name : str
        For messages, such as "a state".
    is_ours : callable
        Tells it of the path of a file that is not empty.
    """

    name: str
    is_ours: Callable[[str], bool]


def _is_state(path: str) -> bool:
    with contextlib.suppress(TinyRWKVError), open_file(path) as file:
        return file.metadata["kind"] == "state"
    return False


STATE = Kind("a state", _is_state)


def check_output(path: str, kind: Kind) -> str:
    """Refuse to write where a file of another kind would be lost.

    An empty file holds nothing that could be lost.

    Returns
    -------
    str
        The file to write. It is the target of a link, which stays a link.

    Raises
    ------
    ArgumentError
        The file exists and is of another kind.
    FormatError
        There is a folder, pipe or device of this name; or the file cannot be read.
    """
    with os_errors(path, "write"):
        target = os.path.realpath(path)
        try:
            about = os.stat(path)
        except FileNotFoundError:
            os.stat(os.path.dirname(target if os.path.basename(path) else path))  # is needed
            return target
        if not stat.S_ISREG(about.st_mode):
            raise OSError("not a file but a folder, pipe or device")
        if about.st_size and not kind.is_ours(target):
            what = (path, "file", "something else", f"none, or {kind.name}")
            sentence = f"{path} exists, and it is not {kind.name}"
            raise ArgumentError(*what, "choose another name", sentence)
    return target


@contextlib.contextmanager
def new_file(path: str, kind: Kind) -> Iterator[BinaryIO]:
    """Give a file to write; it gets its name if the block ends without an exception.

    Parameters
    ----------
    path : str
    kind : Kind
        What may be replaced.

    Raises
    ------
    ArgumentError
        A file of another kind has the name.
    FormatError
        The file cannot be written. Nothing is left of it then.
    """
    target = check_output(path, kind)
    with contextlib.ExitStack() as stack:
        with os_errors(path, "write"):
            remove_litter(target)
            temp, file = create(target, stack)
        yield file
        with os_errors(path, "write"):
            file.flush()
            os.fsync(file.fileno())
            # The cache holds the pages in the pieces that were written. Readers need other pieces.
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            if fcntl is None:
                file.close()  # Windows renames no open file
            take_name(temp, path, kind)


def take_name(temp: str, path: str, kind: Kind) -> None:
    """Give a file that is whole and on the disk its name, in the place of one of its kind."""
    target = check_output(path, kind)  # again: a file may have got this name meanwhile
    _copy_mode(target, temp)
    os.replace(temp, target)
    # If this fails, a power cut may bring the older file back; both of them are whole.
    with contextlib.suppress(OSError):
        number = os.open(os.path.dirname(target), os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def create(target: str, stack: contextlib.ExitStack) -> tuple[str, BinaryIO]:
    """Create a locked file beside another one.

    It is closed and removed when the stack unwinds, if it still has its temporary name.
    """
    while True:
        temp = temporary_name(target)
        stack.callback(_quietly, os.unlink, temp)
        file = open(temp, "xb")
        stack.callback(_quietly, file.close)
        _copy_mode(target, temp)
        # Another run may have taken the file for litter before it was locked.
        if hold(file) is not False and os.fstat(file.fileno()).st_nlink:
            return temp, file


def hold(file: BinaryIO | int) -> bool | None:
    """Lock a file, or a folder by its number, until it is closed or this process ends.

    Returns
    -------
    bool or None
        False if another process holds it; None if the system cannot lock it.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def temporary_name(target: str) -> str:
    """Return a new name beside a file, for the time until it is whole."""
    return f"{_beginning(target)}{_host()}-{os.urandom(4).hex()}"


def remove_litter(target: str) -> None:
    """Remove the temporary files for a target whose processes have ended."""
    for path in abandoned_names(target):
        with contextlib.suppress(OSError):
            if fcntl is None:
                os.unlink(path)
            elif os.path.isfile(path) and not os.path.islink(path):
                with open(path, "r+b") as file:
                    if hold(file):
                        os.unlink(path)


def abandoned_names(target: str) -> list[str]:
    """Return the temporary names beside a file that are those of this machine.

    Locks of other machines may be invisible here if the folder is one of a network. So their files
    count only on a local disk, where a machine before the last start is meant.
    """
    folder, beginning = os.path.split(_beginning(target))
    form = re.compile(re.escape(beginning) + "([0-9a-f]{8})-[0-9a-f]{8}")
    found = []
    with contextlib.suppress(OSError):
        is_local = _is_local(folder)
        for name in os.listdir(folder):
            match = form.fullmatch(name)
            if match and (is_local or match[1] == _host()):
                found.append(os.path.join(folder, name))
    return found


def _beginning(target: str) -> str:
    """Return what temporary names begin with. Systems allow names of 255 bytes."""
    folder, name = os.path.split(os.path.abspath(target))
    if len(os.fsencode(name)) > 200:
        name = name[:40]
    return os.path.join(folder, f"{name}.tmp-")


def _host() -> str:
    """Return 8 digits for this machine since its last start: its locks are seen by all of it."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            told = file.read()
    except OSError:  # not Linux
        told = (os.uname().nodename if hasattr(os, "uname") else "").encode()
    return f"{zlib.crc32(told):08x}"


def _is_local(folder: str) -> bool:
    """Tell whether a folder is on a disk of this machine; False if that is not known."""
    if not sys.platform.startswith("linux"):
        return False
    return os.major(os.stat(folder).st_dev) != 0  # 0: a file system without a disk, such as NFS


def _copy_mode(source: str, target: str) -> None:
    """Let a file that replaces a private one be private too."""
    with contextlib.suppress(OSError):  # there is none, or the file system has no modes
        os.chmod(target, stat.S_IMODE(os.stat(source).st_mode))


def _quietly(call: Callable[..., None], *arguments: str) -> None:
    with contextlib.suppress(OSError):
        call(*arguments)
