"""Measure tokens a second: one by one (decode), and of a prompt (prefill).

python benchmarks/tokens.py model.trwkv
python benchmarks/tokens.py --arch v7 --layers 12 --width 768 --backend native numba numpy
python benchmarks/tokens.py tinyrwkv/models/default.trwkv      # the bundled model

"generate" is what a program gets that takes the pieces of `generate` one by one, with temperature 0 and with their
log-probabilities.
All backends and numbers of threads take turns in one process, so that what else the machine does meets all of them
alike. The limit is the time to read a token's weights once, at the speed of memory measured in the same run.
"""

from __future__ import annotations

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
        generation = self.model.generate([1 % self.vocab], sampler=greedy, max_tokens=tokens + 1)
        next(generation)  # it read the prompt
        begin = time.perf_counter()
        made = sum(1 for _ in generation)
        self.generations.append(made / (time.perf_counter() - begin))

    def report(self, stream: dict[str, float]) -> dict[str, Any]:
        """Return the medians, and the speed of the fastest tenth of the tokens, by what the memory allows."""
        threads, touched = self.model.backend.threads, self.model.plan()["touched_bytes_per_token"]
        median = statistics.median(self.latencies)
        fast = sorted(self.latencies)[len(self.latencies) // 10]
        return {
            **{
                "backend": self.model.backend.name,
                "threads": threads,
                "touched_bytes_per_token": touched,
            },
            **{"decode_tok_s": round(1 / median, 2), "decode_p10_tok_s": round(1 / fast, 2)},
            **{
                "prefill_tok_s": round(statistics.median(self.prefills), 2),
                "gb_s": round(touched / median / 1e9, 2),
            },
            "generate_tok_s": round(statistics.median(self.generations), 2),
            "of_stream": round(touched / median / 1e9 / stream[str(threads)], 6),
        }


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = common.parser(__doc__)
    common.add_model(parser)
    parser.add_argument(
        "--backend",
        nargs="+",
        default=["auto"],
        help="native, numba, numpy (default: the best here)",
    )
    parser.add_argument(
        "--tokens", type=int, default=32, metavar="N", help="to decode in a turn (default: 32)"
    )
    parser.add_argument(
        "--prompt", type=int, default=256, metavar="N", help="tokens of the prompt (default: 256)"
    )
    parser.add_argument("--turns", type=int, default=5, metavar="N", help="default: 5")
    options = parser.parse_args(argv)
    about = common.machine(options.threads)
    with common.model_path(options) as path:
        # NumPy's products have no threads of ours.
        pairs = [
            (name, n)
            for name in options.backend
            for n in options.threads
            if name != "numpy" or n == 1
        ]
        runs = [Run(path, name, n) for name, n in pairs]
        for _ in range(options.turns):
            for run in runs:
                run.turn(options.tokens, options.prompt)
        reports = [run.report(about["stream_gb_s"]) for run in runs]
        sizes = {
            "model": pathlib.Path(path).name,
            **{key: runs[0].model.config[key] for key in ("arch", "dtype")},
        }
    rows = [
        (
            *(
                report["backend"],
                report["threads"],
                report["decode_tok_s"],
                report["decode_p10_tok_s"],
            ),
            *(
                report["generate_tok_s"],
                report["prefill_tok_s"],
                report["gb_s"],
                f"{100 * report['of_stream']:.0f} %",
            ),
        )
        for report in reports
    ]
    head = (
        sizes["model"],
        "threads",
        "decode tok/s",
        "p10",
        "generate",
        f"prefill {options.prompt}",
        "GB/s",
    )
    head += ("of stream",)
    common.finish(
        "tokens", options, {"machine": about, **sizes, "runs": reports}, common.table(rows, head)
    )


if __name__ == "__main__":
    common.run(main)
