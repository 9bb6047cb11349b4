"""What all benchmarks share: the machine, the speed of its memory, options, results as JSON."""

from __future__ import annotations

import argparse
import atexit
import functools
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import tinyrwkv
from benchmarks import random_model
from tinyrwkv.engine.reasons import reasons
from tinyrwkv.errors import os_errors
from tinyrwkv.file.output import Kind, new_file
from tinyrwkv.versions.layout import VERSIONS

RESULTS = pathlib.Path(__file__).parent / "results"
STREAM_BYTES = 256 << 20  # many times any cache


def parser(text: str, threads: Sequence[int] = (1, 2)) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    made = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--threads",
        type=int,
        nargs="+",
        default=list(threads),
        metavar="N",
        help=f"default: {threads}",
    )
    made.add_argument("--json", action="store_true", help="print JSON instead of tables")
    made.add_argument("--save", action="store_true", help="write benchmarks/results/NAME.json too")
    return made


def add_model(made: argparse.ArgumentParser) -> None:
    """Add the options that choose a model: a file, or random weights in a shape."""
    made.add_argument(
        "model", nargs="?", metavar="MODEL", help=".trwkv file; random weights by default"
    )
    made.add_argument(
        "--arch", choices=VERSIONS, default="v7", help="of random weights (default: v7)"
    )
    made.add_argument("--layers", type=int, default=12, metavar="N", help="default: 12")
    made.add_argument("--width", type=int, default=768, metavar="N", help="default: 768")
    made.add_argument("--vocab", type=int, default=65536, metavar="N", help="default: 65536")
    made.add_argument(
        "--dtype", choices=("f32", "f16", "int8"), default="int8", help="default: int8"
    )


@contextmanager
def model_path(options: argparse.Namespace) -> Iterator[str]:
    """Give the file that the options ask for; one of random weights is removed afterwards."""
    if options.model is not None:
        yield options.model
        return
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(
            folder, f"{options.arch}-{options.layers}x{options.width}-{options.dtype}.trwkv"
        )
        config = random_model.sizes(options.arch, options.layers, options.width, options.vocab)
        random_model.write(path, config, options.dtype)
        yield path


def machine(threads: Iterable[int] = ()) -> dict[str, Any]:
    """Describe this machine and the speed of its memory; warn if it is busy."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 0.3:
        print(
            f"warning: the load average is {load:.1f}: other work slows these figures",
            file=sys.stderr,
        )
    named = {
        name: os.environ[name]
        for name in os.environ
        if re.match("OPENBLAS_|OMP_|MKL_|TINYRWKV_", name)
    }
    return {
        **{
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_bytes": _memory(),
            "load_average": round(load, 2),
        },
        **{
            "system": platform.platform(),
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
        **{"tinyrwkv": tinyrwkv.__version__, "backends": reasons(), "environment": named},
        "stream_gb_s": {str(n): round(stream_read(n) / 1e9, 2) for n in threads},
    }


def _processor() -> str:
    with suppress(OSError):
        text = pathlib.Path("/proc/cpuinfo").read_text()
        if found := re.search(r"^(?:model name|Hardware|Model)\s*:\s*(.+)$", text, re.MULTILINE):
            return found[1]
    return platform.processor() or platform.machine()


def _memory() -> int | None:
    with suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


@functools.cache
def environment() -> dict[str, str]:
    """Return the environment of a process to be measured.

    It finds all modules compiled, as an installed package has them.
    """
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    root = str(pathlib.Path(__file__).resolve().parent.parent)
    made = {**os.environ, "PYTHONPATH": root, "PYTHONPYCACHEPREFIX": folder.name}
    made.pop("PYTHONDONTWRITEBYTECODE", None)
    code = "import tinyrwkv.engine.numpy_backend; from tinyrwkv.cli import cli; cli.main(['chat'])"
    subprocess.run(
        [sys.executable, "-c", code],
        env=made,
        input="Hello\n",
        text=True,
        capture_output=True,
        check=True,
    )
    return made


def stream_read(threads: int, repeat: int = 5) -> float:
    """Return the bytes a second that threads read together: NumPy's sum of whole numbers."""
    parts = [np.ones(STREAM_BYTES // 8 // threads, np.int64) for _ in range(threads)]
    best = float("inf")
    for _ in range(repeat):
        workers = [threading.Thread(target=part.sum) for part in parts[1:]]
        begin = time.perf_counter()
        for worker in workers:
            worker.start()
        parts[0].sum()
        for worker in workers:
            worker.join()
        best = min(best, time.perf_counter() - begin)
    return sum(part.nbytes for part in parts) / best


def run(main: Callable[[], None]) -> None:
    """Run a benchmark; what the project refuses ends it with one line."""
    try:
        main()
    except tinyrwkv.TinyRWKVError as error:
        sys.exit(str(error))


def table(rows: Sequence[Sequence[Any]], head: Sequence[str]) -> str:
    """Return rows under a head in aligned columns; numbers with one decimal."""
    texts = [
        [f"{x:.1f}" if isinstance(x, float) else "-" if x is None else str(x) for x in row]
        for row in [head, *rows]
    ]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return "\n".join(
        "  ".join(
            text.ljust(n) if i == 0 else text.rjust(n)
            for i, (text, n) in enumerate(zip(row, widths, strict=True))
        )
        for row in texts
    )


def finish(name: str, options: argparse.Namespace, result: dict[str, Any], text: str) -> None:
    """Print a result as the options ask, and save it."""
    plain = json.dumps(result, indent=1)
    about = result["machine"]
    stream = ", ".join(
        f"{speed} GB/s with {n} thread{'s' * (n != '1')}"
        for n, speed in about["stream_gb_s"].items()
    )
    head = f"{about['processor']}, {about['cores']} cores, "
    head += f"Python {about['python']}, NumPy {about['numpy']}\n"
    head += f"native: {about['backends']['native']}\n"
    if stream:
        head += f"stream read: {stream}\n"
    print(plain if options.json else f"{head}\n{text}")
    if options.save:
        save(name, result)


def _is_result(path: str) -> bool:
    with suppress(ValueError, RecursionError):
        return "machine" in json.loads(pathlib.Path(path).read_bytes())
    return False


RESULT = Kind("the result of a benchmark", _is_result)


def save(name: str, result: dict[str, Any]) -> None:
    """Write a result to its file in `RESULTS`."""
    RESULTS.mkdir(exist_ok=True)
    path = str(RESULTS / f"{name}.json")
    with new_file(path, RESULT) as file, os_errors(path, "write"):
        file.write(json.dumps(result, indent=1).encode() + b"\n")
