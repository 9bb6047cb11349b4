"""Run a fuzzer in a process of its own, which may die of an input."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import math
import mmap
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinyrwkv.errors import TinyRWKVError

from .fuzzer import Fuzzer, rng_of

ROOT = Path(__file__).resolve().parents[2]

HANG = 2.0
"""Seconds of processor time that an execution may take."""

STANDSTILL = 60.0
"""Seconds that it may take by the clock: something that waits uses no processor time."""

LOOK = 0.2
"""Seconds from one look at a worker's progress to the next."""

MEMORY = 1 << 30
"""Bytes that an execution may allocate: some hundred times what any of the inputs has."""

PROGRESS = "progress"
_PROGRESS = struct.Struct("<3q")  # the execution that runs, how many were read, how many refused


class Failure(NamedTuple):
    """An execution that ended as none may.

    Attributes
    ----------
    index : int
        Its number: with the fuzzer's name and the seed, it gives the input again.
    kind : str
        "death", "hang" or "foreign exception".
    text : str
        What is known about it.
    """

    index: int
    kind: str
    text: str


class Outcome(NamedTuple):
    """What some executions came to.

    Attributes
    ----------
    executions, read, refused : int
    failures : list of Failure
    seconds : float
    """

    executions: int
    read: int
    refused: int
    failures: list[Failure]
    seconds: float


def work(
    name: str,
    fuzzer: Fuzzer,
    seed: int,
    first: int,
    last: int,
    folder: str,
    seconds: float = math.inf,
) -> None:
    """Run executions `first` to `last - 1` in this process; print each failure as JSON.

    None begins after the given seconds. Inputs go into a folder, and the file `PROGRESS` in it
    tells how far this process came.
    """
    faulthandler.enable()
    faulthandler.register(signal.SIGPROF, chain=True)
    warnings.simplefilter("error")
    os.fsync = lambda number: None  # the files of an execution are gone right after it
    _limit_memory()
    counts = {True: 0, False: 0}
    end = time.monotonic() + seconds
    with open(Path(folder, PROGRESS), "r+b") as file, mmap.mmap(file.fileno(), 0) as shared:
        for index in range(first, last):
            if time.monotonic() >= end:
                last = index
                break
            shared[:] = _PROGRESS.pack(index, counts[True], counts[False])
            signal.setitimer(signal.ITIMER_PROF, HANG)  # its signal ends the process
            try:
                counts[once(fuzzer, input_of(name, fuzzer, seed, index), folder)] += 1
            except Exception:
                text = traceback.format_exc()
                print(json.dumps([index, text]), flush=True)
        signal.setitimer(signal.ITIMER_PROF, 0)
        shared[:] = _PROGRESS.pack(last, counts[True], counts[False])


def input_of(name: str, fuzzer: Fuzzer, seed: int, index: int) -> bytes:
    """Return the input of an execution."""
    with np.errstate(all="ignore"):  # it is meant to hold what overflows
        return fuzzer.make(rng_of(name, seed, index))


def once(fuzzer: Fuzzer, data: bytes, folder: str) -> bool:
    """Run one input; tell whether it was read, not refused."""
    try:
        fuzzer.run(data, folder)
    except TinyRWKVError:
        return False
    return True


def _limit_memory() -> None:
    with contextlib.suppress(OSError), open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))


def _fast_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def supervise(name: str, seed: int, first: int, last: int, seconds: float = math.inf) -> Outcome:
    """Run executions in a process, and in another one after each death.

    Parameters
    ----------
    name : str
        Of the fuzzer.
    seed, first, last : int
    seconds : float, optional
        No execution begins after this time.

    Returns
    -------
    Outcome
    """
    begin = time.monotonic()
    read, refused = 0, 0
    failures: list[Failure] = []
    # NumPy's threads use processor time while they wait for a core: that would look like a hang.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(dir=_fast_folder()) as folder:
        progress = Path(folder, PROGRESS)
        while first < last:
            progress.write_bytes(_PROGRESS.pack(first, 0, 0))
            command = [sys.executable, "-m", "tests.fuzz", name, "--worker", folder]
            numbers = ["--seed", str(seed), "--first", str(first), "--count", str(last - first)]
            if seconds < math.inf:
                left = seconds - (time.monotonic() - begin)
                numbers += ["--seconds", str(max(left, 0.001))]  # nothing runs in such a time
            with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as notes:
                process = subprocess.Popen(
                    [*command, *numbers], cwd=ROOT, env=environment, stdout=out, stderr=notes
                )
                stood_still = _wait(process, progress)
                first, more_read, more_refused = _PROGRESS.unpack(progress.read_bytes())
                read += more_read
                refused += more_refused
                failures += _foreign(out)
                if process.returncode == 0:
                    break
                failure = _death(first, process.returncode, stood_still, notes)
                # Threads that wait for each other on a busy machine use processor time too: what
                # took too much of it is tried again, alone.
                is_slow = process.returncode == -signal.SIGPROF
                if is_slow and last - first > 1:
                    again = supervise(name, seed, first, first + 1)
                    read, refused = read + again.read, refused + again.refused
                    failures += again.failures
                else:
                    failures.append(failure)
                first += 1
    executions = read + refused + len(failures)
    return Outcome(executions, read, refused, failures, time.monotonic() - begin)


def _wait(process: subprocess.Popen[bytes], progress: Path) -> bool:
    """Wait for a process; end one that stands still, and tell so."""
    seen, looks = b"", 0
    while looks * LOOK < STANDSTILL:  # looks are counted: both processes may have been stopped
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LOOK)
            return False
        now = progress.read_bytes()
        looks = looks + 1 if now == seen else 0
        seen = now
    process.send_signal(signal.SIGABRT)  # its last words are where each thread stands
    process.wait()
    return True


def _foreign(out: Any) -> list[Failure]:
    out.seek(0)
    lines = [json.loads(line) for line in out.read().splitlines()]
    return [Failure(index, "foreign exception", text) for index, text in lines]


def _death(index: int, status: int, stood_still: bool, notes: Any) -> Failure:
    notes.seek(0)
    text = notes.read().decode("utf-8", "replace")[-4000:]
    if stood_still:
        return Failure(index, "hang", f"no progress for {STANDSTILL} s\n{text}")
    if status == -signal.SIGPROF:
        return Failure(index, "hang", f"more than {HANG} s of processor time\n{text}")
    return Failure(index, "death", f"status {status}\n{text}")
