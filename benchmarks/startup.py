"""Measure how long it takes to start: Python, NumPy, tinyrwkv, and the first token.

python benchmarks/startup.py model.trwkv --repeat 20

Every step is a process of its own. They take turns, and the medians count. The model file is in the
page cache.
"""

from __future__ import annotations

import pathlib
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks import common

LOAD = "import sys, tinyrwkv; model = tinyrwkv.load(sys.argv[1], backend=sys.argv[2])"

STEPS = {
    "python": "pass",
    "numpy": "import numpy",
    "tinyrwkv": "import tinyrwkv",
    "load": LOAD,
    "first token": f"{LOAD}; model.forward([0])",
}


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = common.parser(__doc__, threads=())
    common.add_model(parser)
    parser.add_argument(
        "--backend",
        nargs="+",
        default=["auto"],
        help="native, numba, numpy (default: the best here)",
    )
    parser.add_argument("--repeat", type=int, default=11, metavar="N", help="default: 11")
    options = parser.parse_args(argv)
    about = common.machine()
    with common.model_path(options) as path:
        steps = [(name, "") for name in ("python", "numpy", "tinyrwkv")]
        steps += [
            (name, backend) for backend in options.backend for name in ("load", "first token")
        ]
        times: dict[tuple[str, str], list[float]] = {step: [] for step in steps}
        for turn in range(options.repeat + 1):
            for step in steps:
                seconds = process(STEPS[step[0]], path, step[1])
                if turn:  # the first turn reads files in and fills caches
                    times[step].append(seconds)
    medians = {step: statistics.median(found) for step, found in times.items()}
    result = {
        f"{name} {backend}".strip(): round(seconds, 4)
        for (name, backend), seconds in medians.items()
    }
    beyond = medians["tinyrwkv", ""] - medians["numpy", ""]
    rows = [(name, seconds * 1e3) for name, seconds in result.items()]
    text = common.table(rows, ("from the start of the process", "ms"))
    text += f"\nimport tinyrwkv, beyond NumPy's own: {beyond * 1e3:.1f} ms"
    report = {"machine": about, "seconds": result, "import_beyond_numpy_s": round(beyond, 4)}
    common.finish("startup", options, report, text)


def process(code: str, *arguments: str) -> float:
    """Return the seconds of a whole process."""
    environment = common.environment()
    begin = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - begin
    if ended.returncode:
        raise SystemExit(ended.stderr.strip().splitlines()[-1])
    return seconds


if __name__ == "__main__":
    common.run(main)
