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
from .team import Team


class _Work(NamedTuple):
    """One call of a function by every thread.

    Attributes
    ----------
    function, arguments
        Thread i calls ``function(arguments[i])``.
    memory : object
        What the function writes to. It must live as long as the work.
    errors : list of BaseException
        What the threads raised.
    running : list of int
        One entry for each thread that has not ended yet. ``pop`` is atomic, unlike ``-= 1``.
    done : lock
        Held until all threads have ended.
    """

    function: Callable[[Any], None]
    arguments: Sequence[Any]
    memory: Any
    errors: list[BaseException]
    running: list[int]
    done: _thread.LockType


class Pool:
    """Threads that enter a function at the same time while the caller waits.

    The kernels' threads wait for each other in a barrier. So either all threads get a work or none,
    and there is one work at a time.

    The handler of a signal may raise an exception in the caller at any moment, but never in these
    threads. The exception ends the waiting, not the work. The work goes on to its end, and keeps
    the memory that it writes to alive. Only then does the next work begin.

    Parameters
    ----------
    size : int
        Number of threads.

    Attributes
    ----------
    team : Team
        How many of them take part in a call of the kernels; no more than there are cores.

    Raises
    ------
    UnsupportedError
        The system does not allow that many threads.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.team = Team(min(size, cores()))
        self._idle = _thread.allocate_lock()
        self._given: list[queue.SimpleQueue[_Work]] = [queue.SimpleQueue() for _ in range(size)]
        try:
            for i in range(size):
                _thread.start_new_thread(self._follow, (i,))
        except RuntimeError as error:  # the threads that were started only sleep
            what = ("load", "threads", str(error), f"{size} more threads")
            fix = "load the model with fewer, or raise the limits of the system"
            sentence = f"the system does not give {size} more threads: {error}"
            raise UnsupportedError(*what, fix, sentence) from error

    def call(
        self, function: Callable[[Any], None], arguments: Sequence[Any], memory: Any = None
    ) -> None:
        """Run ``function(arguments[i])`` in thread i, and wait until all have ended.

        An exception of a signal's handler ends the waiting.

        Parameters
        ----------
        function : callable
        arguments : sequence
            One for each thread that is to take part.
        memory : object, optional
            What the function writes to; kept alive until all threads have ended.
        """
        still_running = list(range(len(arguments)))
        work = _Work(function, arguments, memory, [], still_running, _thread.allocate_lock())
        work.done.acquire()
        # Wait until the threads are idle, then give the work to each of them. This is one call of
        # C, which a signal's handler can end only while it waits. So all threads get the work, or
        # none does.
        wait = iter(self._idle.acquire, True)  # ends at once: acquire returns True
        given = self._given[: len(arguments)]
        give = map(queue.SimpleQueue.put, given, itertools.repeat(work))
        collections.deque(itertools.chain(wait, give), maxlen=0)
        work.done.acquire()
        if work.errors:
            raise work.errors[0]

    def _follow(self, i: int) -> None:
        """Do every work that is given to thread i."""
        while True:
            work = self._given[i].get()
            try:
                work.function(work.arguments[i])
            except BaseException as error:
                work.errors.append(error)
            is_last = work.running.pop() == 0
            if is_last:
                self._idle.release()
                work.done.release()
            del work  # its memory must not wait for the next work


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_pools: dict[tuple[int, int], Pool] = {}


def pool(size: int) -> Pool:
    """Return the process's pool of this size.

    A forked child gets its own, since threads do not survive a fork.
    """
    key = size, os.getpid()
    return _pools.get(key) or _pools.setdefault(key, Pool(size))
