"""Measure how fast tokens are beside other work: processes that want the cores too.

python benchmarks/contention.py
python benchmarks/contention.py lite.trwkv                             # which lite.py --make writes
python benchmarks/contention.py --peers-python /tmp/peers/bin/python   # llama.cpp too, see peers.py

The other processes only count. Each engine with each number of threads is a process, and they take
turns: in each turn all of them decode beside no other process, then beside one, then beside two.
What a turn begins with is not measured: an engine needs a moment to notice.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks import common, random_checkpoint
from benchmarks.engine import Engine
from benchmarks.random_model import sizes
from converters.export.gguf import export
from converters.write.convert import convert

COUNTING = "while True: pass"


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    cores = os.cpu_count() or 1
    parser = common.parser(__doc__, (1, cores))
    parser.add_argument("model", nargs="?", metavar="MODEL", help="default: a random RWKV-7")
    counts = "other processes (default: 0 1 2)"
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2], metavar="N", help=counts)
    numbers = {"layers": 12, "width": 768, "vocab": 65536, "tokens": 64, "prompt": 64, "turns": 3}
    for name, usual in numbers.items():
        told = f"default: {usual}"
        parser.add_argument(f"--{name}", type=int, default=usual, metavar="N", help=told)
    peers = "an interpreter that has llama-cpp-python"
    parser.add_argument("--peers-python", metavar="FILE", help=peers)
    return parser.parse_args(argv)


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Let some processes do nothing but count."""
    others = [subprocess.Popen([sys.executable, "-c", COUNTING]) for _ in range(count)]
    try:
        time.sleep(0.2)
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def start(options: argparse.Namespace, folder: str) -> list[Engine]:
    """Write the model, unless there is one; start each engine with each number of threads."""
    path = options.model or os.path.join(folder, "model.trwkv")
    if options.model is None:
        raw = os.path.join(folder, "model.safetensors")
        shape = sizes("v7", options.layers, options.width, options.vocab)
        random_checkpoint.write(raw, shape)
        convert(raw, path)
    plans = [("tinyrwkv", sys.executable, path)]
    if options.peers_python:
        gguf = os.path.join(folder, "model.Q8_0.gguf")
        export(path, gguf)
        plans.append(("llama", options.peers_python, gguf))
    engines = []
    for name, python, model in plans:
        for threads in options.threads:
            log = os.path.join(folder, f"{name}-{threads}.log")
            engines.append(Engine(name, python, model, threads, log))
            engines[-1].ask("prefill", tokens=[*range(16)])
    return engines


def measure(engine: Engine, options: argparse.Namespace) -> tuple[list[float], float]:
    """Return the seconds of each token, and the tokens a second of a prompt."""
    ids = [i * 7919 % options.vocab for i in range(max(options.tokens, options.prompt))]
    engine.ask("decode", tokens=ids[: options.tokens // 2])
    seconds = engine.ask("decode", tokens=ids[: options.tokens])["seconds"]
    prompt = engine.ask("prefill", tokens=ids[: options.prompt])["seconds"]
    return seconds, options.prompt / prompt


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    options = arguments(argv)
    about = common.machine()
    found: dict[tuple[Engine, int], tuple[list[float], list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        engines = start(options, folder)
        try:
            for _ in range(options.turns):
                for count in options.busy:
                    with busy(count):
                        for engine in engines:
                            seconds, speed = measure(engine, options)
                            tokens, prompts = found.setdefault((engine, count), ([], []))
                            tokens += seconds
                            prompts.append(speed)
        finally:
            for engine in engines:
                engine.close()
    reports = [report(engine, count, *one) for (engine, count), one in found.items()]
    titles = ("engine", "threads", "busy", "tok/s", "median ms", "slowest ms", "prompt tok/s")
    text = common.table([tuple(one.values()) for one in reports], titles)
    common.finish("contention", options, {"machine": about, "runs": reports}, text)


def report(engine: Engine, count: int, tokens: list[float], prompts: list[float]) -> dict[str, Any]:
    """Return the mean speed of an engine, and its median and slowest token."""
    return {
        "engine": engine.name,
        "threads": engine.threads,
        "busy": count,
        "decode_tok_s": round(len(tokens) / sum(tokens), 1),
        "median_ms": round(1000 * statistics.median(tokens), 2),
        "slowest_ms": round(1000 * max(tokens), 2),
        "prefill_tok_s": round(statistics.median(prompts), 1),
    }


if __name__ == "__main__":
    common.run(main)
