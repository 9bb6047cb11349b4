"""Write a recovered checkpoint as a .safetensors file, which the converter reads like any other."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from tinyrwkv.errors import os_errors
from tinyrwkv.file.output import Kind, new_file

from ..write.marks import is_marked
from .trained import MADE_BY

CHECKPOINT = Kind(
    "a checkpoint of tinyrwkv-convert recover",
    lambda path: is_marked(path, b"", MADE_BY.encode()),
)


def write_checkpoint(path: str, tensors: Mapping[str, np.ndarray], about: Mapping[str, str]) -> int:
    """Write the file; it gets its name only when it is complete.

    Parameters
    ----------
    path : str
    tensors : mapping of str to ndarray, float32
        Stored in bfloat16 if that has all their values, as in most checkpoints; else in float32.
    about : mapping of str to str
        For the metadata.

    Returns
    -------
    int
        The bytes written.

    Raises
    ------
    ArgumentError
        Something else has this name.
    FormatError
        The file cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": {"made_by": MADE_BY, **about}}
    end = 0
    narrow = {name: _is_bfloat16(array) for name, array in tensors.items()}
    for name, array in tensors.items():
        start, end = end, end + array.size * (2 if narrow[name] else 4)
        dtype = "BF16" if narrow[name] else "F32"
        entry = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [start, end]}
        header[name] = entry
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with new_file(path, CHECKPOINT) as file, os_errors(path, "write"):
        file.write(struct.pack("<Q", len(text)) + text)
        for name, array in tensors.items():
            file.write(_stored(array, narrow[name]).data)
    return 8 + len(text) + end


def _is_bfloat16(array: np.ndarray) -> bool:
    """Tell whether the lower halves of all numbers are zero."""
    bits = np.ascontiguousarray(array, "<f4").view("<u4")
    return not (bits & 0xFFFF).any()


def _stored(array: np.ndarray, narrow: bool) -> np.ndarray:
    """Return the bytes of an array, as bfloat16 or float32."""
    values = np.ascontiguousarray(array, "<f4").reshape(-1)
    if narrow:
        values = (values.view("<u4") >> 16).astype("<u2")
    return values.view(np.uint8)
