"""Fuzz a parser: ``python -m tests.fuzz NAME --count N --seed S``; see the folder's fuzzers."""

from __future__ import annotations

import argparse
import math
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import bad
from .targets import FUZZERS
from .worker import Failure, Outcome, input_of, once, supervise, work

USUAL = 10_000
"""Executions of each fuzzer where nobody says how many, nor for how long."""

MOST = 1_000_000_000
"""Executions of each fuzzer where only the time ends them."""


def main() -> int:
    """Run from the command line; the status is 1 if an execution ended as none may."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help=f"{', '.join(FUZZERS)}, or all")
    parser.add_argument("--count", type=int, help=f"executions of each fuzzer ({USUAL:,})")
    parser.add_argument("--seconds", type=float, help="end each fuzzer after this time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--first", type=int, default=0, help="number of the first execution")
    parser.add_argument("--save", metavar="FILE", help="write the first input, and run nothing")
    parser.add_argument("--replay", metavar="FILE", help="run one input from a file, in here")
    parser.add_argument("--worker", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = [*FUZZERS] if options.names == ["all"] else options.names
    known = {**FUZZERS, **bad.FUZZERS}
    for name in names:
        if name not in known:
            parser.error(f"there is no fuzzer {name}, only {', '.join(FUZZERS)}")
    fuzzer = known[names[0]]
    seconds = options.seconds or math.inf
    last = options.first + (options.count or (MOST if options.seconds else USUAL))
    if options.worker:
        work(names[0], fuzzer, options.seed, options.first, last, options.worker, seconds)
        return 0
    if options.save:
        data = input_of(names[0], fuzzer, options.seed, options.first)
        Path(options.save).write_bytes(data)
        return 0
    if options.replay:
        print("read" if once(fuzzer, Path(options.replay).read_bytes(), ".") else "refused")
        return 0
    failed = False
    for name in names:
        outcome = _in_jobs(name, options.seed, options.first, last, options.jobs, seconds)
        failed |= bool(outcome.failures)
        print(summary(name, outcome), flush=True)
        for failure in different(outcome.failures):
            again = f"--seed {options.seed} --first {failure.index} --count 1"
            print(f"\n{failure.kind}: python -m tests.fuzz {name} {again}\n{failure.text}")
    return int(failed)


def _in_jobs(name: str, seed: int, first: int, last: int, jobs: int, seconds: float) -> Outcome:
    """Share executions among processes."""
    cuts = [first + (last - first) * job // jobs for job in range(jobs + 1)]
    with ThreadPoolExecutor(jobs) as pool:
        futures = [
            pool.submit(supervise, name, seed, cuts[job], cuts[job + 1], seconds)
            for job in range(jobs)
        ]
        parts = [future.result() for future in futures]
    return Outcome(
        sum(part.executions for part in parts),
        sum(part.read for part in parts),
        sum(part.refused for part in parts),
        [failure for part in parts for failure in part.failures],
        max(part.seconds for part in parts),
    )


def different(failures: list[Failure]) -> list[Failure]:
    """Return the first of each group of failures that end alike."""
    found: dict[str, Failure] = {}
    for failure in failures:
        found.setdefault(" ".join(failure.text.split()[-12:]), failure)
    return [*found.values()]


def summary(name: str, outcome: Outcome) -> str:
    """Return a line that says what the executions of a fuzzer came to."""
    kinds = [failure.kind for failure in outcome.failures]
    counts = ", ".join(
        f"{kinds.count(kind)} {word}"
        for kind, word in (
            ("death", "deaths"),
            ("hang", "hangs"),
            ("foreign exception", "foreign exceptions"),
        )
    )
    done = f"{outcome.executions:,} executions, {outcome.read:,} read, {outcome.refused:,} refused"
    return f"{name:<12} {done}, {counts}, {outcome.seconds:.1f} s"


if __name__ == "__main__":
    sys.exit(main())
