"""Fork while threads use constraints, and compare what the children generate.

python benchmarks/forks.py                          # 300 forks beside 8 threads, 4 at a time
python benchmarks/forks.py --forks 20 --threads 4

Every thread generates with constraints that it has just made, and prepares others, so that a fork
falls into all that they do. Each child generates with the same constraints as its parent's threads.
A child that has not ended after `--seconds` hangs. The exit status is 1 if one hangs or differs.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import signal
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import tinyrwkv
from tinyrwkv import Choice, JsonSchema, Regex, Sampler
from tinyrwkv.constraints.constraint import Constraint

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 9}},
    "required": ["name"],
}


def new_constraints() -> list[Constraint]:
    """Return constraints that have learned nothing yet."""
    return [
        Regex(" [a-z]{2,9}( [a-z]{2,9}){0,3}"),
        JsonSchema(SCHEMA),
        Choice([f" place number {i}" for i in range(20)]),
    ]


def answers(model: tinyrwkv.Model, constraints: list[Constraint]) -> list[str]:
    """Generate greedily under each constraint."""
    greedy = Sampler(temperature=0)
    return [
        model.generate(
            "User: Hello\n\nAssistant:", sampler=greedy, max_tokens=6, constraint=constraint
        ).text()
        for constraint in constraints
    ]


def child(model: tinyrwkv.Model, shared: list[Constraint], expected: list[str]) -> None:
    """Generate in a forked child, and end it: with status 0 if the answers are as expected."""
    status = 1
    try:
        status = int(answers(model, shared) != expected)
    finally:
        os._exit(status)


def ended(number: int, seconds: float) -> str:
    """Wait for a child; tell whether it was right, differs or hangs."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(number, os.WNOHANG)
        if done:
            return "right" if status == 0 else "different"
        time.sleep(0.005)
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)
    return "hanging"


def main(argv: list[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="default: the bundled one")
    parser.add_argument("--forks", type=int, default=300, metavar="N")
    parser.add_argument("--at-once", type=int, default=4, metavar="N")
    parser.add_argument("--threads", type=int, default=8, metavar="N")
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S")
    options = parser.parse_args(argv)
    model = tinyrwkv.load(options.model)
    expected = answers(model, new_constraints())
    shared = [new_constraints()]
    over = threading.Event()
    wrong: list[int] = []

    def work() -> None:
        while not over.is_set():
            mine = shared[0]
            mine[0].prepare(model, 50)
            if answers(model, mine) != expected:
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(options.threads)]
    for thread in threads:
        thread.start()
    counts = {"right": 0, "different": 0, "hanging": 0}
    for _ in range(0, options.forks, options.at_once):
        shared[0] = new_constraints()  # the threads begin to learn while the forks happen
        numbers = []
        for _ in range(options.at_once):
            time.sleep(0.003)
            number = os.fork()
            if not number:
                child(model, shared[0], expected)
            numbers.append(number)
        for number in numbers:
            counts[ended(number, options.seconds)] += 1
    over.set()
    for thread in threads:
        thread.join()
    print(", ".join(f"{count} {what}" for what, count in counts.items()), end="")
    print(f"; {len(wrong)} different in the threads")
    return int(counts["different"] + counts["hanging"] + len(wrong) > 0)


if __name__ == "__main__":
    sys.exit(main())
