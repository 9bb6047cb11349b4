"""Header and table of a .trwkv file as bytes (docs/format.md)."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..errors import ArgumentError
from . import table
from .header import LAYOUT, MAGIC, MAJOR, MINOR, Fields, check_header
from .tensors import Tensor


def pack_ends(
    path: str, metadata: dict[str, Any], tensors: Iterable[Tensor], data_end: int
) -> tuple[bytes, bytes, int]:
    """Return the header, the table, and the byte where the table begins.

    Parameters
    ----------
    path : str
        The name of the file, for messages.
    metadata : dict
    tensors : iterable of Tensor
    data_end : int
        The end of the last tensor.

    Raises
    ------
    ArgumentError
        The metadata have values that JSON does not have.
    FormatError
        A reader would refuse the file.
    """
    offset = round_up(data_end, table.ALIGN)
    try:
        raw = json.dumps(
            {"metadata": metadata, "tensors": [tensor._asdict() for tensor in tensors]},
            default=np.generic.item,  # reports have NumPy numbers
            ensure_ascii=False,
            allow_nan=False,
            separators=(",", ":"),
        ).encode()
    except (TypeError, ValueError, RecursionError) as error:
        what = (path, "metadata", str(error), "plain JSON values", "convert the value")
        raise ArgumentError(*what) from None
    header = make_header(raw, offset)
    # A file that its own reader would refuse is never written.
    check_header(path, header, offset + len(raw))
    table.check_table(path, raw, table.FILE_PAGE, offset)
    return header, raw, offset


def make_header(text: bytes, table_offset: int) -> bytes:
    """Return the header of a file; its data begin at ``FILE_PAGE``.

    Parameters
    ----------
    text : bytes
        The JSON text at the end of the file.
    table_offset : int
        Where it begins.
    """
    fields = Fields(
        magic=MAGIC,
        major=MAJOR,
        minor=MINOR,
        flags=0,
        table_offset=table_offset,
        table_bytes=len(text),
        data_offset=table.FILE_PAGE,
        file_bytes=table_offset + len(text),
        table_crc32=zlib.crc32(text),
        reserved=0,
    )
    packed = LAYOUT.pack(*fields)
    return packed + zlib.crc32(packed).to_bytes(4, "little")


def round_up(position: int, align: int) -> int:
    """Return the next multiple of `align`."""
    return -(-position // align) * align
