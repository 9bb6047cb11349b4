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
from tinyrwkv.engine.backends import HEAD_OF_ALL, Workspace
from tinyrwkv.kernels import abi


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
    texts = []
    for run in runs:
        rows = [
            (
                row["kind"],
                row["count"],
                row["us"],
                row["us"] / row["count"],
                row["gb_s"],
                row["gmac_s"],
            )
            for row in run["kinds"]
        ]
        head = (
            f"{run['backend']}, {run['threads']} threads",
            "count",
            "us",
            "us each",
            "GB/s",
            "GMAC/s",
        )
        texts.append(
            common.table(rows, head)
            + f"\nall: {run['us'] / 1e3:.2f} ms, a call: {run['call_us']:.1f} us"
        )
    common.finish(
        "kernels",
        options,
        {"machine": about, "tokens": options.tokens, "runs": runs},
        "\n\n".join(texts),
    )


def measure(path: str, options: argparse.Namespace, threads: int) -> dict[str, Any]:
    """Return the times of a model's operations, summed by kind, the slowest first."""
    model = tinyrwkv.load(path, backend=options.backend, threads=threads)
    times, call = operation_times(model, options.tokens, options.repeat)
    kinds: dict[str, dict[str, Any]] = {}
    for row, touched, seconds in zip(model.program.rows, model.parts.touched, times, strict=True):
        kind = kinds.setdefault(
            name_of(row), {"kind": name_of(row), "count": 0, "us": 0.0, "bytes": 0, "macs": 0}
        )
        kind["count"] += 1
        kind["us"] += seconds * 1e6
        kind["bytes"] += touched
        kind["macs"] += macs(row) * options.tokens
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
        model.backend.run(workspace, first, last, ids, old, new, out, HEAD_OF_ALL)
        return time.perf_counter() - begin

    call = min(seconds(0, 0) for _ in range(100))
    best = [float("inf")] * len(model.program.rows)
    for _ in range(repeat):
        best = [min(time, seconds(i, i + 1)) for i, time in enumerate(best)]
    return [max(time - call, 0.0) for time in best], call


def fields(row: list[int]) -> dict[str, int]:
    """Return the fields of an operation by name."""
    return dict(zip(abi.FIELDS[row[0]], row[1:], strict=False))


def name_of(row: list[int]) -> str:
    """Return the kind of an operation; products with their shape."""
    field, name = fields(row), abi.NAMES[row[0]]
    return (
        f"{name} {field['units'] * field['unit']}x{field['cols']}" if row[0] == abi.MATMUL else name
    )


def macs(row: list[int]) -> int:
    """Return the multiply-adds of a product for one token; of others they do not matter."""
    field = fields(row)
    return field["units"] * field["unit"] * field["cols"] if row[0] == abi.MATMUL else 0


if __name__ == "__main__":
    common.run(main)
