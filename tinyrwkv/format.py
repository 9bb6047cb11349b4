"""Map .trwkv files and write them: a header, aligned tensors, a JSON table at the end (docs/format.md)."""

from __future__ import annotations

import contextlib
import itertools
import json
import mmap
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np

from . import table
from .errors import ArgumentError, ChecksumError, FormatError, TinyRWKVError
from .sha256 import sha256
from .table import Tensor

__all__ = ["Tensor", "TensorFile", "Writer", "open_file"]

_CHUNK = 1 << 20
_BLOCK = 1 << 21  # bytes of a huge page on most systems
_SERIAL = itertools.count()


@contextlib.contextmanager
def _os_errors(path: str, verb: str) -> Iterator[None]:
    """Turn what the system says into a FormatError that names the file."""
    try:
        yield
    except TinyRWKVError:
        raise
    except (OSError, ValueError, OverflowError) as error:
        found, fix = getattr(error, "strerror", None) or str(error), "check the path, permissions and free space"
        if isinstance(error, FileNotFoundError):
            folder = os.path.dirname(path) or "."
            found, fix = "nothing", "check the name" if os.path.isdir(folder) else f"there is no folder {folder}"
        raise FormatError(path, "file", found, f"a file to {verb}", fix) from error


def _name(path: str | os.PathLike[str]) -> str:
    try:
        return os.fsdecode(path)
    except TypeError:
        raise ArgumentError("call", "path", table.show(path), "a file name", "give a str or a pathlib.Path") from None


def _round_up(position: int, align: int) -> int:
    return -(-position // align) * align


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
        self.path = _name(path)
        with _os_errors(self.path, "read"):
            if not stat.S_ISREG(os.stat(self.path).st_mode):  # opening a pipe or a device may block for ever
                raise OSError("a folder, pipe or device")
            with open(self.path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                minor, crc, start, self._end = table.check_header(self.path, file.read(table.HEADER_BYTES), size)
                file.seek(self._end)
                raw = file.read(size - self._end)
                if zlib.crc32(raw) != crc:
                    raise ChecksumError(self.path, "table", f"CRC-32 {zlib.crc32(raw):08x}", f"{crc:08x}", table.FETCH)
                self.metadata, self.tensors = table.check_table(self.path, raw, minor, start, self._end)
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
            raise FormatError(self.path, f"tensor {table.show(name)}", "none", "one of this name", table.UPDATE)
        self._opened()
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
        opened, done = self._opened(), table.HEADER_BYTES
        for tensor in (*self.tensors.values(), Tensor("the end", "u8", (0,), self._end, 0, 0)):
            if self.bytes[done : tensor.offset].any():
                raise ChecksumError(self.path, f"padding before {tensor.name}", "other bytes", "zeros", table.FETCH)
            crc, done, stop = 0, tensor.offset, tensor.offset + tensor.nbytes
            while done < stop:
                first, part = done // mmap.PAGESIZE * mmap.PAGESIZE, self.bytes[done : min(done + _CHUNK, stop)]
                crc, done = zlib.crc32(part.data, crc), done + len(part)
                if hasattr(mmap, "MADV_DONTNEED"):
                    with contextlib.suppress(OSError):  # locked pages stay
                        opened.madvise(mmap.MADV_DONTNEED, first, done - first)
                if progress:
                    progress(done, self._end)
            if crc != tensor.crc32:
                found, expected = f"CRC-32 {crc:08x}", f"{tensor.crc32:08x}"
                raise ChecksumError(self.path, f"tensor '{tensor.name}'", found, expected, table.FETCH)

    def close(self) -> None:
        """Let go of the map: it is closed at once, or with the last view of it that is still alive."""
        # not mmap.close(): with older NumPy the map doesn't know of its views, and they would crash
        self.map, self.bytes = None, np.zeros(0, np.uint8)

    def _opened(self) -> mmap.mmap:
        if self.map is None:
            raise ArgumentError(self.path, "file", "a closed file", "an open one", "use it inside its `with` block")
        return self.map

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
    try:
        if verify:
            file.verify()
    except BaseException:
        file.close()
        raise
    return file


class Writer:
    """Write a .trwkv file tensor by tensor; it gets its name only when the `with` block ends well.

    Parameters
    ----------
    path : str or path-like
    metadata : dict
        Copied into the attribute `metadata`, which may be added to until the block ends.

    Raises
    ------
    FormatError
        The metadata are not those of docs/format.md, or the file can't be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sizes = {"arch": "v7", "n_layer": 1, "n_embd": 4, "n_head": 1, "head_size": 4}
    ...     with Writer(folder + "/a.trwkv", {"kind": "state", "model": 64 * "0", **sizes}) as writer:
    ...         writer.add("state", np.zeros(24, np.float32))
    ...     with open_file(folder + "/a.trwkv") as file:
    ...         print(file["state"].shape)
    (24,)
    """

    def __init__(self, path: str | os.PathLike[str], metadata: dict[str, Any]) -> None:
        self.path = _name(path)
        self.metadata = table.check_metadata(self.path, metadata, required=False)
        self.tensors: dict[str, Tensor] = {}
        self._temp = f"{self.path}.tmp-{os.getpid()}-{next(_SERIAL)}"
        self._file: BinaryIO | None = None
        self._end = table.PAGE  # of the bytes in use so far; the first page is the header's

    def __enter__(self) -> Writer:
        """Open a temporary file beside the final one."""
        self.tensors, self._end = {}, table.PAGE
        with _os_errors(self.path, "write"):
            if os.path.exists(self.path) and not os.path.isfile(self.path):  # the last step would replace a device
                raise OSError("a folder, pipe or device")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temp)  # left from a power cut by a process of the same number
            self._file = open(self._temp, "xb", buffering=_BLOCK)
        return self

    def add(self, name: str, array: np.ndarray, page_aligned: bool = False) -> None:
        """Write one tensor, little-endian and in C order, now.

        Parameters
        ----------
        name : str
            1 to 200 printable ASCII characters without spaces, new in this file.
        array : ndarray, float32, float16, int8, uint8 or int32, 1 to 4 dimensions, not empty
        page_aligned : bool
            Begin on a page even when smaller than 1 MiB.

        Raises
        ------
        ArgumentError
            The name or the array is not of this kind, or the `with` block is over.
        FormatError
            The disk refused the bytes.
        """
        named = isinstance(name, str) and name not in self.tensors
        if self._file is None or not named or not isinstance(array, np.ndarray):
            found = f"{type(array).__name__} for a writer that is {'open' if self._file else 'closed'}"
            expected = "an array under a new name, inside the `with` block"
            raise ArgumentError(self.path, f"tensor {table.show(name)}", found, expected, "change the call of add")
        kind = array.dtype.newbyteorder("<")
        dtype = next((key for key in table.DTYPES if table.DTYPES[key] == kind), array.dtype.name)
        offset = _round_up(self._end, table.PAGE if page_aligned or array.nbytes >= table.BIG else table.ALIGN)
        entry = {**Tensor(name, dtype, array.shape, offset, array.nbytes, 0)._asdict(), "shape": list(array.shape)}
        try:
            tensor = table.check_tensor(self.path, entry, self._end, offset + array.nbytes)
        except FormatError as error:
            raise ArgumentError(error.file, error.object, error.found, error.expected, "give another") from None
        data = np.ascontiguousarray(array, kind).reshape(-1).view(np.uint8).data
        with self._cleanup():
            self._append(bytes(offset - self._file.tell()))
            self._append(data)
        self.tensors[name] = tensor._replace(crc32=zlib.crc32(data))
        self._end = offset + array.nbytes

    def _append(self, data: Any) -> None:
        """Write bytes in whole blocks of the file: Linux then keeps them in huge pages, which are read faster."""
        while self._file is not None and data:
            room = _BLOCK - self._file.tell() % _BLOCK
            self._file.write(data[:room])
            data = data[room:]

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        """Finish the file and give it its name, or after an exception remove it."""
        with self._cleanup():
            if kind is None:
                self._finish()
        self._discard()

    def _finish(self) -> None:
        if self._file is None:
            raise ArgumentError(self.path, "writer", "an earlier failure", "none", "let exceptions leave the block")
        contents = {"metadata": self.metadata, "tensors": [t._asdict() for t in self.tensors.values()]}
        try:  # NumPy numbers, as reports have them, are written as plain ones
            dense: Any = {"ensure_ascii": False, "allow_nan": False, "separators": (",", ":")}
            raw = json.dumps(contents, default=np.generic.item, **dense).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ArgumentError(self.path, "metadata", str(error), "plain JSON values", "convert the value") from None
        offset = _round_up(self._end, table.ALIGN)
        head = table.make_header(raw, offset)
        # a file that its own reader would refuse never gets the name
        table.check_header(self.path, head, offset + len(raw))
        table.check_table(self.path, raw, table.MINOR, table.PAGE, offset)
        self._append(bytes(offset - self._file.tell()) + raw)
        self._file.seek(0)
        self._file.write(head)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._temp, self.path)
        if os.name != "nt":
            with contextlib.suppress(OSError):  # some file systems have no fsync of folders
                folder = os.open(os.path.dirname(self.path) or ".", os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)

    @contextlib.contextmanager
    def _cleanup(self) -> Iterator[None]:
        try:
            with _os_errors(self.path, "write"):
                yield
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            with contextlib.suppress(OSError):
                os.unlink(self._temp)  # gone already where the file has its final name
        self._file = None
