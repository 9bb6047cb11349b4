"""Read a whole file; check that it is unchanged and that its weights are numbers."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable

import numpy as np

from ..errors import ChecksumError, FormatError
from . import int4, row_table
from .header import HEADER_BYTES
from .mapped import TensorFile, check_crc, open_file
from .table import FETCH
from .tensors import Tensor

_BYTES = 1 << 20  # to read at a time
_NUMBERS = 1 << 18  # to check at a time
_PACKED = (".weight", ".weight.a", ".weight.b", ".rows", ".bundles", ".table")
"""Endings of what holds numbers and their scales as u8."""


def open_verified(path: str | os.PathLike[str]) -> TensorFile:
    """Map a .trwkv file as `open_file` does, and compare all of it with its checksums.

    Returns
    -------
    TensorFile
        A context manager.

    Raises
    ------
    ChecksumError
        The padding or a tensor was altered; the message names the tensor.
    TinyRWKVError
        As for `open_file`.
    """
    file = open_file(path)
    check_sums(file)
    return file


def verify(file: TensorFile, progress: Callable[[int, int], None] | None = None) -> None:
    """Compare a file with its checksums, then look for floats that are NaN or infinite.

    Pages that are read for this are let go again. A threshold may be infinite: then every neuron
    is above it, or none is.

    Parameters
    ----------
    file : TensorFile
    progress : callable, optional
        Called as ``progress(done_bytes, total_bytes)`` about once per MiB.

    Raises
    ------
    ChecksumError
        The padding or a tensor was altered; the message names the tensor.
    FormatError
        A tensor holds NaN or infinity; the message names it.
    ArgumentError
        The file is closed.
    """
    check_sums(file, progress)
    for tensor in file.tensors.values():
        if tensor.dtype in ("f32", "f16"):
            _check_numbers(file, tensor)
        elif tensor.dtype == "u8" and tensor.name.endswith(_PACKED):
            _check_scales(file, tensor)


def check_sums(file: TensorFile, progress: Callable[[int, int], None] | None = None) -> None:
    """Compare every tensor of a file with its checksum, and the padding with zeros.

    Pages that are read for this are let go again.

    Parameters
    ----------
    file : TensorFile
    progress : callable, optional
        Called as ``progress(done_bytes, total_bytes)``, about once per MiB.

    Raises
    ------
    ChecksumError
        The padding or a tensor was altered; the message names the tensor.
    ArgumentError
        The file is closed.
    """
    file.check_open()
    done = HEADER_BYTES
    for tensor in file.tensors.values():
        _check_padding(file, done, tensor.offset, tensor.name)
        crc = 0
        stop = tensor.offset + tensor.nbytes
        for start in range(tensor.offset, stop, _BYTES):
            part = slice(start, min(start + _BYTES, stop))
            crc = zlib.crc32(file.bytes[part].data, crc)
            file.drop(part.start, part.stop - part.start)
            if progress:
                progress(part.stop, file.data_end)
        check_crc(file.path, f"tensor '{tensor.name}'", crc, tensor.crc32)
        done = stop
    _check_padding(file, done, file.data_end, "the end")


def _check_padding(file: TensorFile, start: int, stop: int, name: str) -> None:
    if file.bytes[start:stop].any():
        what = f"padding before {name}"
        raise ChecksumError(file.path, what, "other bytes", "zeros", FETCH)


def _check_numbers(file: TensorFile, tensor: Tensor) -> None:
    """Raise a FormatError if a tensor holds NaN, or holds infinity and is not a threshold."""
    numbers = file[tensor.name].reshape(-1)
    may_be_infinite = tensor.name.endswith("threshold")
    for first in range(0, len(numbers), _NUMBERS):
        part = numbers[first : first + _NUMBERS]
        is_bad = np.isnan(part) if may_be_infinite else ~np.isfinite(part)
        if is_bad.any():
            at = first + int(is_bad.argmax())
            raise _not_finite(file, tensor, f"{numbers[at]} at number {at:,}")
        file.drop(tensor.offset + first * numbers.itemsize, part.nbytes)


def _check_scales(file: TensorFile, tensor: Tensor) -> None:
    """Raise a FormatError if a scale among packed numbers is NaN or infinite."""
    rows = file[tensor.name]
    row_bytes = tensor.nbytes // len(rows)
    step = max(1, _NUMBERS // row_bytes)
    for first in range(0, len(rows), step):
        part = rows[first : first + step]
        scales = _scales(file, tensor, part)
        if scales is None:
            return
        scales = scales.reshape(len(part), -1)
        is_bad = ~np.isfinite(scales)
        if is_bad.any():
            at = int(is_bad.any(axis=1).argmax())
            number = scales[at, is_bad[at].argmax()]
            raise _not_finite(file, tensor, f"a scale of {number} in row {first + at:,}")
        file.drop(tensor.offset + first * row_bytes, part.nbytes)


def _scales(file: TensorFile, tensor: Tensor, part: np.ndarray) -> np.ndarray | None:
    """Return the scales among the bytes of some rows.

    They are None for a shape that packed numbers never have: no model with such a tensor loads.
    """
    if tensor.name.endswith(".table"):
        return row_table.scales_behind(part) if row_table.is_table(part) else None
    rows = _rows_of_int4(file, tensor, part)
    return int4.unpack(rows)[1] if int4.is_packed(rows) else None


def _rows_of_int4(file: TensorFile, tensor: Tensor, part: np.ndarray) -> np.ndarray:
    """Return rows of int4; a row of bundles is a page of pairs of them, or one pair."""
    if not tensor.name.endswith(".bundles") or part.ndim != 2:
        return part
    row_bytes = int4.row_bytes(file.config["n_embd"])
    pair_bytes = 2 * row_bytes
    if not 0 < pair_bytes <= part.shape[1]:
        return part
    used = part.shape[1] // pair_bytes * pair_bytes
    return part[:, :used].reshape(-1, row_bytes)


def _not_finite(file: TensorFile, tensor: Tensor, found: str) -> FormatError:
    fix = "convert again; the checkpoint may be damaged"
    what = f"tensor '{tensor.name}'"
    sentence = f"{file.path}: {what} holds {found}, but it must hold finite numbers"
    return FormatError(file.path, what, found, "finite numbers", fix, sentence)
