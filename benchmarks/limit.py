"""Compare a model under a limit of resident memory with the same model without one.

python benchmarks/limit.py model.trwkv --limit 12000000 --tokens 500

The page cache is warm. Both models sample the same text, a few times in turns. Then the limited one
samples it once more, and what is resident is read after every call of the kernels, before anything
is let go.
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import tinyrwkv
from benchmarks import common
from tinyrwkv import Model
from tinyrwkv.file import memory, system

ROUNDS = 3


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = common.parser(__doc__, threads=(1,))
    common.add_model(parser)
    parser.add_argument(
        "--backend", default="auto", help="native, numba or numpy (default: the best here)"
    )
    parser.add_argument("--tokens", type=int, default=500, metavar="N", help="default: 500")
    parser.add_argument(
        "--limit", type=int, default=12_000_000, metavar="BYTES", help="default: 12000000"
    )
    options = parser.parse_args(argv)
    if not system.LINUX:
        raise SystemExit("only Linux has a limit")
    runs = []
    with common.model_path(options) as path:
        for threads in options.threads:
            memory.drop_from_cache(
                path
            )  # which may hold it in pieces as some other process needed them
            pathlib.Path(path).read_bytes()
            free, limited = (
                tinyrwkv.load(path, backend=options.backend, threads=threads, resident_limit=limit)
                for limit in (None, options.limit)
            )
            runs.append(
                {
                    "threads": threads,
                    "backend": free.backend.name,
                    **compare(free, limited, options.tokens),
                }
            )
    head = (
        "threads",
        "free tok/s",
        "limited tok/s",
        "least ratio",
        "same tokens",
        "free MB",
        "peak MB",
    )
    rows = [
        (
            *(
                run["threads"],
                max(run["free_tok_s"]),
                max(run["limited_tok_s"]),
                f"{run['ratio']:.2f}",
                run["same"],
            ),
            *(run["free_bytes"] / 1e6, f"{run['peak_bytes'] / 1e6:.2f}"),
        )
        for run in runs
    ]
    result = {
        "machine": common.machine(),
        "limit": options.limit,
        "tokens": options.tokens,
        "runs": runs,
    }
    common.finish("limit", options, result, common.table(rows, head))


def compare(free: Model, limited: Model, tokens: int) -> dict[str, Any]:
    """Return both speeds, whether the texts agree, and the most that is resident in a token."""
    texts, speeds = [], [[], []]
    for _ in range(ROUNDS):
        for model, found in ((free, speeds[0]), (limited, speeds[1])):
            text, speed = sample(model, tokens)
            texts.append(text)
            found.append(speed)
    peak, inner = [0], limited.backend.run

    def run(*args: Any) -> None:
        inner(*args)
        peak.append(limited.resident() or 0)

    limited.backend.run = run
    texts.append(sample(limited, tokens)[0])
    return {
        **{"free_tok_s": speeds[0], "limited_tok_s": speeds[1], "free_bytes": free.resident()},
        **{"ratio": min(b / a for a, b in zip(*speeds, strict=True)), "peak_bytes": max(peak)},
        "same": all(text == texts[0] for text in texts),
    }


def sample(model: Model, tokens: int) -> tuple[list[int], float]:
    """Return tokens sampled at temperature 1, and how many a second."""
    sampler = tinyrwkv.Sampler(temperature=1, seed=3, logit_bias={0: -float("inf")})
    generation = model.generate([5], sampler=sampler, max_tokens=tokens, lookup=False)
    for _ in generation:
        pass
    timings = generation.result.timings
    return generation.result.tokens, timings["tokens"] / timings["seconds"]


if __name__ == "__main__":
    common.run(main)
