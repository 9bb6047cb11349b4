"""Change one bound at a time in a copy of the project, and see the tests fail.

``python .ci/mutants.py`` takes all changes of ``mutants.csv``, ``python .ci/mutants.py kernels``
those of one group. Each must make a test that the table names fail. The exit status is 1 if the
tests pass with one of them, or if the text that it changes is no longer there exactly once.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TABLE = Path(__file__).with_suffix(".csv")

SECONDS = 900
"""Tests that take longer than this count as failed: a bound that is off may end no loop."""

LEFT_OUT = (".*", "__pycache__", "build", "dist", "site", "*.egg-info")


class Mutant(NamedTuple):
    """A change that some test must notice.

    Attributes
    ----------
    group : str
        "kernels" or "parsers".
    file : str
        Its path in the project.
    old, new : str
        Text that stands in the file once, and what takes its place.
    tests : str
        The arguments of pytest, separated by spaces.
    """

    group: str
    file: str
    old: str
    new: str
    tests: str


def mutants(table: Path = TABLE) -> list[Mutant]:
    """Return the rows of the table."""
    with table.open(encoding="utf-8", newline="") as rows:
        return [Mutant(**row) for row in csv.DictReader(rows)]


def lost(root: Path, mutant: Mutant) -> str:
    """Return why a mutant cannot be made of the sources, or ""."""
    found = (root / mutant.file).read_text("utf-8").count(mutant.old)
    return "" if found == 1 else f"{mutant.file} has {found} times: {mutant.old}"


def passes(copy: Path, tests: str) -> bool:
    """Tell whether tests of a copy pass; raise an error if they did not run."""
    with tempfile.TemporaryDirectory() as cache:
        settings = {"PYTHONDONTWRITEBYTECODE": "1", "NUMBA_CACHE_DIR": cache}
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        # The tests of objects compiled ahead would all be left out: their sources have changed.
        command += ["--hypothesis-seed=0", "-k", "not native", *tests.split()]
        try:
            done = subprocess.run(
                command,
                cwd=copy,
                env=os.environ | settings,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired:
            return False
    if done.returncode > 1:  # below 0: a crash
        raise RuntimeError(f"the tests did not run:\n{done.stdout}{done.stderr}")
    return done.returncode == 0


def survives(copy: Path, mutant: Mutant) -> bool:
    """Tell whether the tests of a copy pass with a mutant; leave the copy as it was."""
    path = copy / mutant.file
    source = path.read_text("utf-8")
    path.write_text(source.replace(mutant.old, mutant.new), "utf-8")
    try:
        return passes(copy, mutant.tests)
    finally:
        path.write_text(source, "utf-8")


def results(copy: Path, chosen: list[Mutant]) -> Iterator[tuple[Mutant, str]]:
    """Yield each mutant with "killed", or with what is wrong."""
    sound: dict[str, bool] = {}
    for mutant in chosen:
        if told := lost(copy, mutant):
            yield mutant, f"LOST: {told}"
            continue
        if mutant.tests not in sound:
            sound[mutant.tests] = passes(copy, mutant.tests)
        if not sound[mutant.tests]:
            yield mutant, "its tests FAIL without it"
        else:
            yield mutant, "SURVIVED" if survives(copy, mutant) else "killed"


def main(groups: list[str]) -> int:
    """Print what became of each mutant; return 1 if one was not killed."""
    chosen = [mutant for mutant in mutants() if not groups or mutant.group in groups]
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "project")
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
        began = time.monotonic()
        for mutant, result in results(copy, chosen):
            took, began = time.monotonic() - began, time.monotonic()
            failed += result != "killed"
            print(f"{result:9}{took:5.0f} s  {mutant.file}: {mutant.old} -> {mutant.new}")
            sys.stdout.flush()
    print(f"{len(chosen) - failed} of {len(chosen)} mutants killed")
    return int(failed > 0 or not chosen)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
