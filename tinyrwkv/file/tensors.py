"""Mapped .trwkv files: `MappedFile` is about the pages, `TensorFile` about the tensors in them."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import time
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np

from ..errors import ArgumentError, FormatError, show
from . import system
from .config import Config

_PAGE = mmap.PAGESIZE

DTYPES: dict[str, np.dtype[Any]] = {
    "f32": np.dtype("<f4"),
    "f16": np.dtype("<f2"),
    "i8": np.dtype("i1"),
    "u8": np.dtype("u1"),
    "u16": np.dtype("<u2"),
    "i32": np.dtype("<i4"),
}

UPDATE = "update tinyrwkv, or convert the model again with this version"

LOOK_EVERY = 0.005
"""Seconds after which it is looked again whether a file was changed in place."""


class MappedFile:
    """A file that is mapped and read page by page, as its bytes are needed.

    Parameters
    ----------
    path : str
    file : binary file
        The same, open for reading; it may be closed afterwards.
    copy : bool
        Read the whole file into memory of this process instead.

    Attributes
    ----------
    path : str
    size : int
        Bytes of the file, also when it is closed.
    copied : bool
        Whether the bytes are in memory of this process: then the file may change.
    bytes : ndarray, uint8, shape (size,)
        The whole file, read-only; without a copy unless it was asked for.
    map : mmap.mmap or None
        The map behind `bytes`; None once the file is closed.

    Raises
    ------
    OSError
        The file cannot be mapped or read, or is shortened meanwhile.
    """

    def __init__(self, path: str, file: BinaryIO, copy: bool = False) -> None:
        self.path = path
        self.copied = copy
        self._looked, self._changed = 0.0, False
        self._place = os.path.abspath(path)  # the program may go to another folder
        self._seen = os.fstat(file.fileno())
        self.size = self._seen.st_size
        self._page_count = -(-self.size // _PAGE)
        self.map: mmap.mmap | None
        if copy:
            self.map = mmap.mmap(-1, self.size)
            file.seek(0)
            if file.readinto(self.map) < self.size or self._is_changed():  # type: ignore
                raise OSError("it was changed while it was read")
        else:
            self.map = mmap.mmap(file.fileno(), self.size, access=mmap.ACCESS_READ)
        self.bytes = np.frombuffer(self.map, np.uint8)  # (size,)
        self.bytes.flags.writeable = False

    def close(self) -> None:
        """Let go of the map.

        Python closes it at once, or together with the last view of it that is still alive.
        """
        # mmap.close() would crash: with an older NumPy, the map does not know of its views.
        self.map = None
        self.bytes = np.zeros(0, np.uint8)

    def check_open(self, look: bool = True) -> None:
        """Raise an error if the file cannot be read.

        To read a page that was cut off ends the process, and overwritten weights make nonsense. So
        this is asked before each call of the kernels.

        Parameters
        ----------
        look : bool
            Look at once whether the file was changed, which takes 10 microseconds, and not only
            every LOOK_EVERY seconds.

        Raises
        ------
        ArgumentError
            The file is closed.
        FormatError
            It was changed in place since it was mapped.
        """
        if self.map is None:
            what = (self.path, "file", "a closed file", "an open one", "open it again")
            raise ArgumentError(*what, sentence=f"{self.path} is closed")
        if look or time.monotonic() > self._looked + LOOK_EVERY:
            self._looked = time.monotonic()
            self._changed |= not self.copied and self._is_changed()
        if self._changed:
            fix = "load it again; replace files by renaming (mv), or load with copy=True"
            what = (self.path, "file", "a changed file", "the file that was mapped", fix)
            raise FormatError(*what, sentence=f"{self.path} was changed while it was in use")

    def resident_pages(self) -> np.ndarray | None:
        """Tell which pages of the file this process has in memory now.

        Returns
        -------
        ndarray, bool, shape (pages,) or None
            None if the system does not tell.
        """
        with contextlib.suppress(OSError), open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            pagemap.seek(self._address // _PAGE * 8)  # 8 bytes describe a page
            entries = np.frombuffer(pagemap.read(self._page_count * 8), np.uint64)
            is_present: np.ndarray = entries >> np.uint64(63) == 1
            return is_present
        return None

    def resident(self) -> int | None:
        """Count the bytes of the file that this process has in memory now.

        They are counted in `resident_pages`. If that is None, the Rss lines of /proc/self/smaps
        tell them.

        Returns
        -------
        int or None
            A multiple of the page size; None if the system has neither, as on Windows and macOS.
        """
        if not system.LINUX:
            return None
        pages = self.resident_pages()
        if pages is not None:
            return int(pages.sum()) * _PAGE
        with contextlib.suppress(OSError):
            return _resident_between(self._address, self._address + self.size)
        return None

    def cached(self) -> int | None:
        """Count the bytes of the file that are in the page cache, whoever read them.

        Linux tells this to the owner of a file and to those who may write to it. To others it
        says that all pages are there.

        Returns
        -------
        int or None
            A multiple of the page size; None if the system does not tell, or this is a copy.
        """
        libc = system.libc()
        if libc is None or self.copied or not self._is_own():
            return None
        pages = np.zeros(self._page_count, np.uint8)
        place = ctypes.c_void_p(self._address), ctypes.c_size_t(self.size)
        if libc.mincore(*place, ctypes.c_void_p(pages.ctypes.data)) != 0:
            return None
        return int((pages & 1).sum()) * _PAGE

    def advise(self, advice: str, start: int = 0, length: int | None = None) -> bool:
        """Advise the system how to treat whole pages of the file.

        Parameters
        ----------
        advice : str
            The name of a constant of mmap, such as "MADV_RANDOM".
        start : int
            First byte.
        length : int, optional
            Number of bytes; by default, all up to the end of the file.

        Returns
        -------
        bool
            Whether the system took the advice.
        """
        code = getattr(mmap, advice, None)
        pages = self.map
        if code is None or pages is None:
            return False
        if length is None:
            length = self.size - start
        first = start // _PAGE * _PAGE
        try:
            pages.madvise(code, first, start + length - first)
        except OSError:
            return False
        return True

    def drop(self, start: int = 0, length: int | None = None) -> bool:
        """Let go of whole pages of the file, unless they are locked.

        They stay in the system's cache. Parameters and result are those of `advise`. Pages of a
        copy have nowhere else to stay, so they are kept.
        """
        return not self.copied and self.advise("MADV_DONTNEED", start, length)

    def _is_changed(self) -> bool:
        """Tell whether the file was written to; if another one has its name, it was not."""
        try:
            found = os.stat(self._place)
        except OSError:  # it has no name any more, so nobody opens it
            return False
        seen = self._seen
        is_same = (found.st_ino, found.st_dev) == (seen.st_ino, seen.st_dev)
        return is_same and (found.st_size, found.st_mtime_ns) != (seen.st_size, seen.st_mtime_ns)

    @property
    def _address(self) -> int:
        everything = self.bytes  # before the check, since another thread may close the file
        self.check_open()
        return everything.ctypes.data

    def _is_own(self) -> bool:
        try:
            return os.stat(self.path).st_uid == os.geteuid() or os.access(self.path, os.W_OK)
        except (OSError, AttributeError):  # deleted since; Windows
            return False


def _resident_between(start: int, stop: int) -> int:
    """Add up the Rss lines in /proc/self/smaps of the mappings that overlap [start, stop)."""
    total = 0
    overlaps = False
    with open("/proc/self/smaps") as smaps:
        for line in smaps:
            first, *rest = line.split()
            if "-" in first and not first.endswith(":"):  # 7f2e4c000000-7f2e4c021000 r--s ...
                low, high = (int(address, 16) for address in first.split("-"))
                overlaps = low < stop and start < high
            elif overlaps and first == "Rss:":  # Rss:   132 kB
                total += int(rest[0]) * 1024
    return total


class Tensor(NamedTuple):
    """One row of the table.

    The array begins at byte `offset` of the file and has `nbytes` bytes, in C order and
    little-endian.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    crc32: int


class Contents(NamedTuple):
    """What the header and the table of a file say; the attributes of `TensorFile` explain it."""

    minor: int
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]
    hash: str
    data_end: int


class TensorFile(MappedFile):
    """A mapped .trwkv file; its header and table have been checked completely.

    It is a context manager; `mapped.open_file` makes it.

    Attributes
    ----------
    minor : int
        Minor version of the file's format.
    metadata : dict
        The metadata keys of docs/format.md.
    config : dict
        The same metadata, typed as those of a model.
    tensors : dict of str to Tensor
        The table, in file order.
    hash : str
        SHA-256 of the table, which holds every tensor's checksum: it identifies the contents.
    data_end : int
        Where the data end and the table begins.
    """

    def __init__(self, path: str, file: BinaryIO, contents: Contents, copy: bool = False) -> None:
        super().__init__(path, file, copy)
        self.minor, self.metadata, self.tensors, self.hash, self.data_end = contents
        self.config = cast(Config, self.metadata)

    def __contains__(self, name: object) -> bool:
        """Tell whether the file has a tensor of this name."""
        return name in self.tensors

    def __getitem__(self, name: str) -> np.ndarray:
        """Return a tensor as a read-only view of the file.

        Raises
        ------
        FormatError
            The file has no tensor of this name.
        ArgumentError
            The file is closed.
        """
        everything = self.bytes  # before the check, since another thread may close the file
        if name not in self.tensors:
            shown = show(name)
            what = (self.path, f"tensor {shown}", "none", "one of this name", UPDATE)
            raise FormatError(*what, sentence=f"{self.path} has no tensor {shown}")
        self.check_open()
        tensor = self.tensors[name]
        data = everything[tensor.offset : tensor.offset + tensor.nbytes]
        return np.frombuffer(data, DTYPES[tensor.dtype]).reshape(tensor.shape)

    def __enter__(self) -> TensorFile:
        """Return the file itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the file."""
        self.close()
