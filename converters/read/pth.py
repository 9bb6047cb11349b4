"""Read PyTorch .pth checkpoints without PyTorch: a zip of one pickle and one stored member per storage."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from tinyrwkv.errors import FormatError, UnsupportedError
from tinyrwkv.file.table import show

from .source import FETCH, STORED, InputFile, Source, SourceTensor, row_blocks, to_float32
from .unpickle import MAX_PICKLE, StoredTensor, unpickle
from .zip import Zip

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
        Names as in the checkpoint; one ``{"state_dict": ...}`` around them is taken off.

    Raises
    ------
    FormatError
        The archive is cut or damaged.
    UnsupportedError
        It holds something else than plain tensors, or compressed members.
    """
    archive = _Checkpoint(file)
    content = unpickle(file.path, archive.zip.read(archive.root + "data.pkl", MAX_PICKLE))
    if isinstance(content, dict) and not any(isinstance(v, StoredTensor) for v in content.values()):
        content = next(
            (content[key] for key in _WRAPPERS if isinstance(content.get(key), dict)), content
        )
    if not isinstance(content, dict) or not content:
        found = "an empty dict" if content == {} else _named(content)
        raise FormatError(
            file.path, "data.pkl", found, "a dict of tensors", _RESAVE + "(model.state_dict(), ...)"
        )
    if "_strategy" in content:
        found, expected = (
            "weights already converted by ChatRWKV (key '_strategy')",
            "the original checkpoint",
        )
        raise UnsupportedError(
            file.path, "data.pkl", found, expected, "give the .pth that they were made from"
        )
    tensors = {}
    for name, value in content.items():
        if not isinstance(value, StoredTensor) or not isinstance(name, str):
            raise UnsupportedError(
                file.path, f"key {show(name)}", _named(value), "a tensor", "save the weights alone"
            )
        tensors[name] = archive.tensor(name, value)
    return Source(file, "pth", tensors)


def _named(value: Any) -> str:
    return (
        "a tensor"
        if isinstance(value, StoredTensor)
        else f"an object of type {type(value).__name__}"
    )


class _Checkpoint:
    """The archive of a checkpoint: everything lies under the folder `root`."""

    def __init__(self, file: InputFile) -> None:
        self.file, self.zip = file, Zip(file)
        roots = [
            name[: -len("data.pkl")] for name in self.zip.members if name.endswith("/data.pkl")
        ]
        if len(roots) != 1:
            raise FormatError(
                file.path, "data.pkl", f"{len(roots)} in the zip archive", "one", _RESAVE
            )
        self.root = roots[0]
        order = self.root + "byteorder"
        if order in self.zip.members and self.zip.read(order, 16).strip() != b"little":
            raise UnsupportedError(
                file.path, "byteorder", "big-endian numbers", "little-endian ones", _RESAVE
            )

    def tensor(self, name: str, stored: StoredTensor) -> SourceTensor:
        """Check a tensor against its storage and the storage against its member, in Python's own integers."""
        storage, offset, shape, stride = stored
        what, numel = f"tensor {show(name)}", storage.numel
        item = STORED[storage.kind].itemsize
        member = self.zip.members.get(f"{self.root}data/{storage.key}")
        if member is None or member.size != numel * item:
            found = "none" if member is None else f"{member.size} bytes"
            raise FormatError(
                self.file.path, what, f"a storage of {found}", f"{numel * item} bytes", FETCH
            )
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        inside = 0 <= offset and last < numel and math.prod(shape) <= numel
        if not inside or not all(n > 0 for n in shape) or not all(step >= 0 for step in stride):
            found = f"offset {offset}, shape {show(shape)}, stride {show(stride)}"
            raise FormatError(self.file.path, what, found, f"a view of {numel} numbers", _RESAVE)

        def read() -> Iterator[np.ndarray]:
            start, _ = self.zip.place(f"{self.root}data/{storage.key}")
            start += offset * item
            if _contiguous(shape, stride):
                width = math.prod(shape[1:])
                for first, end in row_blocks(shape):
                    values = self.file.values(
                        start + first * width * item, (end - first) * width, storage.kind, what
                    )
                    yield values.reshape((end - first, *shape[1:]) if shape else ())
                return
            # A transposed view: every row is spread over the whole storage, so read that once.
            raw = self.file.read(start, (last - offset + 1) * item, what).view(STORED[storage.kind])
            steps = tuple(step * item for step in stride)
            view: Any = np.lib.stride_tricks.as_strided(raw, shape, steps, writeable=False)
            for first, end in row_blocks(shape):
                yield np.ascontiguousarray(to_float32(view[first:end], storage.kind))

        return SourceTensor(self.file.path, name, shape, read)


def _contiguous(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Tell whether the elements lie one after another in C order.

    Examples
    --------
    >>> _contiguous((2, 3), (3, 1)), _contiguous((2, 3), (1, 2)), _contiguous((1, 1, 3), (7, 3, 1))
    (True, False, True)
    """
    expected = 1
    for n, step in zip(reversed(shape), reversed(stride), strict=True):
        if n > 1 and step != expected:
            return False
        expected *= n
    return True
