"""Read a whole file and say whether it is as it was written, and whether its weights are numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import FormatError
from . import memory
from .mapped import TensorFile

_CHUNK = 1 << 18


def verify(file: TensorFile, progress: Callable[[int, int], None] | None = None) -> None:
    """Compare a file with its checksums, then look for floats that are NaN or infinite; pages are let go again.

    A threshold may be infinite: every neuron, or none, is above it.

    Parameters
    ----------
    file : TensorFile
    progress : callable, optional
        Called as ``progress(done_bytes, total_bytes)`` about once per MiB.

    Raises
    ------
    ChecksumError
        A tensor, which the message names, or the padding was altered.
    FormatError
        A tensor, which the message names, holds NaN or infinity.
    ArgumentError
        The file is closed.
    """
    file.verify(progress)
    for name, tensor in file.tensors.items():
        numbers = file[name].reshape(-1)
        bad = np.isnan if name.endswith("threshold") else lambda part: ~np.isfinite(part)
        for first in range(0, len(numbers) if tensor.dtype in ("f32", "f16") else 0, _CHUNK):
            found = bad(numbers[first : first + _CHUNK])
            if found.any():
                at = first + int(found.argmax())
                what, fix = (
                    f"{numbers[at]} at number {at:,}",
                    "convert again; the checkpoint may be damaged",
                )
                raise FormatError(file.path, f"tensor '{name}'", what, "finite numbers", fix)
            start = tensor.offset + first * numbers.itemsize
            memory.advise(file, "MADV_DONTNEED", start, found.size * numbers.itemsize)
