"""Worker threads that run one function together, shared by every model of the process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any


class Pool:
    """A caller and ``size - 1`` parked threads, which enter a function at the same time.

    The kernels' threads wait for each other in a barrier, so a call may begin only when every thread is free:
    one call at a time, begun with all threads parked and ended when all are parked again.
    """

    def __init__(self, size: int) -> None:
        self.size, self.process = size, os.getpid()
        self._busy = threading.Lock()
        self._work: list[tuple[Callable[[Any], None], Any]] = [(print, None)] * (size - 1)
        self._wake = [threading.Lock() for _ in range(size - 1)]
        self._parked = [threading.Lock() for _ in range(size - 1)]
        for i in range(size - 1):
            self._wake[i].acquire()
            self._parked[i].acquire()
            threading.Thread(target=self._serve, args=(i,), name=f"tinyrwkv-{i + 1}", daemon=True).start()

    def _serve(self, i: int) -> None:
        while True:
            self._wake[i].acquire()
            function, argument = self._work[i]
            try:
                function(argument)
            finally:
                self._parked[i].release()

    def call(self, function: Callable[[Any], None], arguments: Sequence[Any]) -> None:
        """Run ``function(arguments[i])`` in thread i, the first in the caller's; return when all have returned.

        A KeyboardInterrupt is kept until then: a kernel's threads cannot be left half way.
        """
        interrupted = None
        with self._busy:
            for i, argument in enumerate(arguments[1:]):
                self._work[i] = function, argument
                self._wake[i].release()
            try:
                function(arguments[0])
            except KeyboardInterrupt as error:
                interrupted = error
            for i in range(len(arguments) - 1):
                while True:
                    try:
                        self._parked[i].acquire()
                        break
                    except KeyboardInterrupt as error:
                        interrupted = error
        if interrupted:
            raise interrupted


_pools: dict[int, Pool] = {}
_making = threading.Lock()


def pool(size: int) -> Pool:
    """Return the process's pool of this size; a forked child gets its own, because threads do not survive a fork."""
    found = _pools.get(size)
    if found is None or found.process != os.getpid():
        with _making:
            found = _pools.get(size)
            if found is None or found.process != os.getpid():
                found = _pools[size] = Pool(size)
    return found
