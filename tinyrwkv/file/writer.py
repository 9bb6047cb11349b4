"""Write .trwkv files (docs/format.md)."""

from __future__ import annotations

import contextlib
import math
import os
import zlib
from collections.abc import Iterable
from typing import Any, BinaryIO

import numpy as np

from ..errors import ArgumentError, FormatError, os_errors, show
from . import table
from .header import MAGIC
from .output import STATE, Kind, new_file
from .packed import pack_ends, round_up
from .tensors import DTYPES, Tensor


def _may_be_model(path: str) -> bool:
    """Tell whether a file begins like a .trwkv file, whole or not, and holds no state."""
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC and not STATE.is_ours(path)


MODEL = Kind("a model file (.trwkv)", _may_be_model)


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
    ArgumentError
        The file exists and holds something else: a model replaces a model, a state a state.

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
        self._kind = STATE if self.metadata.get("kind") == "state" else MODEL
        self._file: BinaryIO | None = None

    def __enter__(self) -> Writer:
        """Open a temporary file beside the final one."""
        self.tensors = {}
        self._end = table.FILE_PAGE  # the end of what is written; the first page is the header's
        self._output = new_file(self.path, self._kind)
        self._file = self._output.__enter__()
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
        shape = array.shape if isinstance(array, np.ndarray) else ()
        self.add_blocks(name, shape, [array], page_aligned)

    def add_blocks(
        self,
        name: str,
        shape: tuple[int, ...],
        blocks: Iterable[np.ndarray],
        page_aligned: bool = False,
    ) -> None:
        """Write one tensor a few rows at a time, as `add` writes a whole one.

        Parameters
        ----------
        name : str
        shape : tuple of int
            Of the tensor.
        blocks : iterable of ndarray
            Its rows in order, all of one type.
        page_aligned : bool

        Raises
        ------
        ArgumentError, FormatError
            As for `add`, or the blocks have other rows than the shape.
        """
        if self._file is None:
            what = (self.path, f"tensor {show(name)}", "a closed writer", "an open one")
            sentence = f"{self.path}: the writer is closed, so tensor {show(name)} is too late"
            raise ArgumentError(*what, "add it inside the `with` block", sentence)
        file, tensor = self._file, None
        done = crc = 0
        for block in blocks:
            self._check_call(name, block)
            if tensor is None:
                tensor = self._place(name, block.dtype, shape, page_aligned)
            values = np.ascontiguousarray(block, DTYPES[tensor.dtype])
            data = values.reshape(-1).view(np.uint8).data
            self._file = None  # an incomplete file takes nothing more
            with os_errors(self.path, "write"):
                file.seek(tensor.offset + done)  # the gap before a tensor reads as zeros
                file.write(data)
            crc = zlib.crc32(data, crc)
            done += len(data)
        if tensor is None or done != tensor.nbytes:
            what = (self.path, f"tensor {show(name)}", f"{done} bytes", f"those of {shape}")
            raise ArgumentError(*what, "give all rows of the tensor")
        self._file = file
        self.tensors[name] = tensor._replace(crc32=crc)
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

    def _place(
        self, name: str, kind: np.dtype[Any], shape: tuple[int, ...], page_aligned: bool
    ) -> Tensor:
        """Return the table's row for the tensor that is written next, with a checksum of 0."""
        little_endian = kind.newbyteorder("<")
        dtype = kind.name  # check_tensor refuses it if the format does not have it
        for key, known in DTYPES.items():
            if known == little_endian:
                dtype = key
        nbytes = math.prod(shape) * kind.itemsize
        align = table.FILE_PAGE if page_aligned else table.alignment(nbytes)
        offset = round_up(self._end, align)
        tensor = Tensor(name, dtype, shape, offset, nbytes, crc32=0)
        entry = {**tensor._asdict(), "shape": list(shape)}
        try:
            return table.check_tensor(self.path, entry, self._end, offset + nbytes)
        except FormatError as error:
            what = (error.file, error.object, error.found, error.expected)
            raise ArgumentError(*what, "give another") from None

    def __exit__(self, kind: type[BaseException] | None, *exc: Any) -> None:
        """Finish the file and give it its name, or after an exception remove it."""
        try:
            if kind is not None:
                self._output.__exit__(kind, *exc)
                return
            with contextlib.ExitStack() as stack:
                stack.push(self._output)
                self._finish()
        finally:
            self._file = None

    def _finish(self) -> None:
        if self._file is None:
            what = (self.path, "writer", "an earlier failure", "none")
            sentence = f"{self.path} is incomplete after an earlier failure"
            raise ArgumentError(*what, "let exceptions leave the block", sentence)
        tensors = self.tensors.values()
        header, raw, offset = pack_ends(self.path, self.metadata, tensors, self._end)
        with os_errors(self.path, "write"):
            self._file.seek(offset)
            self._file.write(raw)
            self._file.seek(0)
            self._file.write(header)
            self._file.flush()
        self.check(self._file.name)

    def check(self, temporary: str) -> None:
        """Check the complete file, before it gets its name; a subclass may refuse it here."""
