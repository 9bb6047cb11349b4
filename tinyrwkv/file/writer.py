"""Write .trwkv files (docs/format.md)."""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from typing import Any, BinaryIO

import numpy as np

from ..errors import ArgumentError, FormatError, os_errors, show
from . import table
from .header import check_header, make_header
from .table import Tensor


def _round_up(position: int, align: int) -> int:
    return -(-position // align) * align


class Writer:
    """Write a .trwkv file tensor by tensor.

    The file gets its name only if the `with` block ends without an exception.

    Parameters
    ----------
    path : str or path-like
    metadata : dict
        It is copied into the attribute `metadata`. Keys may be added there until the block ends.

    Raises
    ------
    FormatError
        The metadata are not those of docs/format.md, or the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from tinyrwkv.file import mapped
    >>> sizes = {"arch": "v7", "n_layer": 1, "n_embd": 4, "n_head": 1, "head_size": 4}
    >>> metadata = {"kind": "state", "model": 64 * "0", **sizes}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Writer(folder + "/a.trwkv", metadata) as writer:
    ...         writer.add("state", np.zeros(24, np.float32))
    ...     with mapped.open_file(folder + "/a.trwkv") as file:
    ...         print(file["state"].shape)
    (24,)
    """

    def __init__(self, path: str | os.PathLike[str], metadata: dict[str, Any]) -> None:
        self.path = table.path_name(path)
        self.metadata = table.check_metadata(self.path, metadata, complete=False)
        self.tensors: dict[str, Tensor] = {}
        self._temp = f"{self.path}.tmp-{os.getpid()}-{id(self)}"
        self._file: BinaryIO | None = None

    def __enter__(self) -> Writer:
        """Open a temporary file beside the final one."""
        self.tensors = {}
        self._end = table.FILE_PAGE  # the end of what is written; the first page is the header's
        with os_errors(self.path, "write"):
            # Otherwise the last step would replace a device by a file.
            if os.path.exists(self.path) and not os.path.isfile(self.path):
                raise OSError("not a file but a folder, pipe or device")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temp)  # a process of the same number may have left it
            self._file = open(self._temp, "xb")
        return self

    def add(self, name: str, array: np.ndarray, page_aligned: bool = False) -> None:
        """Write one tensor at once, little-endian and in C order.

        Parameters
        ----------
        name : str
            1 to 200 printable ASCII characters without spaces, new in this file.
        array : ndarray, float32, float16, int8, uint8 or int32, 1 to 4 dimensions, not empty
        page_aligned : bool
            Begin on a page even if the tensor is smaller than 1 MiB.

        Raises
        ------
        ArgumentError
            The name or the array is not of this kind, or the `with` block is over.
        FormatError
            The disk refused the bytes.
        """
        if self._file is None:
            what = (self.path, f"tensor {show(name)}", "a closed writer", "an open one")
            sentence = f"{self.path}: the writer is closed, so tensor {show(name)} is too late"
            raise ArgumentError(*what, "add it inside the `with` block", sentence)
        self._check_call(name, array)
        tensor = self._place(name, array, page_aligned)
        values = np.ascontiguousarray(array, table.DTYPES[tensor.dtype])
        data = values.reshape(-1).view(np.uint8).data
        try:
            with os_errors(self.path, "write"):
                self._file.seek(tensor.offset)  # the gap reads as zeros
                self._file.write(data)
        except BaseException:
            self._discard()
            raise
        self.tensors[name] = tensor._replace(crc32=zlib.crc32(data))
        self._end = tensor.offset + tensor.nbytes

    def _check_call(self, name: str, array: np.ndarray) -> None:
        shown = show(name)
        if isinstance(name, str) and name in self.tensors:
            what = (self.path, f"tensor {shown}", "the name of an earlier tensor", "a new name")
            sentence = f"{self.path} already has a tensor {shown}"
            raise ArgumentError(*what, "give each tensor a name of its own", sentence)
        if not isinstance(name, str) or not isinstance(array, np.ndarray):
            found = f"{type(array).__name__} under a name of type {type(name).__name__}"
            what = (self.path, f"tensor {shown}", found, "an array and a name")
            raise ArgumentError(*what, "give a str and a NumPy array")

    def _place(self, name: str, array: np.ndarray, page_aligned: bool) -> Tensor:
        """Return the table's row for the array that is written next, with a checksum of 0."""
        little_endian = array.dtype.newbyteorder("<")
        dtype = array.dtype.name  # check_tensor refuses it if the format does not have it
        for key, known in table.DTYPES.items():
            if known == little_endian:
                dtype = key
        align = table.FILE_PAGE if page_aligned else table.alignment(array.nbytes)
        offset = _round_up(self._end, align)
        tensor = Tensor(name, dtype, array.shape, offset, array.nbytes, crc32=0)
        entry = {**tensor._asdict(), "shape": list(array.shape)}
        try:
            return table.check_tensor(self.path, entry, self._end, offset + array.nbytes)
        except FormatError as error:
            what = (error.file, error.object, error.found, error.expected)
            raise ArgumentError(*what, "give another") from None

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        """Finish the file and give it its name, or after an exception remove it."""
        try:
            if kind is None:
                with os_errors(self.path, "write"):
                    self._finish()
        finally:
            self._discard()

    def _finish(self) -> None:
        if self._file is None:
            what = (self.path, "writer", "an earlier failure", "none")
            sentence = f"{self.path} is incomplete after an earlier failure"
            raise ArgumentError(*what, "let exceptions leave the block", sentence)
        raw = self._table()
        offset = _round_up(self._end, table.ALIGN)
        header = make_header(raw, offset)
        # A file that its own reader would refuse never gets the name.
        check_header(self.path, header, offset + len(raw))
        table.check_table(self.path, raw, table.FILE_PAGE, offset)
        self._file.seek(offset)
        self._file.write(raw)
        self._file.seek(0)
        self._file.write(header)
        self._file.flush()
        os.fsync(self._file.fileno())
        # The cache holds the pages in the pieces that were written. Readers need other pieces.
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        self._file.close()
        self.check(self._temp)
        os.replace(self._temp, self.path)
        _sync_folder(os.path.dirname(self.path) or ".")

    def check(self, temporary: str) -> None:
        """Check the complete file, before it gets its name; a subclass may refuse it here."""

    def _table(self) -> bytes:
        tensors = [tensor._asdict() for tensor in self.tensors.values()]
        try:
            return json.dumps(
                {"metadata": self.metadata, "tensors": tensors},
                default=np.generic.item,  # reports have NumPy numbers
                ensure_ascii=False,
                allow_nan=False,
                separators=(",", ":"),
            ).encode()
        except (TypeError, ValueError, RecursionError) as error:
            what = (self.path, "metadata", str(error), "plain JSON values", "convert the value")
            raise ArgumentError(*what) from None

    def _discard(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            with contextlib.suppress(OSError):
                os.unlink(self._temp)  # gone already if the file has its final name
        self._file = None


def _sync_folder(folder: str) -> None:
    with contextlib.suppress(OSError):  # Windows and some file systems have no fsync of folders
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
