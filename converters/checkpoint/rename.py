"""What the dialects of tensor names share: undo a transposition, undo a stacking."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Iterator

from tinyrwkv.errors import FormatError, show

from ..read.source import SourceTensor

# What one tensor of a file becomes: raw names and values.
Renamed = Iterable[tuple[str, SourceTensor]]

# Low-rank matrices of RWKV-7 by their raw names. Raw ones are [in, rank] and [rank, out]; all other
# matrices are [out, in].
LOW_RANK_V7 = re.compile(r"\.att\.[wavg][12]$")


def transposed(tensor: SourceTensor) -> SourceTensor:
    """Return the tensor with its last two axes swapped."""
    if len(tensor.shape) < 2:
        return tensor  # refused for its shape later
    *rest, rows, columns = tensor.shape
    return tensor.map(lambda w: w.swapaxes(-1, -2), (*rest, columns, rows))


def split(tensor: SourceTensor, prefix: str, letters: str) -> Iterator[tuple[str, SourceTensor]]:
    """Yield the vectors that a tensor (len(letters), ..., C) was stacked from.

    Raises
    ------
    FormatError
        The tensor has another number of vectors.
    """
    if tensor.shape[0] != len(letters):
        what, found = f"tensor {show(tensor.name)}", f"shape {tensor.shape}"
        expected = f"{len(letters)} vectors, {', '.join(letters)}"
        sentence = f"{tensor.path}: {what} has {found}, but stands for {expected}"
        raise FormatError(tensor.path, what, found, expected, "give the original .pth", sentence)
    for i, letter in enumerate(letters):
        yield prefix + letter, tensor.map(operator.itemgetter(i), tensor.shape[1:])
