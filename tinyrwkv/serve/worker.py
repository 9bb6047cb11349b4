"""The thread of the model: all answers under way take turns in it."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Generator
from queue import SimpleQueue

from ..errors import TinyRWKVError
from .job import Job
from .refusal import Refusal, ending, failure

LOG = logging.getLogger(__name__)


class Worker:
    """Takes the turns of jobs, one after the other, each job in its turn.

    Any thread may call the methods.
    """

    def __init__(self) -> None:
        # This queue wakes a thread 40 microseconds earlier than a `threading.Condition`.
        self._new: SimpleQueue[Job | None] = SimpleQueue()
        self._under_way: set[Job] = set()
        self._lock = threading.Lock()  # for the two others
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="tinyrwkv-model", daemon=True)
        self._thread.start()

    def start(self, job: Job) -> None:
        """Let a job take turns from now on.

        Raises
        ------
        Refusal
            The server is ending.
        """
        with self._lock:
            if self._ending:
                raise ending()
            self._under_way.add(job)
        self._new.put(job)

    def close(self) -> None:
        """End all jobs; each is told that the server is ending. The thread ends by itself."""
        with self._lock:
            self._ending = True
            for job in self._under_way:
                job.cancel()
        self._new.put(None)  # the thread may wait for a job

    def join(self) -> None:
        """Wait for the end of the thread."""
        self._thread.join()

    def _run(self) -> None:
        row: deque[tuple[Job, Generator[None, None, None]]] = deque()
        while not self._ending:
            if not row or not self._new.empty():
                new = self._new.get()
                if new is not None:
                    row.append((new, new.turns()))
                continue
            job, turns = row.popleft()
            if _take_turn(job, turns):
                row.append((job, turns))
                continue
            with self._lock:
                if not self._ending:  # otherwise it was cancelled, and is told so below
                    self._under_way.remove(job)
        for _, turns in row:
            turns.close()
        for job in self._under_way:
            job.tell(ending())


def _take_turn(job: Job, turns: Generator[None, None, None]) -> bool:
    """Take one turn; tell whether there are more."""
    try:
        next(turns)
        return True
    except StopIteration:
        return False
    except Refusal as refusal:
        job.tell(refusal)
    except TinyRWKVError as error:
        LOG.error("cannot go on with an answer: %s", error)
        job.tell(failure())
    except Exception:
        LOG.exception("an answer has failed")
        job.tell(failure())
    return False
