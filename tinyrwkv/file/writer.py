"""Write .trwkv files (docs/format.md)."""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from typing import Any, BinaryIO

import numpy as np

from ..errors import ArgumentError, FormatError, os_errors
from . import table
from .table import Tensor


def _round_up(position: int, align: int) -> int:
    return -(-position // align) * align


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
    >>> from tinyrwkv.file import mapped
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sizes = {"arch": "v7", "n_layer": 1, "n_embd": 4, "n_head": 1, "head_size": 4}
    ...     with Writer(folder + "/a.trwkv", {"kind": "state", "model": 64 * "0", **sizes}) as writer:
    ...         writer.add("state", np.zeros(24, np.float32))
    ...     with mapped.open_file(folder + "/a.trwkv") as file:
    ...         print(file["state"].shape)
    (24,)
    """

    def __init__(self, path: str | os.PathLike[str], metadata: dict[str, Any]) -> None:
        self.path = table.path_name(path)
        self.metadata = table.check_metadata(self.path, metadata, required=False)
        self.tensors: dict[str, Tensor] = {}
        self._temp = f"{self.path}.tmp-{os.getpid()}-{id(self)}"
        self._file: BinaryIO | None = None

    def __enter__(self) -> Writer:
        """Open a temporary file beside the final one."""
        self.tensors, self._end = (
            {},
            table.PAGE,
        )  # the bytes in use end there; the first page is the header's
        with os_errors(self.path, "write"):
            if os.path.exists(self.path) and not os.path.isfile(
                self.path
            ):  # the last step would replace a device
                raise OSError("a folder, pipe or device")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temp)  # left from a power cut by a process of the same number
            self._file = open(self._temp, "xb")
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
            found = (
                f"{type(array).__name__} for a writer that is {'open' if self._file else 'closed'}"
            )
            expected = "an array under a new name, inside the `with` block"
            raise ArgumentError(
                self.path, f"tensor {table.show(name)}", found, expected, "change the call of add"
            )
        kind = array.dtype.newbyteorder("<")
        dtype = next((key for key in table.DTYPES if table.DTYPES[key] == kind), array.dtype.name)
        offset = _round_up(
            self._end, table.PAGE if page_aligned or array.nbytes >= table.BIG else table.ALIGN
        )
        entry = {
            **Tensor(name, dtype, array.shape, offset, array.nbytes, 0)._asdict(),
            "shape": list(array.shape),
        }
        try:
            tensor = table.check_tensor(self.path, entry, self._end, offset + array.nbytes)
        except FormatError as error:
            raise ArgumentError(
                error.file, error.object, error.found, error.expected, "give another"
            ) from None
        data = np.ascontiguousarray(array, kind).reshape(-1).view(np.uint8).data
        try:
            with os_errors(self.path, "write"):
                self._file.seek(offset)  # the gap reads as zeros
                self._file.write(data)
        except BaseException:
            self._discard()
            raise
        self.tensors[name] = tensor._replace(crc32=zlib.crc32(data))
        self._end = offset + array.nbytes

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
            raise ArgumentError(
                self.path, "writer", "an earlier failure", "none", "let exceptions leave the block"
            )
        contents = {
            "metadata": self.metadata,
            "tensors": [t._asdict() for t in self.tensors.values()],
        }
        try:  # NumPy numbers, as reports have them, are written as plain ones
            dense: Any = {"ensure_ascii": False, "allow_nan": False, "separators": (",", ":")}
            raw = json.dumps(contents, default=np.generic.item, **dense).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ArgumentError(
                self.path, "metadata", str(error), "plain JSON values", "convert the value"
            ) from None
        offset = _round_up(self._end, table.ALIGN)
        head = table.make_header(raw, offset)
        # a file that its own reader would refuse never gets the name
        table.check_header(self.path, head, offset + len(raw))
        table.check_table(self.path, raw, table.MINOR, table.PAGE, offset)
        self._file.seek(offset)
        self._file.write(raw)
        self._file.seek(0)
        self._file.write(head)
        self._file.flush()
        os.fsync(self._file.fileno())
        if hasattr(
            os, "posix_fadvise"
        ):  # the pages in the cache are cut as it was written, not as it will be read
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        self._file.close()
        os.replace(self._temp, self.path)
        with contextlib.suppress(OSError):  # Windows and some file systems have no fsync of folders
            folder = os.open(os.path.dirname(self.path) or ".", os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _discard(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            with contextlib.suppress(OSError):
                os.unlink(self._temp)  # gone already where the file has its final name
        self._file = None
