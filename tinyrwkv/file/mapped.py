"""Map .trwkv files: a header, aligned tensors, a JSON table at the end (docs/format.md)."""

from __future__ import annotations

import mmap
import os
import stat
import zlib
from collections.abc import Callable

import numpy as np

from ..errors import ArgumentError, ChecksumError, FormatError, os_errors
from . import memory, table
from .sha256 import sha256
from .table import Tensor, path_name
from .writer import Writer

__all__ = ["Tensor", "TensorFile", "Writer", "open_file"]

_CHUNK = 1 << 20


class TensorFile:
    """A mapped .trwkv file, its header and table checked completely; a context manager, made by `open_file`.

    Attributes
    ----------
    path : str
    metadata : dict
        The metadata keys of docs/format.md.
    tensors : dict of str to Tensor
        The table, in file order.
    bytes : ndarray, uint8, shape (file_bytes,)
        The whole file, read-only, without a copy.
    map : mmap.mmap or None
        The map behind `bytes`, for advice to the system; None once the file is closed.
    hash : str
        SHA-256 of the table, which holds every tensor's checksum: it identifies the contents.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path_name(path)
        with os_errors(self.path, "read"):
            if not stat.S_ISREG(
                os.stat(self.path).st_mode
            ):  # opening a pipe or a device may block for ever
                raise OSError("a folder, pipe or device")
            with open(self.path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                minor, crc, start, self._end = table.check_header(
                    self.path, file.read(table.HEADER_BYTES), size
                )
                file.seek(self._end)
                raw = file.read(size - self._end)
                if zlib.crc32(raw) != crc:
                    raise ChecksumError(
                        self.path,
                        "table",
                        f"CRC-32 {zlib.crc32(raw):08x}",
                        f"{crc:08x}",
                        table.FETCH,
                    )
                self.metadata, self.tensors = table.check_table(
                    self.path, raw, minor, start, self._end
                )
                self.map: mmap.mmap | None = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        self.hash = sha256(raw).hexdigest()
        self.bytes = np.frombuffer(self.map, np.uint8)  # (file_bytes,)

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
        if name not in self.tensors:
            raise FormatError(
                self.path, f"tensor {table.show(name)}", "none", "one of this name", table.UPDATE
            )
        self.check_open()
        tensor = self.tensors[name]
        data = self.bytes[tensor.offset : tensor.offset + tensor.nbytes]
        return np.frombuffer(data, table.DTYPES[tensor.dtype]).reshape(tensor.shape)

    def verify(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Compare every tensor with its checksum and the padding with zero; pages read for this are let go again.

        Parameters
        ----------
        progress : callable, optional
            Called as ``progress(done_bytes, total_bytes)`` about once per MiB.

        Raises
        ------
        ChecksumError
            A tensor, which the message names, or the padding was altered.
        ArgumentError
            The file is closed.
        """
        self.check_open()
        done = table.HEADER_BYTES
        for tensor in (*self.tensors.values(), Tensor("the end", "u8", (0,), self._end, 0, 0)):
            if self.bytes[done : tensor.offset].any():
                raise ChecksumError(
                    self.path, f"padding before {tensor.name}", "other bytes", "zeros", table.FETCH
                )
            crc, done, stop = 0, tensor.offset, tensor.offset + tensor.nbytes
            while done < stop:
                part = self.bytes[done : min(done + _CHUNK, stop)]
                crc = zlib.crc32(part.data, crc)
                memory.advise(self, "MADV_DONTNEED", done, len(part))  # locked pages stay
                done += len(part)
                if progress:
                    progress(done, self._end)
            if crc != tensor.crc32:
                found, expected = f"CRC-32 {crc:08x}", f"{tensor.crc32:08x}"
                raise ChecksumError(
                    self.path, f"tensor '{tensor.name}'", found, expected, table.FETCH
                )

    def close(self) -> None:
        """Let go of the map: it is closed at once, or with the last view of it that is still alive."""
        # not mmap.close(): with older NumPy the map doesn't know of its views, and they would crash
        self.map, self.bytes = None, np.zeros(0, np.uint8)

    def check_open(self) -> None:
        """Raise an ArgumentError where the file is closed."""
        if self.map is None:
            raise ArgumentError(
                self.path, "file", "a closed file", "an open one", "use it before it is closed"
            )

    def __enter__(self) -> TensorFile:
        """Return the file itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the file."""
        self.close()


def open_file(path: str | os.PathLike[str], verify: bool = False) -> TensorFile:
    """Map a .trwkv file and check its header and table.

    Parameters
    ----------
    path : str or path-like
    verify : bool
        Check every byte of data as well; this reads the whole file.

    Returns
    -------
    TensorFile
        A context manager; arrays come out by name, ``file["emb.weight"]``.

    Raises
    ------
    FormatError
        The file is missing, cut, altered or something else; ChecksumError where a checksum tells.
    UnsupportedError
        The file's format is newer than this program.
    ArgumentError
        `path` is not a path.
    """
    file = TensorFile(path)
    if verify:
        file.verify()
    return file
