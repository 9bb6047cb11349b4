"""Measure tokens a second: one by one (decode), and of a prompt (prefill).

python benchmarks/tokens.py model.trwkv
python benchmarks/tokens.py --arch v7 --layers 12 --width 768 --backend native numba numpy
python benchmarks/tokens.py tinyrwkv/models/default.trwkv      # the bundled model

"generate" is what a program gets that takes the pieces of `generate` one by one, at temperature 0
and with log-probabilities. All backends and numbers of threads take turns in one process, so that
other work on the machine meets all of them alike. The limit is the time to read a token's weights
once, at the speed of memory measured in the same run.
"""

from __future__ import annotations

import argparse
import math
import pathlib
import statistics
import sys
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import tinyrwkv
from benchmarks import common


class Run:
    """A model with one backend and number of threads, and its times."""

    def __init__(self, path: str, backend: str, threads: int) -> None:
        self.model = tinyrwkv.load(path, backend=backend, threads=threads)
        self.latencies: list[float] = []
        self.prefills: list[float] = []
        self.generations: list[float] = []
        self.vocab = self.model.config["vocab_size"]
        self.state = self.model.forward([1 % self.vocab])[1]  # the first token reads the file in

    def turn(self, tokens: int, prompt: int) -> None:
        """Read tokens one by one, then a prompt; generate as many tokens."""
        for i in range(tokens):
            begin = time.perf_counter()
            _, self.state = self.model.forward(i * 7919 % self.vocab, self.state)
            self.latencies.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        self.model.forward([i * 7919 % self.vocab for i in range(prompt)])
        self.prefills.append(prompt / (time.perf_counter() - begin))
        greedy = tinyrwkv.Sampler(
            temperature=0, logit_bias={tinyrwkv.generate.END_OF_DOCUMENT: -math.inf}
        )
        generation = self.model.generate(
            [1 % self.vocab], sampler=greedy, max_tokens=tokens + 1, lookup=False
        )
        next(generation)  # it read the prompt
        begin = time.perf_counter()
        made = sum(1 for _ in generation)
        self.generations.append(made / (time.perf_counter() - begin))

    def report(self, stream: dict[str, float]) -> dict[str, Any]:
        """Return the medians, the speed of the fastest tenth, and the share of memory's speed."""
        threads, touched = self.model.backend.threads, self.model.plan()["touched_bytes_per_token"]
        median = statistics.median(self.latencies)
        fast = sorted(self.latencies)[len(self.latencies) // 10]
        return {
            "backend": self.model.backend.name,
            "threads": threads,
            "touched_bytes_per_token": touched,
            "decode_tok_s": round(1 / median, 2),
            "decode_p10_tok_s": round(1 / fast, 2),
            "prefill_tok_s": round(statistics.median(self.prefills), 2),
            "gb_s": round(touched / median / 1e9, 2),
            "generate_tok_s": round(statistics.median(self.generations), 2),
            "of_stream": round(touched / median / 1e9 / stream[str(threads)], 6),
        }


COLUMNS = {
    "backend": "",
    "threads": "threads",
    "decode_tok_s": "decode tok/s",
    "decode_p10_tok_s": "p10",
    "generate_tok_s": "generate",
    "prefill_tok_s": "prefill",
    "gb_s": "GB/s",
    "of_stream": "of stream",
}
"""The columns of the table: what of a report they show, and their titles."""


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = common.parser(__doc__)
    common.add_model(parser)
    backends = "native, numba, numpy (default: the best here)"
    parser.add_argument("--backend", nargs="+", default=["auto"], help=backends)
    numbers = {"tokens": (32, "to decode in a turn "), "prompt": (256, "tokens of the prompt ")}
    for name, (usual, text) in numbers.items():
        told = f"{text}(default: {usual})"
        parser.add_argument(f"--{name}", type=int, default=usual, metavar="N", help=told)
    parser.add_argument("--turns", type=int, default=5, metavar="N", help="default: 5")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    options = arguments(argv)
    about = common.machine(options.threads)
    with common.model_path(options) as path:
        # NumPy's products have no threads of ours.
        runs = [
            Run(path, name, threads)
            for name in options.backend
            for threads in options.threads
            if name != "numpy" or threads == 1
        ]
        for _ in range(options.turns):
            for run in runs:
                run.turn(options.tokens, options.prompt)
        reports = [run.report(about["stream_gb_s"]) for run in runs]
        config = runs[0].model.config
    sizes = {
        "model": pathlib.Path(path).name,
        "arch": config["arch"],
        "dtype": config["dtype"],
    }
    titles = {**COLUMNS, "backend": sizes["model"], "prefill_tok_s": f"prefill {options.prompt}"}
    rows = [row(report) for report in reports]
    result = {"machine": about, **sizes, "runs": reports}
    common.finish("tokens", options, result, common.table(rows, tuple(titles.values())))


def row(report: dict[str, Any]) -> tuple[Any, ...]:
    """Return the row of the table for one report."""
    shown = {**report, "of_stream": f"{100 * report['of_stream']:.0f} %"}
    return tuple(shown[key] for key in COLUMNS)


if __name__ == "__main__":
    common.run(main)
