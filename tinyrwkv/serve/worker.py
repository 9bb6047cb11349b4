"""The thread of the model: all answers under way take turns in it."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Generator

from ..errors import TinyRWKVError
from .job import Job
from .refusal import Refusal, ending, failure

LOG = logging.getLogger(__name__)


class Worker:
    """Takes the turns of jobs, one after the other, each job in its turn.

    Any thread may call the methods.
    """

    def __init__(self) -> None:
        self._jobs: deque[tuple[Job, Generator[None, None, None]]] = deque()
        self._changed = threading.Condition()
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
        with self._changed:
            if self._ending:
                raise ending()
            self._jobs.append((job, job.turns()))
            self._changed.notify()

    def close(self) -> None:
        """End all jobs; each is told that the server is ending. The thread ends by itself."""
        with self._changed:
            self._ending = True
            for job, _ in self._jobs:
                job.cancel()
            self._changed.notify()

    def join(self) -> None:
        """Wait for the end of the thread."""
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._ending)
                if self._ending:
                    left = list(self._jobs)
                    break
                # It stays first in the row until its turn is over, so that `close` finds it.
                job, turns = self._jobs[0]
            goes_on = _take_turn(job, turns)
            with self._changed:
                self._jobs.rotate(-1)
                if not goes_on:
                    self._jobs.pop()
                    if self._ending:
                        job.tell(ending())
        for job, turns in left:
            turns.close()
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
