"""Read PyTorch .pth checkpoints without PyTorch.

Such a file is a zip archive of one pickle and, for each storage of numbers, one stored member.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from tinyrwkv.errors import FormatError, UnsupportedError, show

from .source import (
    FETCH,
    STORED,
    InputFile,
    Source,
    SourceTensor,
    check_count,
    row_blocks,
    to_float32,
)
from .unpickle import MAX_PICKLE, StoredTensor, unpickle
from .zip import Zip

# Tensors may share their numbers: all of them together read at most so many times the file.
MOST_SHARED = 4

_WRAPPERS = ("state_dict", "model", "module")
_RESAVE = "load it with PyTorch and save it again with torch.save"


def read_pth(file: InputFile) -> Source:
    """Open a zip-format .pth file; the tensors are read when asked for.

    Parameters
    ----------
    file : InputFile

    Returns
    -------
    Source
        Names are as in the checkpoint, without a ``{"state_dict": ...}`` around them.

    Raises
    ------
    FormatError
        The archive is cut or damaged.
    UnsupportedError
        It holds something else than plain tensors, or compressed members.
    """
    archive = _Checkpoint(file)
    content = _unwrap(unpickle(file.path, archive.zip.read(archive.root + "data.pkl", MAX_PICKLE)))
    if not isinstance(content, dict) or not content:
        found = "an empty dict" if content == {} else _named(content)
        fix = _RESAVE + "(model.state_dict(), ...)"
        sentence = f"{file.path} holds {found}, not a dict of tensors"
        raise FormatError(file.path, "data.pkl", found, "a dict of tensors", fix, sentence)
    if "_strategy" in content:
        found = "weights already converted by ChatRWKV (key '_strategy')"
        fix = "give the .pth that they were made from"
        what, expected = "data.pkl", "the original checkpoint"
        raise UnsupportedError(file.path, what, found, expected, fix, f"{file.path} holds {found}")
    check_count(file.path, len(content))
    tensors = {}
    for name, value in content.items():
        if not isinstance(value, StoredTensor) or not isinstance(name, str):
            what, found = f"key {show(name)}", _named(value)
            sentence = f"{file.path}: {what} holds {found}, not a tensor"
            fix = "save the weights alone"
            raise UnsupportedError(file.path, what, found, "a tensor", fix, sentence)
        tensors[name] = archive.tensor(name, value)
    return Source(file.path, [file], "pth", tensors)


def _unwrap(content: Any) -> Any:
    """Return the dict inside a dict such as ``{"state_dict": ...}``, or the content itself."""
    if not isinstance(content, dict):
        return content
    if any(isinstance(value, StoredTensor) for value in content.values()):
        return content
    for key in _WRAPPERS:
        if isinstance(content.get(key), dict):
            return content[key]
    return content


def _named(value: Any) -> str:
    if isinstance(value, StoredTensor):
        return "a tensor"
    return f"an object of type {type(value).__name__}"


class _Checkpoint:
    """The archive of a checkpoint: everything lies under the folder `root`."""

    def __init__(self, file: InputFile) -> None:
        self.file = file
        self.zip = Zip(file)
        self._may_read = MOST_SHARED * file.size  # bytes, for the tensors that are still to come
        pickle = "data.pkl"
        roots = [name[: -len(pickle)] for name in self.zip.members if name.endswith("/" + pickle)]
        if len(roots) != 1:
            found = f"{len(roots)} in the zip archive"
            sentence = f"{file.path}: the zip archive has {len(roots)} members {pickle}, not one"
            raise FormatError(file.path, pickle, found, "one", _RESAVE, sentence)
        self.root = roots[0]
        folder = self.root + "data/"
        # By the key alone: many tensors may share one that is long.
        self.storages = {
            name.removeprefix(folder): member
            for name, member in self.zip.members.items()
            if name.startswith(folder)
        }
        order = self.root + "byteorder"
        if order in self.zip.members and self.zip.read(order, 16).strip() != b"little":
            found, expected = "big-endian numbers", "little-endian ones"
            sentence = f"{file.path} holds {found}"
            raise UnsupportedError(file.path, "byteorder", found, expected, _RESAVE, sentence)

    def tensor(self, name: str, stored: StoredTensor) -> SourceTensor:
        """Return a tensor, after checking it against its storage and the storage against the zip.

        Python's own integers do not overflow, so no size in the file can get around the checks.
        """
        storage, offset, shape, stride = stored
        what = f"tensor {show(name)}"
        numel = storage.numel
        nbytes = numel * STORED[storage.kind].itemsize
        member = self.storages.get(storage.key)
        if member is None or member.size != nbytes:
            found = "no storage" if member is None else f"a storage of {member.size} bytes"
            expected = f"one of {nbytes} bytes"
            sentence = f"{self.file.path}: {what} has {found}, but needs {expected}"
            raise FormatError(self.file.path, what, found, expected, FETCH, sentence)
        last = _last(stored)
        inside = 0 <= offset and last < numel and math.prod(shape) <= numel
        forward = all(size > 0 for size in shape) and all(step >= 0 for step in stride)
        if not inside or not forward:
            found = f"offset {offset}, shape {show(shape)}, stride {show(stride)}"
            expected = f"a view of {numel} numbers"
            sentence = f"{self.file.path}: {what} is not {expected}: {found}"
            raise FormatError(self.file.path, what, found, expected, _RESAVE, sentence)
        numbers = max(last - offset + 1, math.prod(shape))
        self._may_read -= numbers * STORED[storage.kind].itemsize
        if self._may_read < 0:
            found = f"more than {MOST_SHARED} times the bytes of the file"
            expected = "tensors that share less"
            sentence = f"{self.file.path}: up to {what}, the tensors would read {found}"
            raise FormatError(self.file.path, what, found, expected, _RESAVE, sentence)
        read = self._rows if _contiguous(shape, stride) else self._strided_rows
        return SourceTensor(self.file.path, name, shape, lambda: read(stored, what))

    def _begin(self, stored: StoredTensor) -> int:
        """Return the byte of the file at which the first number of a tensor begins."""
        start, _ = self.zip.place(f"{self.root}data/{stored.storage.key}")
        return start + stored.offset * STORED[stored.storage.kind].itemsize

    def _rows(self, stored: StoredTensor, what: str) -> Iterator[np.ndarray]:
        """Yield blocks of rows of a tensor whose numbers lie one after another."""
        yield from self.file.rows(self._begin(stored), stored.shape, stored.storage.kind, what)

    def _strided_rows(self, stored: StoredTensor, what: str) -> Iterator[np.ndarray]:
        """Yield blocks of rows of a transposed view."""
        # Every row is spread over the whole storage, so read that once.
        kind, shape = stored.storage.kind, stored.shape
        dtype = STORED[kind]
        nbytes = (_last(stored) - stored.offset + 1) * dtype.itemsize
        raw = self.file.read(self._begin(stored), nbytes, what).view(dtype)
        steps = tuple(step * dtype.itemsize for step in stored.stride)
        view: Any = np.lib.stride_tricks.as_strided(raw, shape, steps, writeable=False)
        for first, last in row_blocks(shape):
            yield np.ascontiguousarray(to_float32(view[first:last], kind))


def _last(stored: StoredTensor) -> int:
    """Return the place in the storage of the last number of a view."""
    steps = zip(stored.shape, stored.stride, strict=True)
    return stored.offset + sum((size - 1) * step for size, step in steps)


def _contiguous(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Tell whether the elements lie one after another in C order.

    Examples
    --------
    >>> _contiguous((2, 3), (3, 1)), _contiguous((2, 3), (1, 2)), _contiguous((1, 1, 3), (7, 3, 1))
    (True, False, True)
    """
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size > 1 and step != expected:
            return False
        expected *= size
    return True
