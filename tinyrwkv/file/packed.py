"""Header and table of a .trwkv file, and a whole file of one tensor, as bytes (docs/format.md)."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..errors import ArgumentError
from . import table
from .header import check_header, make_header
from .table import Tensor


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


def pack_one(path: str, metadata: dict[str, Any], name: str, array: np.ndarray) -> bytes:
    """Return a file of one float32 tensor, byte for byte as `Writer` writes it."""
    data = np.ascontiguousarray(array, "<f4").tobytes()
    start = table.FILE_PAGE
    tensor = Tensor(name, "f32", array.shape, start, len(data), zlib.crc32(data))
    header, raw, offset = pack_ends(path, metadata, [tensor], start + len(data))
    return header.ljust(start, b"\0") + data.ljust(offset - start, b"\0") + raw


def round_up(position: int, align: int) -> int:
    """Return the next multiple of `align`."""
    return -(-position // align) * align
