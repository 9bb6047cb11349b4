"""Time each kind of operation by itself, to see which is far from the speed of the memory.

python benchmarks/kernels.py model.trwkv
python benchmarks/kernels.py --arch v6 --tokens 16     # as a prompt is read

Each operation runs alone, many times. Its best time counts, less the time of a call that does
nothing. Small operations then find their weights in a cache and can beat the memory. All of them
together cannot.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import time
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import tinyrwkv
from benchmarks import common
from tinyrwkv.engine.workspace import Workspace
from tinyrwkv.kernels import abi
from tinyrwkv.program.operations import Operation


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = common.parser(__doc__, threads=(1,))
    common.add_model(parser)
    parser.add_argument(
        "--backend", default="auto", help="native, numba or numpy (default: the best here)"
    )
    parser.add_argument(
        "--tokens", type=int, default=1, metavar="N", help="tokens at once, 1 to 16 (default: 1)"
    )
    parser.add_argument("--repeat", type=int, default=15, metavar="N", help="default: 15")
    options = parser.parse_args(argv)
    about = common.machine(options.threads)
    with common.model_path(options) as path:
        runs = [measure(path, options, threads) for threads in options.threads]
    texts = [table(run) for run in runs]
    common.finish(
        "kernels",
        options,
        {"machine": about, "tokens": options.tokens, "runs": runs},
        "\n\n".join(texts),
    )


def table(run: dict[str, Any]) -> str:
    """Return the times of a run as text."""
    columns = ("kind", "count", "us", "each", "gb_s", "gmac_s")
    rows = []
    for kind in run["kinds"]:
        each = kind["us"] / kind["count"]
        rows.append(tuple((kind | {"each": each})[column] for column in columns))
    name = f"{run['backend']}, {run['threads']} threads"
    head = (name, "count", "us", "us each", "GB/s", "GMAC/s")
    total = f"all: {run['us'] / 1e3:.2f} ms, a call: {run['call_us']:.1f} us"
    return f"{common.table(rows, head)}\n{total}"


def measure(path: str, options: argparse.Namespace, threads: int) -> dict[str, Any]:
    """Return the times of a model's operations, summed by kind, the slowest first."""
    model = tinyrwkv.load(path, backend=options.backend, threads=threads)
    times, call = operation_times(model, options.tokens, options.repeat)
    kinds: dict[str, dict[str, Any]] = {}
    operations, touched = model.program.operations, model.steps.touched
    for operation, size, seconds in zip(operations, touched, times, strict=True):
        name = name_of(operation)
        empty = {"kind": name, "count": 0, "us": 0.0, "bytes": 0, "macs": 0}
        kind = kinds.setdefault(name, empty)
        kind["count"] += 1
        kind["us"] += seconds * 1e6
        kind["bytes"] += size
        kind["macs"] += macs(operation) * options.tokens
    for kind in kinds.values():
        microseconds = max(kind["us"], 1e-3)
        kind["gb_s"] = round(kind["bytes"] / microseconds / 1e3, 2)
        kind["gmac_s"] = round(kind["macs"] / microseconds / 1e3, 2) if kind["macs"] else None
    listed = sorted(kinds.values(), key=lambda kind: -kind["us"])
    return {
        **{"backend": model.backend.name, "threads": threads, "kinds": listed},
        **{"us": sum(kind["us"] for kind in listed), "call_us": call * 1e6},
    }


def operation_times(model: tinyrwkv.Model, tokens: int, repeat: int) -> tuple[list[float], float]:
    """Return the best seconds of each operation of a program, and of a call that does nothing."""
    workspace = Workspace(model.program, model.backend.threads)
    ids, old = np.arange(tokens, dtype=np.int32), model.new_state().data
    new, out = old.copy(), np.zeros((tokens, model.config["vocab_size"]), np.float32)

    def seconds(first: int, last: int) -> float:
        begin = time.perf_counter()
        model.backend.run(workspace, first, last, ids, old, new, out, abi.HEAD_OF_ALL)
        return time.perf_counter() - begin

    call = min(seconds(0, 0) for _ in range(100))
    best = [float("inf")] * len(model.program.operations)
    for _ in range(repeat):
        best = [min(time, seconds(i, i + 1)) for i, time in enumerate(best)]
    return [max(time - call, 0.0) for time in best], call


def name_of(operation: Operation) -> str:
    """Return the kind of an operation; products with their shape."""
    name, fields = abi.NAMES[operation.opcode], operation.fields
    if operation.opcode != abi.MATMUL:
        return name
    return f"{name} {fields.units * fields.unit}x{fields.cols}"


def macs(operation: Operation) -> int:
    """Return the multiply-adds of a product for one token; of others they do not matter."""
    fields = operation.fields
    if operation.opcode != abi.MATMUL:
        return 0
    return int(fields.units * fields.unit * fields.cols)


if __name__ == "__main__":
    common.run(main)
