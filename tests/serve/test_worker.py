"""The thread in which answers take turns, and the places for requests."""

from __future__ import annotations

import logging
import queue
from collections.abc import Generator
from typing import Any

import pytest

from tinyrwkv.errors import TinyRWKVError
from tinyrwkv.serve.places import Places
from tinyrwkv.serve.refusal import Refusal, wrong
from tinyrwkv.serve.worker import Worker


class Counting:
    """A job that counts its turns, and then does something else."""

    def __init__(self, turns: int, end: Exception | None = None) -> None:
        self.told: queue.Queue[Any] = queue.Queue()
        self.tell = self.told.put
        self.cancelled = False
        self._turns = turns
        self._end = end

    def cancel(self) -> None:
        self.cancelled = True

    def turns(self) -> Generator[None, None, None]:
        for number in range(self._turns):
            self.tell(number)
            yield
        if self._end is not None:
            raise self._end


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TinyRWKVError("m", "logits", "nan", "numbers", "verify the file"), 500),
        (ZeroDivisionError("secret"), 500),
        (wrong("seed", 1, "2"), 400),
    ],
)
def test_a_job_that_fails_says_so_and_the_others_go_on(
    error: Exception, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker()
    failing, other = Counting(2, error), Counting(4)
    with caplog.at_level(logging.ERROR):
        for job in (failing, other):
            worker.start(job)  # type: ignore[arg-type]
        assert [other.told.get(timeout=10) for _ in range(4)] == [0, 1, 2, 3]
    assert [failing.told.get(timeout=10) for _ in range(2)] == [0, 1]
    refusal = failing.told.get(timeout=10)
    assert isinstance(refusal, Refusal) and refusal.status == status
    assert "secret" not in str(refusal.body)
    assert bool(caplog.records) == (status == 500)
    worker.close()
    worker.join()


def test_all_are_told_that_the_server_ends() -> None:
    worker = Worker()
    jobs = [Counting(10**9), Counting(10**9)]
    for job in jobs:
        worker.start(job)  # type: ignore[arg-type]
    for job in jobs:
        assert job.told.get(timeout=10) == 0
    worker.close()
    worker.join()
    for job in jobs:
        assert job.cancelled
        last = [job.told.get() for _ in range(job.told.qsize())][-1]
        assert isinstance(last, Refusal) and last.status == 503
    with pytest.raises(Refusal, match="ending"):
        worker.start(Counting(1))  # type: ignore[arg-type]


def test_there_are_so_many_places() -> None:
    places = Places(2, 503, "too many")
    with places.one():
        with pytest.raises(ValueError, match="x"), places.one():
            raise ValueError("x")
        with places.one(), pytest.raises(Refusal, match="too many") as told, places.one():
            pass
    assert (told.value.status, places.taken) == (503, 0)
    assert int(told.value.headers["Retry-After"]) > 0
