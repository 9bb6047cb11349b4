"""Worker threads that run one function together, shared by every model of the process."""

from __future__ import annotations

import _thread
import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


def _open(lock: _thread.LockType) -> None:
    """Let one thread through a lock, the next one if none waits."""
    with contextlib.suppress(RuntimeError):  # it is open already
        lock.release()


class _Work(NamedTuple):
    number: int
    function: Callable[[Any], None]
    arguments: Sequence[Any]


class Pool:
    """Parked threads, which enter a function at the same time while the caller waits.

    The kernels' threads wait for each other in a barrier, so a call begins only when every thread is free, and ends
    when all are: one call at a time. A signal's handler may raise in the caller at any moment, but never in a worker;
    so the caller does none of the work, and whatever it does can be done twice.

    Parameters
    ----------
    size : int
        Number of threads; they are started by the first call.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        # Plain locks: what threading builds from them is Python code, which an exception can leave half way.
        self._busy, self._all_done = _thread.allocate_lock(), _thread.allocate_lock()
        self._wake = [_thread.allocate_lock() for _ in range(size)]
        for lock in (self._all_done, *self._wake):
            lock.acquire()
        self._work = _Work(0, print, ())
        self._finished = [0] * size  # the number of the last work that each thread has done
        self._error: BaseException | None = None
        self._started = 0

    def _serve(self, i: int) -> None:
        while True:
            self._wake[i].acquire()
            work = self._work
            if self._finished[i] == work.number:
                continue  # woken twice
            try:
                work.function(work.arguments[i])
            except BaseException as error:
                self._error = error
            self._finished[i] = work.number
            if all(number == work.number for number in self._finished):
                _open(self._all_done)

    def call(self, function: Callable[[Any], None], arguments: Sequence[Any]) -> None:
        """Run ``function(arguments[i])`` in thread i; return when all have returned.

        An exception of a signal's handler, such as KeyboardInterrupt, is kept until then: a kernel's threads cannot
        be left half way.
        """
        kept: BaseException | None = None
        with self._busy:
            number = self._work.number + 1
            while self._finished != [number] * self.size:
                try:
                    for i in range(self._started, self.size):
                        _thread.start_new_thread(self._serve, (i,))  # a thread too many would only sleep
                        self._started = i + 1
                    if self._work.number != number:
                        self._error, self._work = None, _Work(number, function, arguments)
                    for wake, finished in zip(self._wake, self._finished, strict=True):
                        if finished != number:
                            _open(wake)
                    while self._finished != [number] * self.size:
                        self._all_done.acquire(timeout=1)
                except BaseException as error:
                    kept = error
            kept = kept or self._error
        if kept is not None:
            raise kept


_pools: dict[tuple[int, int], Pool] = {}


def pool(size: int) -> Pool:
    """Return the process's pool of this size; a forked child gets its own, because threads do not survive a fork."""
    return _pools.get((size, os.getpid())) or _pools.setdefault((size, os.getpid()), Pool(size))
