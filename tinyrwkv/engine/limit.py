"""Hold what is resident of a model file to a limit: some of its parts stay, the others are let go right after use."""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..errors import ArgumentError, UnsupportedError
from ..kernels.abi import MAX_TOKENS
from ..program.program import HEAD_ROWS
from .plan import Parts, furthest

PAGE = mmap.PAGESIZE
STRIPE = max(1 << 16, 2 * PAGE)


class _Rows(NamedTuple):
    """A tensor of which a token reads one row."""

    offset: int
    row_bytes: int
    nbytes: int

    def most(self, tokens: int) -> int:
        """Return the most bytes that so many rows make resident."""
        return min(
            _pages(self.offset, self.offset + self.nbytes),
            tokens * (STRIPE + -(-self.row_bytes // STRIPE) * STRIPE),
        )

    def around(self, row: int) -> tuple[int, int]:
        """Return the stripes that a row lies in."""
        start = self.offset // PAGE * PAGE
        first = (self.offset + row * self.row_bytes - start) // STRIPE
        last = (self.offset + (row + 1) * self.row_bytes - 1 - start) // STRIPE
        return start + first * STRIPE, start + (last + 1) * STRIPE + PAGE


def _pages(start: int, stop: int) -> int:
    """Return the bytes of the pages that a part of the file lies in."""
    return (-(-stop // PAGE) - start // PAGE) * PAGE


class Limit:
    """Runs a token in steps that together with what stays resident never exceed a limit.

    A token reads the file from its first step to its last, again and again. To keep what was used last would be of no
    use to the next token, so some steps keep their bytes for good, as far as the limit leaves room for the largest of
    the others, and the others' are let go after use.

    The system maps more than the page that is touched: its neighbours, or all of the piece of up to 2 MB that its
    cache holds together; but nothing beyond a border of different advice. So at each border between two steps, and
    every 64 KB of the rows that single tokens need, one page gets an advice that means nothing here, MADV_DONTDUMP.

    Parameters
    ----------
    parts : Parts
    limit : int
        Bytes.

    Raises
    ------
    ArgumentError
        The limit is no number of bytes, or less than the largest step needs.
    UnsupportedError
        The system does not tell what is resident.
    """

    def __init__(self, parts: Parts, limit: int) -> None:
        self.parts, self.file = parts, parts.file
        if self.file.resident() is None:
            found = "a system that does not tell what is resident"
            raise UnsupportedError(
                "load", "resident_limit", found, "Linux", "load without resident_limit"
            )
        least = least_resident(parts)
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < least:
            expected = f"at least {least} bytes, what the largest step of this model reads"
            raise ArgumentError(
                "load", "resident_limit", limit, expected, "raise the limit or compress the model"
            )
        held = [sum(_pages(*extent) for extent in step) for step in parts.extents]
        once = _once(parts)
        self.room = limit - _always(parts)
        self._let_go = [True] * len(held)
        for step in [
            *range(1, len(held)),
            0,
        ]:  # of the embedding, the first step, a token needs next to nothing
            others = [bytes for i, bytes in enumerate(once) if self._let_go[i] and i != step]
            if held[step] + max(others, default=0) <= self.room:
                self._let_go[step] = False
                self.room -= held[step]
        passing = [bytes * flag for bytes, flag in zip(once, self._let_go, strict=True)]
        self._sums = [0, *np.cumsum(passing).tolist()]
        self._turn, self._process, self._left = threading.Lock(), os.getpid(), False
        self._mark_borders()

    def _mark_borders(self) -> None:
        borders = [border for step in self.parts.extents for extent in step for border in extent]
        for rows in _embedding(self.parts):
            borders += range(rows.offset, rows.offset + rows.nbytes, STRIPE)
        self.file.advise("MADV_NOHUGEPAGE")
        before, other = 0, False
        for page in sorted({border // PAGE for border in borders if border < len(self.file.bytes)}):
            self.file.advise("MADV_DONTDUMP", page * PAGE, 1)
            before, other = page, page == before + 1 and not other
            if other:  # two borders side by side need a border too
                self.file.advise("MADV_RANDOM", page * PAGE, 1)

    def until(self, first: int, last: int) -> int:
        """Return the furthest cut up to `last` that the room is enough for from cut `first`."""
        return furthest(self._sums, first, last, self.room)

    @contextlib.contextmanager
    def step(self, first: int, last: int, ids: np.ndarray) -> Iterator[None]:
        """Let go what the steps from cut `first` to cut `last` read, but for what stays; one caller at a time."""
        with self._turn_of_one():
            if self._left:  # an exception ended an earlier call
                self.file.drop()
            self._left = True
            yield
            for start, stop in self._to_drop(first, last, ids):
                self.file.drop(start, stop - start)
            self._left = False

    def take(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Return copies of some rows of a tensor of the head; no more of it stays than before."""
        tensor, source = self.file.tensors[name], self.file[name]
        taken, row_bytes = (
            np.empty((len(rows), *source.shape[1:]), source.dtype),
            tensor.nbytes // tensor.shape[0],
        )
        for piece in np.unique(rows // HEAD_ROWS):
            chosen = rows // HEAD_ROWS == piece
            start = tensor.offset + int(piece) * HEAD_ROWS * row_bytes
            with self._turn_of_one():
                taken[chosen] = source[rows[chosen]]
                self.file.drop(start, HEAD_ROWS * row_bytes)
        return taken

    def _turn_of_one(self) -> threading.Lock:
        if (
            self._process != os.getpid()
        ):  # the child of a fork: another thread may have had the lock
            self._turn, self._process = threading.Lock(), os.getpid()
        return self._turn

    def _to_drop(self, first: int, last: int, ids: np.ndarray) -> Iterator[tuple[int, int]]:
        if first == 0 and self._let_go[0]:
            for rows in _embedding(self.parts):
                yield from {rows.around(int(token)) for token in ids}
        begin = end = 0
        for step in range(max(first, 1), last):
            for start, stop in self.parts.extents[step] if self._let_go[step] else ():
                if not end <= start <= end + PAGE:  # not next to what came before
                    if end > begin:
                        yield begin, end
                    begin = start
                end = stop
        if end > begin:
            yield begin, end


class NoLimit:
    """Does what a `Limit` does where nothing need be let go.

    Parameters
    ----------
    parts : Parts
    """

    def __init__(self, parts: Parts) -> None:
        self.file = parts.file

    def until(self, first: int, last: int) -> int:
        """Return `last`."""
        return last

    def step(self, first: int, last: int, ids: np.ndarray) -> contextlib.nullcontext[None]:
        """Keep what the steps read."""
        return contextlib.nullcontext()

    def take(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Return copies of some rows of a tensor."""
        return self.file[name][rows]


def _embedding(parts: Parts) -> list[_Rows]:
    tensors = (parts.file.tensors.get(name) for name in ("emb.weight", "emb.weight.scale"))
    return [_Rows(t.offset, t.nbytes // t.shape[0], t.nbytes) for t in tensors if t]


def _once(parts: Parts) -> list[int]:
    """Return the most bytes that each step makes resident when it runs."""
    embedding = sum(rows.most(MAX_TOKENS) for rows in _embedding(parts))
    return [embedding, *(sum(_pages(*extent) for extent in step) for step in parts.extents[1:])]


def _always(parts: Parts) -> int:
    """Return the bytes that no step lets go: the tokenizer, and what several steps read."""
    used = sorted(extent for step in parts.extents for extent in step)
    total, at = 0, 0
    for start, stop in [*used, (len(parts.file.bytes), len(parts.file.bytes))]:
        total += _pages(at, start) if start > at else 0
        at = max(at, stop)
    return total


def least_resident(parts: Parts) -> int:
    """Return the smallest limit that a model can be held to."""
    return min(_always(parts) + max(_once(parts)), _pages(0, len(parts.file.bytes)))
