"""Worker threads that run one function together, shared by every model of the process."""

from __future__ import annotations

import _thread
import os
import queue
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .errors import UnsupportedError


class _Work(NamedTuple):
    function: Callable[[Any], None]
    arguments: Sequence[Any]
    memory: Any  # what the function writes to, which must live as long
    errors: list[BaseException]
    done: _thread.LockType


class Pool:
    """Threads which enter a function at the same time while the caller waits.

    The kernels' threads wait for each other in a barrier, so one thread gives the work to all, one work at a time.
    A signal's handler may raise in the caller at any moment, but never in these threads: it ends the waiting, not the
    work, which goes on to its end before the next one begins and until then keeps the memory that it writes to.

    Parameters
    ----------
    size : int
        Number of threads.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._given: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._parts: list[queue.SimpleQueue[_Work]] = [queue.SimpleQueue() for _ in range(size - 1)]
        self._finished: queue.SimpleQueue[None] = queue.SimpleQueue()
        try:
            for i, part in enumerate(self._parts, 1):
                _thread.start_new_thread(self._follow, (i, part))
            _thread.start_new_thread(self._lead, ())
        except RuntimeError as error:  # those that were started only sleep
            fix = "load the model with fewer, or raise the limits of the system"
            raise UnsupportedError("load", "threads", str(error), f"{size} more threads", fix) from error

    def call(self, function: Callable[[Any], None], arguments: Sequence[Any], memory: Any = None) -> None:
        """Run ``function(arguments[i])`` in thread i; return when all have, or when a signal's handler raises."""
        work = _Work(function, arguments, memory, [], _thread.allocate_lock())
        work.done.acquire()
        self._given.put(work)
        work.done.acquire()
        if work.errors:
            raise work.errors[0]

    def _lead(self) -> None:
        while True:
            work = self._given.get()
            for part in self._parts:
                part.put(work)
            self._do(0, work)
            for _ in self._parts:
                self._finished.get()
            work.done.release()
            del work

    def _follow(self, i: int, part: queue.SimpleQueue[_Work]) -> None:
        while True:
            self._do(i, part.get())
            self._finished.put(None)

    @staticmethod
    def _do(i: int, work: _Work) -> None:
        try:
            work.function(work.arguments[i])
        except BaseException as error:
            work.errors.append(error)


_pools: dict[tuple[int, int], Pool] = {}


def pool(size: int) -> Pool:
    """Return the process's pool of this size; a forked child gets its own, because threads do not survive a fork."""
    return _pools.get((size, os.getpid())) or _pools.setdefault((size, os.getpid()), Pool(size))
