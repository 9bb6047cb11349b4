"""Check the header, the first 64 bytes of a .trwkv file (docs/format.md)."""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from ..errors import ChecksumError, FormatError, UnsupportedError
from .foreign import checkpoint_kind, conversion
from .table import ALIGN, FETCH, FILE_PAGE, REPAIR
from .tensors import UPDATE

MAGIC = b"\x93TRWKV\r\n"
MAJOR = 1
MINOR = 4
HEADER_BYTES = 64

# Parsed JSON takes up to 27 times the memory of its text. A hostile table must not fill the memory
# of a small board.
MAX_TABLE = 2 << 20

LAYOUT = struct.Struct("<8sHHIQQQQIQ")
"""In the order of `Fields`; after them the CRC-32 of these 60 bytes."""


class Fields(NamedTuple):
    """What stands in a header."""

    magic: bytes
    major: int
    minor: int
    flags: int
    table_offset: int
    table_bytes: int
    data_offset: int
    file_bytes: int
    table_crc32: int
    reserved: int


class Header(NamedTuple):
    """What a reader needs of a header that has been checked."""

    minor: int
    table_offset: int
    table_bytes: int
    data_offset: int
    table_crc32: int


def check_header(path: str, header: bytes, file_bytes: int) -> Header:
    """Check the first bytes of a file and return what they say.

    Parameters
    ----------
    path : str
        The name of the file, for messages.
    header : bytes
        Its first 64 bytes, or all of a shorter file.
    file_bytes : int
        Its size.

    Raises
    ------
    FormatError
        It is not a .trwkv file, or was cut or altered (ChecksumError).
    UnsupportedError
        Its major version, or a flag in it, is unknown.
    """
    _check_magic(path, header)
    if file_bytes < HEADER_BYTES:
        raise _wrong_size(path, file_bytes, HEADER_BYTES, f"at least {HEADER_BYTES}")
    packed, crc = header[: LAYOUT.size], header[LAYOUT.size : HEADER_BYTES]
    if zlib.crc32(packed) != int.from_bytes(crc, "little"):
        found, expected = "bytes that differ from their CRC-32", "unchanged bytes"
        sentence = f"{path}: header: its bytes do not match their CRC-32"
        raise ChecksumError(path, "header", found, expected, FETCH, sentence)
    fields = Fields(*LAYOUT.unpack(packed))
    if fields.major != MAJOR or fields.flags or fields.reserved:
        rest = f"flags {fields.flags}, reserved {fields.reserved}"
        found = f"format {fields.major}.{fields.minor}, {rest}"
        expected = f"format {MAJOR}, flags 0, reserved 0"
        raise UnsupportedError(path, "header", found, expected, UPDATE)
    if file_bytes != fields.file_bytes:
        raise _wrong_size(path, file_bytes, fields.file_bytes, f"{fields.file_bytes}")
    _check_places(path, fields)
    return Header(
        fields.minor,
        fields.table_offset,
        fields.table_bytes,
        fields.data_offset,
        fields.table_crc32,
    )


def _check_magic(path: str, header: bytes) -> None:
    """Refuse a file that does not begin like a .trwkv file, and say what it looks like."""
    if header and MAGIC.startswith(header[: len(MAGIC)]):
        return
    found = f"the first bytes {header[:8]!r}"
    expected = f"the first bytes {MAGIC!r}"
    sentence = f"{path}: not a .trwkv file, it begins with {header[:8]!r}"
    fix = "give a .trwkv file; checkpoints go through tinyrwkv-convert first"
    text = header.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not header:
        found, fix = "an empty file", FETCH
    elif text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        found = "an HTML page"
        fix = "download the file itself, not the page about it"
    elif text.startswith(b"version https://git-lfs"):
        found = "a Git LFS pointer"
        fix = "fetch the file it stands for: git lfs pull"
    elif b"TRWKV" in header[:16]:
        found = "a .trwkv file that was changed as if it were text"
        fix = "copy or download it again in binary mode"
    elif kind := checkpoint_kind(header):
        found, fix = kind, conversion(path)
    if not found.startswith("the first bytes"):
        sentence = f"{path}: this {'looks like' if header else 'is'} {found}"
    raise FormatError(path, "header", found, expected, fix, sentence)


def _wrong_size(path: str, found: int, expected: int, wanted: str) -> FormatError:
    fix = f"something was appended: {FETCH}"
    if found < expected:
        fix = f"the download or copy was cut: {FETCH}"
    return FormatError(path, "file", f"{found} bytes", wanted, fix)


def _check_places(path: str, fields: Fields) -> None:
    """Refuse a table that is too large, and data or a table in a wrong place."""
    table_bytes, table_offset = fields.table_bytes, fields.table_offset
    data_offset = fields.data_offset
    if table_bytes > MAX_TABLE:
        found = f"a table of {table_bytes} bytes"
        raise FormatError(path, "header", found, f"at most {MAX_TABLE}", REPAIR)
    aligned = data_offset % FILE_PAGE == 0 and table_offset % ALIGN == 0
    in_order = FILE_PAGE <= data_offset <= table_offset
    if not aligned or not in_order or table_offset + table_bytes != fields.file_bytes:
        found = f"data at {data_offset}, a table of {table_bytes} bytes at {table_offset}"
        expected = f"aligned data, then the table up to byte {fields.file_bytes}"
        raise FormatError(path, "header", found, expected, REPAIR)
