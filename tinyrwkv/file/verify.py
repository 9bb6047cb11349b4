"""Read a whole file; check that it is unchanged and that its weights are numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import FormatError
from .mapped import TensorFile
from .table import Tensor

_CHUNK = 1 << 18  # numbers to check at a time


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
    file.verify(progress)
    for tensor in file.tensors.values():
        if tensor.dtype in ("f32", "f16"):
            _check_numbers(file, tensor)


def _check_numbers(file: TensorFile, tensor: Tensor) -> None:
    """Raise a FormatError if a tensor holds NaN, or holds infinity and is not a threshold."""
    numbers = file[tensor.name].reshape(-1)
    may_be_infinite = tensor.name.endswith("threshold")
    for first in range(0, len(numbers), _CHUNK):
        part = numbers[first : first + _CHUNK]
        is_bad = np.isnan(part) if may_be_infinite else ~np.isfinite(part)
        if is_bad.any():
            at = first + int(is_bad.argmax())
            found = f"{numbers[at]} at number {at:,}"
            fix = "convert again; the checkpoint may be damaged"
            what = f"tensor '{tensor.name}'"
            sentence = f"{file.path}: {what} holds {found}, but it must hold finite numbers"
            raise FormatError(file.path, what, found, "finite numbers", fix, sentence)
        file.drop(tensor.offset + first * numbers.itemsize, part.nbytes)
