"""Generate for hours, in one long session and in many short ones: memory must not grow.

python benchmarks/soak.py                                    # 100,000 tokens and 1,000 sessions
python benchmarks/soak.py model.trwkv --tokens 2000 --sessions 20 --begin 500

Greedy and drawn tokens, penalties, stop strings and constraints take turns. What a process uses at
the beginning (pages of the file, masks of the constraints) does not count: the line is fitted from
token `--begin` on, to the resident memory of this process. The exit status is 1 if that grows by
more than `--limit` bytes a token.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import numpy as np

import tinyrwkv
from tinyrwkv import Sampler
from tinyrwkv.file import memory

PROMPT = "User: Tell me about the sea.\n\nAssistant:"
EVERY = 100
"""Tokens between two looks at the memory."""

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 30}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}

Generation = tinyrwkv.Generation


def ways(model: tinyrwkv.Model) -> list[dict[str, Any]]:
    """Return the options of `Model.generate` that take turns."""
    endless = {0: -100.0}
    penalties = {"presence_penalty": 0.3, "frequency_penalty": 0.2, "repetition_penalty": 1.1}
    return [
        {"sampler": Sampler(temperature=0, logit_bias=endless)},
        {"sampler": Sampler(seed=1, top_k=40, top_p=0.9, **penalties)},
        {"sampler": Sampler(seed=2, min_p=0.05), "stop": ["\n\n", "User:", "the the the"]},
        {"constraint": tinyrwkv.JsonSchema(SCHEMA)},
        {"constraint": tinyrwkv.Regex("([a-z]{1,9} ){20,60}"), "sampler": Sampler(seed=3)},
        {"constraint": tinyrwkv.Choice([f" place number {i}" for i in range(100)])},
    ]


def sessions(model: tinyrwkv.Model, count: int, tokens: int) -> Iterator[Generation]:
    """Yield the generations of short sessions, each of which goes on from the one before."""
    options = ways(model)
    state = None
    for i in range(count):
        how = options[i % len(options)]
        generation = model.generate(PROMPT, state=state, max_tokens=tokens, **how)
        yield generation
        state = generation.result.state if i % len(options) else None


def long_session(model: tinyrwkv.Model, tokens: int) -> Iterator[Generation]:
    """Yield one generation of so many tokens, with penalties and stop strings that never come."""
    sampler = Sampler(seed=5, presence_penalty=0.2, repetition_penalty=1.1, logit_bias={0: -100.0})
    stop = ["\x01\x02", "the\x01", "a" * 1000]
    yield model.generate(PROMPT, sampler=sampler, max_tokens=tokens, stop=stop)


def follow(generations: Iterator[Generation]) -> tuple[np.ndarray, np.ndarray]:
    """Run generations; return tokens and resident bytes of the process, each now and then."""
    done = 0
    rows = []
    for generation in generations:
        for _ in generation:
            done += 1
            if done % EVERY == 0:
                rows.append((done, memory.process_memory()["rss"]))
    return np.array([row[0] for row in rows]), np.array([row[1] for row in rows])


def slope(tokens: np.ndarray, used: np.ndarray, begin: int) -> float:
    """Return the bytes a token of the line through what was seen after `begin` tokens."""
    late = tokens > begin
    if late.sum() < 3:
        raise SystemExit("too few tokens: raise --tokens or lower --begin")
    return float(np.polyfit(tokens[late], used[late], 1)[0])


def main(argv: list[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="default: the bundled one")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--tokens", type=int, default=100_000, metavar="N")
    parser.add_argument("--sessions", type=int, default=1000, metavar="N")
    parser.add_argument("--session-tokens", type=int, default=60, metavar="N")
    parser.add_argument("--begin", type=int, default=5000, metavar="N")
    parser.add_argument("--limit", type=float, default=100.0, metavar="BYTES", help="default: 100")
    options = parser.parse_args(argv)
    if not memory.process_memory():
        raise SystemExit("this system does not tell how much memory a process uses")
    worst = 0.0
    model = tinyrwkv.load(options.model, threads=options.threads)
    runs = {
        "one long session": long_session(model, options.tokens),
        "short sessions": sessions(model, options.sessions, options.session_tokens),
    }
    for name, generations in runs.items():
        begin = time.perf_counter()
        tokens, used = follow(generations)
        grown = slope(tokens, used, options.begin)
        worst = max(worst, grown)
        seconds = time.perf_counter() - begin
        print(f"{name}: {grown:.1f} bytes a token over {tokens[-1]:,} tokens, {seconds:.0f} s")
    return int(worst > options.limit)


if __name__ == "__main__":
    sys.exit(main())
