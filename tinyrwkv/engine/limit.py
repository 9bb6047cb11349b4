"""Hold the resident bytes of a model file to a limit: some steps stay, the others are dropped."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np

from ..arguments import refusal
from ..errors import UnsupportedError
from ..kernels.abi import MAX_TOKENS
from ..program.head import HEAD_ROWS
from ..program.operations import Extent
from ..versions.forms import DEEP_TABLE
from .steps import EMBEDDING_STEP, SYSTEM_PAGE, Steps, furthest, pages

STRIPE = max(1 << 16, 2 * SYSTEM_PAGE)
"""Bytes from one border to the next in a tensor from which a token reads one row, at least."""

STRIPES = 1 << 12
"""Stripes of one tensor: the system limits the pieces of a process's memory to 65,530."""


EMBEDDING = ("emb.weight", "emb.weight.scale")


class _Rows(NamedTuple):
    """A tensor from which a token reads one row."""

    offset: int
    row_bytes: int
    nbytes: int

    @property
    def stripe(self) -> int:
        """Bytes from one border to the next, a power of 2."""
        stripe = STRIPE
        while self.nbytes > STRIPES * stripe:
            stripe *= 2
        return stripe

    def most_resident(self, rows: int) -> int:
        """Return the most bytes that reading this number of rows makes resident."""
        stripes_of_a_row = 1 + -(-self.row_bytes // self.stripe)
        all_of_it = pages(self.offset, self.offset + self.nbytes)
        return min(all_of_it, rows * stripes_of_a_row * self.stripe)

    def stripes(self, row: int) -> Extent:
        """Return the stripes that a row lies in."""
        stripe = self.stripe
        start = self.offset // SYSTEM_PAGE * SYSTEM_PAGE
        begin = self.offset + row * self.row_bytes - start
        first = begin // stripe
        last = (begin + self.row_bytes - 1) // stripe
        return start + first * stripe, start + (last + 1) * stripe + SYSTEM_PAGE


class Limit(Protocol):
    """Decides how far a call of the kernels may go, and what stays in memory after it."""

    def until(self, first: int, last: int) -> int:
        """Return the furthest cut up to `last` that a call from cut `first` may go to."""

    def step(
        self, first: int, last: int, ids: np.ndarray
    ) -> contextlib.AbstractContextManager[None]:
        """Return the context of a call that runs the steps from cut `first` to cut `last`."""

    def take(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Return copies of some rows of a tensor of the head."""


class ResidentLimit:
    """Splits a token into calls, so that the resident bytes of the file never exceed a limit.

    Layers are read cyclically, so keeping the steps that ran last never helps the next token.
    Instead, as many steps as fit stay resident for good. The others are dropped after use, and the
    largest of them always has room.

    The system maps more than the page that is touched: its neighbours, or a whole piece of up to
    2 MB that its cache holds together. But it never maps beyond a border between two kinds of
    advice. So there is such a border between any two steps, and also every 64 KB or more in
    tensors from which a token reads one row. At a border, one page gets MADV_DONTDUMP, which means
    nothing here.

    A deep embedding is read in every layer. What the tokens of a call read of it is dropped after
    the call, and always has room.

    Parameters
    ----------
    steps : Steps
    limit : int
        Bytes.

    Raises
    ------
    ArgumentError
        The limit is not a number of bytes, or less than the largest step needs.
    UnsupportedError
        The system does not tell what is resident.
    """

    def __init__(self, steps: Steps, limit: int) -> None:
        self.steps = steps
        self.file = steps.file
        self._check(limit)
        once = _bytes_of_one_run(steps)
        self.room = limit - _always_resident(steps)
        self._drops = self._choose_dropped(once)
        dropped = [size if drops else 0 for size, drops in zip(once, self._drops, strict=True)]
        self._sums = [0, *np.cumsum(dropped).tolist()]
        self._turns: dict[int, threading.Lock] = {}  # of each process: a fork copies the locks
        self._interrupted = False
        self._mark_borders()

    def _check(self, limit: int) -> None:
        if self.file.resident() is None:
            found = "a system that does not tell what is resident"
            fix = "load without resident_limit"
            sentence = f"resident_limit needs Linux, and this is {found}"
            raise UnsupportedError("load", "resident_limit", found, "Linux", fix, sentence)
        least = least_resident(self.steps)
        if limit < least:
            expected = f"at least {least} bytes for the largest step of this model"
            fix = "raise the limit or compress the model"
            raise refusal("load", "resident_limit", limit, expected, fix)

    def _choose_dropped(self, once: list[int]) -> list[bool]:
        """Tell for each step whether its bytes are dropped after use.

        The steps are looked at in order. A step is kept if the largest one that is dropped still
        has room. What is kept is subtracted from the room.
        """
        sizes = [sum(pages(*extent) for extent in step) for step in self.steps.extents]
        drops = [True] * len(sizes)
        dropped = np.array(once)  # and 0 for the steps that are kept
        # The embedding comes last: it is large, and a token needs next to nothing of it.
        for step in [*range(EMBEDDING_STEP + 1, len(sizes)), EMBEDDING_STEP]:
            dropped[step] = 0
            if sizes[step] + int(dropped.max()) <= self.room:
                drops[step] = False
                self.room -= sizes[step]
            else:
                dropped[step] = once[step]
        return drops

    def _mark_borders(self) -> None:
        """Advise single pages, to keep the system from mapping beyond them."""
        extents = itertools.chain.from_iterable(self.steps.extents)
        borders = list(itertools.chain.from_iterable(extents))
        for tensor in _rows(self.steps, *EMBEDDING, DEEP_TABLE):
            borders += range(tensor.offset, tensor.offset + tensor.nbytes, tensor.stripe)
        size = self.file.size
        self.file.advise("MADV_NOHUGEPAGE")
        last = 0
        last_is_random = False
        for page in sorted({place // SYSTEM_PAGE for place in borders if place < size}):
            self.file.advise("MADV_DONTDUMP", page * SYSTEM_PAGE, 1)
            # Two such pages side by side need a border between them, too.
            last_is_random = page == last + 1 and not last_is_random
            last = page
            if last_is_random:
                self.file.advise("MADV_RANDOM", page * SYSTEM_PAGE, 1)

    def until(self, first: int, last: int) -> int:
        """Return the furthest cut up to `last` that the room is enough for from cut `first`."""
        return furthest(self._sums, first, last, self.room)

    @contextlib.contextmanager
    def step(self, first: int, last: int, ids: np.ndarray) -> Iterator[None]:
        """Let one caller at a time run these steps; then drop what need not stay resident."""
        with self._turn_of_one():
            if self._interrupted:  # an exception ended an earlier call
                self.file.drop()
            self._interrupted = True
            yield
            for start, stop in self._to_drop(first, last, ids):
                self.file.drop(start, stop - start)
            self._interrupted = False

    def take(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Return copies of some rows of a tensor of the head; drop what was read for it."""
        tensor = self.file.tensors[name]
        source = self.file[name]
        row_bytes = tensor.nbytes // tensor.shape[0]
        taken = np.empty((len(rows), *source.shape[1:]), source.dtype)
        piece_of_row = rows // HEAD_ROWS
        for piece in np.unique(piece_of_row):
            chosen = piece_of_row == piece
            start = tensor.offset + int(piece) * HEAD_ROWS * row_bytes
            with self._turn_of_one():
                taken[chosen] = source[rows[chosen]]
                self.file.drop(start, HEAD_ROWS * row_bytes)
        return taken

    def _turn_of_one(self) -> threading.Lock:
        """Return the lock; in the child of a fork a new one, since a thread may have held it."""
        return self._turns.setdefault(os.getpid(), threading.Lock())

    def _to_drop(self, first: int, last: int, ids: np.ndarray) -> Iterator[Extent]:
        """Yield what to drop after the steps from cut `first` to cut `last`."""
        if first == EMBEDDING_STEP and self._drops[EMBEDDING_STEP]:
            for tensor in _rows(self.steps, *EMBEDDING):
                yield from {tensor.stripes(int(token)) for token in ids}
        for tensor in _rows(self.steps, DEEP_TABLE):
            yield from {tensor.stripes(int(token)) for token in ids}
        # Extents side by side are dropped by one call.
        begin = end = 0
        for step in range(max(first, EMBEDDING_STEP + 1), last):
            for start, stop in self.steps.extents[step] if self._drops[step] else ():
                is_next = end <= start <= end + SYSTEM_PAGE
                if not is_next:
                    if end > begin:
                        yield begin, end
                    begin = start
                end = stop
        if end > begin:
            yield begin, end


class NoLimit:
    """Sets no limit: every call may go to its end, and all that was read stays in memory.

    Parameters
    ----------
    steps : Steps
    """

    def __init__(self, steps: Steps) -> None:
        self.file = steps.file

    def until(self, first: int, last: int) -> int:
        """Return `last`."""
        return last

    def step(self, first: int, last: int, ids: np.ndarray) -> contextlib.nullcontext[None]:
        """Keep what the steps read."""
        return contextlib.nullcontext()

    def take(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Return copies of some rows of a tensor."""
        return self.file[name][rows]


def least_resident(steps: Steps) -> int:
    """Return the smallest limit, in bytes, that a model can be held to."""
    needed = _always_resident(steps) + max(_bytes_of_one_run(steps))
    return min(needed, pages(0, steps.file.size))


def _rows(steps: Steps, *names: str) -> list[_Rows]:
    """Return those of these tensors that the file has."""
    tensors = [steps.file.tensors[name] for name in names if name in steps.file.tensors]
    return [_Rows(one.offset, one.nbytes // one.shape[0], one.nbytes) for one in tensors]


def _bytes_of_one_run(steps: Steps) -> list[int]:
    """Return the most bytes that each step makes resident when it runs."""
    embedding = sum(tensor.most_resident(MAX_TOKENS) for tensor in _rows(steps, *EMBEDDING))
    others = steps.extents[EMBEDDING_STEP + 1 :]
    return [embedding, *(sum(pages(*extent) for extent in step) for step in others)]


def _always_resident(steps: Steps) -> int:
    """Return the bytes that no step drops: the tokenizer, and what several steps read.

    Of a deep embedding, these are the rows of the tokens that are read.
    """
    size = steps.file.size
    deep = _rows(steps, DEEP_TABLE)
    others = [(rows.offset, rows.offset + rows.nbytes) for rows in deep]
    read_by_one = sorted([*others, *(extent for step in steps.extents for extent in step)])
    total, end = sum(rows.most_resident(MAX_TOKENS) for rows in deep), 0
    for start, stop in [*read_by_one, (size, size)]:
        if start > end:
            total += pages(end, start)
        end = max(end, stop)
    return total
