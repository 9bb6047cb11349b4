"""Worker threads that run one function together, shared by every model of the process."""

from __future__ import annotations

import _thread
import collections
import itertools
import os
import queue
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..errors import UnsupportedError


class _Work(NamedTuple):
    function: Callable[[Any], None]
    arguments: Sequence[Any]
    memory: Any  # what the function writes to, which must live as long
    errors: list[BaseException]
    running: list[int]  # those who have not ended yet, only counted
    done: _thread.LockType


class Pool:
    """Threads which enter a function at the same time while the caller waits.

    The kernels' threads wait for each other in a barrier, so all get a work or none, one work at a time.
    A signal's handler may raise in the caller at any moment, but never in these threads: it ends the waiting, not the
    work, which goes on to its end before the next one begins and until then keeps the memory that it writes to.

    Parameters
    ----------
    size : int
        Number of threads.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._idle = _thread.allocate_lock()
        self._given: list[queue.SimpleQueue[_Work]] = [queue.SimpleQueue() for _ in range(size)]
        try:
            for i in range(size):
                _thread.start_new_thread(self._follow, (i,))
        except RuntimeError as error:  # those that were started only sleep
            fix = "load the model with fewer, or raise the limits of the system"
            raise UnsupportedError(
                "load", "threads", str(error), f"{size} more threads", fix
            ) from error

    def call(
        self, function: Callable[[Any], None], arguments: Sequence[Any], memory: Any = None
    ) -> None:
        """Run ``function(arguments[i])`` in thread i; return when all have, or when a signal's handler raises."""
        work = _Work(
            function, arguments, memory, [], list(range(self.size)), _thread.allocate_lock()
        )
        work.done.acquire()
        # One call of C, which a handler ends only while it waits: all threads get the work, or none.
        give = map(queue.SimpleQueue.put, self._given, itertools.repeat(work))
        collections.deque(itertools.chain(iter(self._idle.acquire, True), give), 0)
        work.done.acquire()
        if work.errors:
            raise work.errors[0]

    def _follow(self, i: int) -> None:
        while True:
            work = self._given[i].get()
            try:
                work.function(work.arguments[i])
            except BaseException as error:
                work.errors.append(error)
            if work.running.pop() == 0:  # the last
                self._idle.release()
                work.done.release()
            del work


_pools: dict[tuple[int, int], Pool] = {}


def pool(size: int) -> Pool:
    """Return the process's pool of this size; a forked child gets its own, because threads do not survive a fork."""
    return _pools.get((size, os.getpid())) or _pools.setdefault((size, os.getpid()), Pool(size))
