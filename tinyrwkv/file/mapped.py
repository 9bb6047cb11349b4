"""Map .trwkv files: a header, aligned tensors, a JSON table at the end (docs/format.md)."""

from __future__ import annotations

import os
import stat
import zlib
from typing import BinaryIO

from ..errors import ChecksumError, os_errors
from .foreign import folder_error
from .header import HEADER_BYTES, MINOR, check_header
from .sha256 import sha256
from .table import FETCH, check_table, path_name
from .tensors import Contents, TensorFile

__all__ = ["TensorFile", "open_file"]


def open_file(path: str | os.PathLike[str], copy: bool = False) -> TensorFile:
    """Map a .trwkv file and check its header and table.

    Parameters
    ----------
    path : str or path-like
    copy : bool
        Read the file into memory instead of mapping it.

    Returns
    -------
    TensorFile
        A context manager; arrays come out by name, ``file["emb.weight"]``.

    Raises
    ------
    FormatError
        The file is missing, or it is not a complete .trwkv file. If a checksum shows that it was
        altered, this is a ChecksumError.
    UnsupportedError
        The file's format is newer than this program.
    ArgumentError
        `path` is not a path.
    """
    path = path_name(path)
    with os_errors(path, "read"):
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise folder_error(path)
        if not stat.S_ISREG(mode):  # to open a pipe may block for ever
            raise OSError("not a file but a pipe or device")
        with open(path, "rb") as file:
            return TensorFile(path, file, _read_contents(path, file), copy)


def _read_contents(path: str, file: BinaryIO) -> Contents:
    """Read the header and the table of a file, and check them."""
    size = os.fstat(file.fileno()).st_size
    header = check_header(path, file.read(HEADER_BYTES), size)
    file.seek(header.table_offset)
    raw = file.read(header.table_bytes)
    check_crc(path, "table", zlib.crc32(raw), header.table_crc32)
    metadata, tensors = check_table(
        path,
        raw,
        start=header.data_offset,
        end=header.table_offset,
        newer=header.minor > MINOR,
    )
    contents_hash = sha256(raw).hexdigest()
    return Contents(header.minor, metadata, tensors, contents_hash, header.table_offset)


def check_crc(path: str, what: str, found: int, expected: int) -> None:
    """Raise a ChecksumError if a part of a file was altered."""
    if found != expected:
        raise ChecksumError(path, what, f"CRC-32 {found:08x}", f"{expected:08x}", FETCH)
