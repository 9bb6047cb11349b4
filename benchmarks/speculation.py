"""Measure what tokens cost that are guessed and then read together, in times of one token.

python benchmarks/speculation.py                             # random weights in two shapes
python benchmarks/speculation.py model.trwkv --threads 1
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks import common, small_chunks

SHAPES = ("12x768", "24x2048")
"""Layers and channels of RWKV-7 with 0.1 and 1.5 billion weights."""


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = common.parser(__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="default: random RWKV-7")
    shapes = f"layers and channels of random models (default: {' '.join(SHAPES)})"
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="LxC", help=shapes)
    parser.add_argument("--vocab", type=int, default=65536, metavar="N", help="default: 65536")
    parser.add_argument("--turns", type=int, default=15, metavar="N", help="default: 15")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    options = arguments(argv)
    about = common.machine(options.threads)
    rows: list[dict[str, Any]] = []
    for path in paths(options):
        for threads in options.threads:
            rows += small_chunks.measure(path, threads, options.turns)
    result = {"machine": about, "small_chunks": rows}
    common.finish("speculation", options, result, small_chunks.table(rows))


def paths(options: argparse.Namespace) -> Iterator[str]:
    """Yield the models to measure; random ones exist until the next is asked for."""
    yield from options.models
    if not options.models:
        for shape in options.shapes:
            layers, width = map(int, shape.split("x"))
            form = {"model": None, "arch": "v7", "dtype": "int8", "vocab": options.vocab}
            one = argparse.Namespace(**form, layers=layers, width=width)
            with common.model_path(one) as path:
                yield path


if __name__ == "__main__":
    common.run(main)
