"""Kill conversions at random moments, and count what they leave.

``python -m tests.kills --count 200 --lite 60`` does it to plain conversions and to those of all
techniques. Each conversion runs in a process of its own, which SIGKILL ends at a moment between its
begin and a little after its usual end. The next one begins where it was left. After each, the file
under the final name is loaded, or missing as before. After the last one, a conversion runs to its
end, and nothing but its output may be left. The status is 1 if anything is broken or left.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import tinyrwkv
from converters.compress.compress import compress
from converters.compress.options import Options
from converters.write.convert import convert
from tests.helpers.conversions import write_files
from tinyrwkv.errors import TinyRWKVError

LITE = Options(rank_budget=0.7, whiten=True, sparse_ffn="predict", keep=0.3, head="preview")


class Count(NamedTuple):
    """What some conversions came to.

    Attributes
    ----------
    killed : int
        Conversions that were killed before their end; the others were quicker.
    with_litter : int
        Kills that left temporary files or folders, which is right.
    broken : int
        Files under the final name that do not load.
    litter : int
        Files and folders that a complete conversion afterwards did not remove.
    """

    killed: int
    with_litter: int
    broken: int
    litter: int


def kill(convert_once: Callable[[], object], output: Path, count: int, seed: int) -> Count:
    """Kill conversions at random moments.

    Parameters
    ----------
    convert_once : callable
    output : Path
        What it writes, in a folder that has nothing else that changes.
    count : int
    seed : int
    """
    chance = random.Random(seed)
    convert_once()
    names = set(os.listdir(output.parent))
    seconds = _seconds(convert_once)
    output.unlink()
    killed = with_litter = broken = 0
    for number in range(count):
        process = _begin(convert_once)
        process.join(chance.uniform(0, 1.1) * seconds)
        process.kill()
        process.join()
        killed += process.exitcode != 0
        with_litter += not set(os.listdir(output.parent)) <= names
        broken += not _is_whole(output)
        if number % 3 == 0:  # in turn with and without an older file
            output.unlink(missing_ok=True)
    convert_once()
    broken += not _is_whole(output)
    litter = len(set(os.listdir(output.parent)) - names)
    return Count(killed, with_litter, broken, litter)


def _begin(work: Callable[[], object]) -> multiprocessing.context.ForkProcess:
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def _seconds(work: Callable[[], object]) -> float:
    begin = time.monotonic()
    _begin(work).join()
    return time.monotonic() - begin


def _is_whole(path: Path) -> bool:
    if not path.exists():
        return True
    try:
        with tinyrwkv.load(path, backend="numpy", verify=True) as model:
            model.forward([0])
    except TinyRWKVError:
        return False
    return True


def plain(folder: Path, count: int, seed: int) -> Count:
    """Kill plain conversions of a small random checkpoint."""
    files = write_files(folder)
    output = Path(files["out.trwkv"])
    arguments = (files["model.pth"], output, "int8", files["vocab.txt"])
    return kill(lambda: convert(*arguments), output, count, seed)


def lite(folder: Path, count: int, seed: int) -> Count:
    """Kill conversions with all techniques."""
    files = write_files(folder)
    output = Path(files["out.trwkv"])
    texts = {"vocab": files["vocab.txt"], "calibrate": files["text.txt"]}
    report = folder / "a.html"
    return kill(
        lambda: compress(files["model.pth"], output, LITE, report=report, **texts),
        output,
        count,
        seed,
    )


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=200, metavar="N", help="plain conversions")
    parser.add_argument("--lite", type=int, default=60, metavar="N", help="lite conversions")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    options = parser.parse_args()
    status = 0
    for name, run, count in (("plain", plain, options.count), ("lite", lite, options.lite)):
        with tempfile.TemporaryDirectory() as folder:
            found = run(Path(folder), count, options.seed)
        status |= bool(found.broken or found.litter)
        print(
            f"{name}: {count} conversions, {found.killed} killed, {found.with_litter} left files; "
            f"{found.broken} broken under the final name, {found.litter} left after the next run"
        )
    return status


if __name__ == "__main__":
    sys.exit(main())
