"""What every reader gives: named tensors whose values come as float32, a few rows at a time."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from tinyrwkv.errors import FormatError, show

BLOCK = 1 << 19  # elements of a tensor in memory at a time: 2 MiB of float32

MAX_TENSORS = 1 << 16
"""Most tensors of a checkpoint; a real one has a few thousand, and each takes memory."""

MAX_PARTS = 128
"""Most files of one checkpoint; all of them are open at the same time."""

# How a stored number becomes float32. NumPy has no bfloat16: it is the upper half of a float32.
STORED: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}

FETCH = "the file is cut or damaged: fetch it again"


def cut(path: str, what: str, end: int, size: int) -> FormatError:
    """Return the error that a part of a file ends at byte `end`, behind the end of the file."""
    found, expected = f"its end at byte {end}", f"at most {size}"
    sentence = f"{path}: {what} ends at byte {end}, but the file has {size} bytes"
    return FormatError(path, what, found, expected, FETCH, sentence)


def check_count(path: str, tensors: int) -> None:
    """Raise a FormatError if a checkpoint has more tensors than can be read."""
    if tensors > MAX_TENSORS:
        found, expected = f"{tensors} tensors or more", f"at most {MAX_TENSORS}"
        sentence = f"{path} has {found}; {expected} can be read"
        raise FormatError(path, "tensors", found, expected, FETCH, sentence)


def to_float32(array: np.ndarray, kind: str) -> np.ndarray:
    """Widen an array read as ``STORED[kind]`` to float32, exactly.

    Examples
    --------
    >>> to_float32(np.array([0x3F80, 0xC000], "<u2"), "BF16")
    array([ 1., -2.], dtype=float32)
    """
    if kind == "BF16":
        return (array.astype("<u4") << 16).view("<f4").astype(np.float32, copy=False)
    return array.astype(np.float32, copy=False)


def row_blocks(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of the row ranges that hold about `BLOCK` elements each."""
    rows = shape[0] if shape else 1
    step = max(1, BLOCK // max(1, math.prod(shape[1:])))
    for first in range(0, rows, step):
        yield first, min(first + step, rows)


class InputFile:
    """A regular file, read by position and never mapped.

    A mapped file that somebody cuts meanwhile would end the process; this one gives an error.

    Parameters
    ----------
    path : str or path-like
    expected : str
        What the file should be, for the message.

    Raises
    ------
    FormatError
        There is no such file, it is empty, or it can't be read.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        expected: str = "a checkpoint (.pth, .safetensors, .gguf, .bin, .trwkv)",
    ) -> None:
        self.path = os.fsdecode(path)
        fix = "check the name and its permissions"
        try:
            if os.path.isdir(self.path):
                found, fix = "a folder", "give a file in it"
                sentence = f"{self.path} is a folder"
            elif not stat.S_ISREG(os.stat(self.path).st_mode):  # opening a pipe may block for ever
                found = "a pipe or device"
                sentence = f"{self.path} is a pipe or device"
            else:
                self.handle: BinaryIO = open(self.path, "rb", buffering=0)
                self.size = os.fstat(self.handle.fileno()).st_size
                return
        except FileNotFoundError:
            found = "nothing"
            sentence = f"no such file: {self.path}"
        except (OSError, ValueError) as error:
            found = getattr(error, "strerror", None) or str(error)
            sentence = f"cannot read {self.path}: {found}"
        raise FormatError(self.path, "file", found, expected, fix, sentence)

    def read(self, offset: int, nbytes: int, what: str) -> np.ndarray:
        """Return `nbytes` bytes from `offset` on.

        Returns
        -------
        ndarray, uint8, shape (nbytes,)

        Raises
        ------
        FormatError
            The file ends before; nothing is allocated then.
        """
        if offset < 0 or nbytes < 0 or offset + nbytes > self.size:
            raise cut(self.path, what, offset + nbytes, self.size)
        data = np.empty(nbytes, np.uint8)
        view = data.data
        done = 0
        try:
            self.handle.seek(offset)
            while done < nbytes:
                got = self.handle.readinto(view[done:])  # type: ignore[attr-defined]
                if not got:
                    raise OSError(f"the file ends at byte {offset + done}")
                done += got
        except OSError as error:
            found = error.strerror or str(error)
            sentence = f"{self.path}: cannot read {what}: {found}"
            expected = f"{nbytes} bytes"
            raise FormatError(self.path, what, found, expected, FETCH, sentence) from error
        return data

    def values(self, offset: int, count: int, kind: str, what: str) -> np.ndarray:
        """Return `count` numbers stored as `kind` from `offset` on, as float32."""
        dtype = STORED[kind]
        raw = self.read(offset, count * dtype.itemsize, what)
        return to_float32(raw.view(dtype), kind)

    def rows(
        self, offset: int, shape: tuple[int, ...], kind: str, what: str
    ) -> Iterator[np.ndarray]:
        """Yield blocks of rows, float32, of a tensor that lies in C order from `offset` on."""
        width = math.prod(shape[1:])
        row_bytes = width * STORED[kind].itemsize
        for first, last in row_blocks(shape):
            count = last - first
            values = self.values(offset + first * row_bytes, count * width, kind, what)
            yield values.reshape((count, *shape[1:]) if shape else ())

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):
            self.handle.close()

    def __enter__(self) -> InputFile:
        """Return the file itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the file."""
        self.close()


@dataclass(frozen=True)
class SourceTensor:
    """A tensor of a checkpoint, not yet read.

    Attributes
    ----------
    path, name : str
        Where it is, for messages: the file, and the name it has there.
    shape : tuple of int
    read : callable
        Yields float32 arrays of consecutive rows that together have `shape`.
    """

    path: str
    name: str
    shape: tuple[int, ...]
    read: Callable[[], Iterator[np.ndarray]]

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the values, float32, a range of rows at a time.

        Raises
        ------
        FormatError
            A value is not a finite number, or the file is cut.
        """
        blocks = iter(self.read())
        while True:
            with np.errstate(all="ignore"):  # what overflows is refused just below
                block = next(blocks, None)
            if block is None:
                return
            if not np.isfinite(block).all():
                what, found = f"tensor {show(self.name)}", "NaN or infinity"
                fix = "training diverged or the file is damaged: take another checkpoint"
                sentence = f"{self.path}: {what} holds {found}"
                raise FormatError(self.path, what, found, "finite numbers", fix, sentence)
            yield block

    def load(self) -> np.ndarray:
        """Return all values, float32, in `shape`: for the small tensors."""
        blocks = list(self.blocks())
        values = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        return values.reshape(self.shape)

    def map(
        self, function: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...] | None = None
    ) -> SourceTensor:
        """Return `function` of this tensor, which is read in one piece: for the small tensors.

        Parameters
        ----------
        function : callable
            Maps an array of this tensor's shape to one of the new shape.
        shape : tuple of int, optional
            The new shape. Default: that of this tensor.
        """

        def read() -> Iterator[np.ndarray]:
            yield np.ascontiguousarray(function(self.load()), np.float32)

        return SourceTensor(self.path, self.name, self.shape if shape is None else shape, read)

    def scaled(self, factor: float) -> SourceTensor:
        """Return this tensor times a number."""

        def read() -> Iterator[np.ndarray]:
            for block in self.blocks():
                yield block * np.float32(factor)

        return SourceTensor(self.path, self.name, self.shape, read)


class Stated(NamedTuple):
    """What a file says about a size that its tensors have too, so that they can be compared.

    Attributes
    ----------
    size : str
        A field of `converters.checkpoint.raw_shapes.Sizes`, or "ln_eps".
    where : str
        Where it is said, for messages.
    value : object
    """

    size: str
    where: str
    value: object


class About(NamedTuple):
    """What a checkpoint says about its model besides the tensors; the defaults if it says nothing.

    Attributes
    ----------
    architecture : str
        Such as "rwkv7".
    head_size : int or None
    rescale_every : int or None
        The residual stream is halved after this many layers, and the weights are scaled to match.
    license : str
        Licence of the weights.
    stated : tuple of Stated
    tied_head : bool
        The head is the embedding, and may be missing.
    tokens : callable or None
        Returns the vocabulary that the checkpoint has in it: the bytes of the tokens by id.
    vocab : str or None
        Path of the vocabulary file that belongs to the checkpoint.
    unusable : str
        A vocabulary that the checkpoint has, but that is no table of tokens, such as "gpt2".
    """

    architecture: str = ""
    head_size: int | None = None
    rescale_every: int | None = None
    license: str = ""
    stated: tuple[Stated, ...] = ()
    tied_head: bool = False
    tokens: Callable[[], dict[int, bytes]] | None = None
    vocab: str | None = None
    unusable: str = ""


@dataclass
class Source:
    """An open checkpoint of any format; a context manager.

    Attributes
    ----------
    path : str
        Of the file or folder that was asked for.
    files : list of InputFile
        What holds the tensors; several if the checkpoint is split.
    kind : str
        "pth", "safetensors", "gguf", "ggmf" or "trwkv".
    tensors : dict of str to SourceTensor
        Under the names that the files give them.
    about : About
        What is said besides.
    """

    path: str
    files: list[InputFile]
    kind: str
    tensors: dict[str, SourceTensor]
    about: About = field(default_factory=About)

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    def __enter__(self) -> Source:
        """Return the source itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the files."""
        for file in self.files:
            file.close()
