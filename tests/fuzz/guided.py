"""Fuzz a parser by the lines that it runs: ``python -m tests.fuzz.guided NAME --seconds N``.

The fuzzers of this folder draw what they write from random numbers. Here these numbers come from
atheris (``pip install atheris``), which keeps those that make the parser run lines that it never
ran before, and changes them further. An input that ends as none may is printed with its traceback;
``--again FILE`` runs one that atheris has written.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path


class FedRandom(random.Random):
    """Random numbers out of given bytes; after their end, those of a seed that the bytes make."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._data = data
        self._place = 0

    def getrandbits(self, k: int) -> int:
        """Return a number of k bits."""
        count = -(-k // 8)
        taken = self._data[self._place : self._place + count]
        if len(taken) < count:
            return super().getrandbits(k)
        self._place += count
        return int.from_bytes(taken, "little") & ((1 << k) - 1)

    def random(self) -> float:
        """Return a number from 0 up to 1."""
        return self.getrandbits(53) / (1 << 53)


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; the status is not 0 if an execution ended as none may."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.guided", description=__doc__)
    parser.add_argument("name", metavar="NAME", help="as python -m tests.fuzz --help lists them")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--again", metavar="FILE", help="run what atheris has written, and no more")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    try:
        import atheris
    except ImportError:
        parser.error("atheris is not installed: pip install atheris")
    if options.folder is None:  # atheris ends its process, so another one must tidy up
        with tempfile.TemporaryDirectory() as folder:
            again = ["--again", options.again] if options.again else []
            command = [sys.executable, "-m", "tests.fuzz.guided", options.name, *again]
            command += ["--seconds", f"{options.seconds}", "--folder", folder]
            return subprocess.call(command)
    with atheris.instrument_imports(include=["tinyrwkv", "converters"]):
        from . import bad
        from .targets import FUZZERS
        from .worker import once
    known = {**FUZZERS, **bad.FUZZERS}
    if options.name not in known:
        parser.error(f"there is no fuzzer {options.name}, only {', '.join(FUZZERS)}")
    fuzzer = known[options.name]

    def run(data: bytes) -> None:
        once(fuzzer, fuzzer.make(FedRandom(data)), options.folder)

    if options.again:
        run(Path(options.again).read_bytes())
        return 0
    limits = [f"-max_total_time={options.seconds}", "-timeout=10", "-max_len=4096"]
    atheris.Setup([sys.argv[0], *limits, "-verbosity=0", "-print_final_stats=1"], run)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
