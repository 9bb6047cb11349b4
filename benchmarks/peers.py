"""Compare with other engines on the same random weights: the official rwkv package and llama.cpp.

python -m venv /tmp/peers && /tmp/peers/bin/pip install numpy torch rwkv llama-cpp-python
python benchmarks/peers.py --peers-python /tmp/peers/bin/python

A random checkpoint becomes a .pth (float32, for the package), a .trwkv (int8), and from that a
.gguf (Q8_0, which needs the package gguf), of which llama.cpp makes one of Q4_0. This engine runs
the .trwkv as it is, as `--preset exact` makes it, with the same bits out, and as `--dtype int4
--parts all` rounds it. Each engine with each number of threads is a
process. They take turns, and one works at a time.

A peer that is not there, or that a prompt kills, is left out with the reason. llama.cpp dies where
a virtual machine tells of AMX and has none, unless it is built with -mno-amx-tile -mno-amx-int8.

`rms` is the difference of the logits after 16 tokens from those of the official package, in
standard deviations. `greedy` counts, of 32 tokens, those that are its likeliest too, each after the
same ones. The ratios at the end are of medians, and of the fastest tenths, which other work on the
machine disturbs less.
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
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks import common, random_checkpoint
from benchmarks.engine import ROOT, Engine
from benchmarks.random_model import sizes
from converters.compress.compress import compress
from converters.compress.presets import PRESETS
from converters.export.gguf import export
from converters.write.convert import convert
from tinyrwkv import load
from tinyrwkv.errors import TinyRWKVError

SAVE_PTH = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from benchmarks.random_checkpoint import read
torch.save({name: torch.from_numpy(x) for name, x in read(sys.argv[2]).items()}, sys.argv[3])
"""


QUANTIZE_GGUF = """
import ctypes, sys, llama_cpp
options = llama_cpp.llama_model_quantize_default_params()
options.ftype, options.allow_requantize = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, True
names = [name.encode() for name in sys.argv[1:]]
sys.exit(llama_cpp.llama_model_quantize(*names, ctypes.byref(options)))
"""


COLUMNS = {
    "engine": "",
    "threads": "threads",
    "decode_tok_s": "decode tok/s",
    "decode_p10_tok_s": "p10",
    "prefill_tok_s": "prefill",
    "load_s": "load s",
    "rss": "RSS MB",
    "anon": "anon",
    "peak": "peak",
    "rms": "rms",
    "greedy": "greedy",
}
"""The columns of the table: what of a report they show, and their titles."""


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = common.parser(__doc__)
    parser.add_argument("--arch", choices=("v6", "v7"), default="v7", help="default: v7")
    numbers = {"layers": (12, ""), "width": (768, ""), "vocab": (65536, "")}
    numbers |= {"tokens": (64, "to decode in a turn "), "prompt": (256, "tokens of the prompt ")}
    numbers |= {"turns": (5, "")}
    for name, (usual, text) in numbers.items():
        told = f"{text}(default: {usual})" if text else f"default: {usual}"
        parser.add_argument(f"--{name}", type=int, default=usual, metavar="N", help=told)
    peers = "an interpreter that has torch, rwkv, llama-cpp-python"
    parser.add_argument("--peers-python", metavar="FILE", help=peers)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    options = arguments(argv)
    about = common.machine(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        started, skipped = start(options, folder)
        with contextlib.closing(load(started[0].model)) as model:
            touched = model.plan()["touched_bytes_per_token"]
        try:
            agreement = agree(started, options.vocab, folder)
            for _ in range(options.turns):
                for engine in started:
                    take_turn(engine, options)
            reports = [report(engine) | agreement[engine.about] for engine in started]
        finally:
            for engine in started:
                engine.close()
    titles = {**COLUMNS, "engine": f"{options.arch} {options.layers}x{options.width}"}
    text = common.table([row(one) for one in reports], tuple(titles.values()))
    text += "".join(f"\nleft out: {name}: {reason}" for name, reason in skipped.items())
    found = ratios(reports, about["stream_gb_s"], touched)
    text += "\n\n" + "\n".join(f"{value:6.2f}  {what}" for what, value in found.items())
    result = {"machine": about, "runs": reports, "ratios": found, "left_out": skipped}
    common.finish("peers", options, result, text)


def take_turn(engine: Engine, options: argparse.Namespace) -> None:
    """Let an engine decode and read a prompt once, and keep how long it took."""
    ids = [i * 7919 % options.vocab for i in range(options.tokens)]
    engine.latencies += engine.ask("decode", tokens=ids)["seconds"]
    ids = [i * 7919 % options.vocab for i in range(options.prompt)]
    engine.prefills.append(options.prompt / engine.ask("prefill", tokens=ids)["seconds"])


def row(one: dict[str, Any]) -> tuple[Any, ...]:
    """Return the row of the table for one report; memory in MB."""
    shown = dict(one)
    for key in ("rss", "anon", "peak"):
        shown[key] = one[key] / 1e6
    shown["rms"] = one["rms"] and f"{one['rms']:.1e}"
    return tuple(shown[key] for key in COLUMNS)


def ratios(
    reports: list[dict[str, Any]], stream: dict[str, float], touched: int
) -> dict[str, float]:
    """Return how many times faster and smaller this engine is than each peer."""
    by = {(one["name"], one["threads"]): one for one in reports}
    ours = {threads: one for (name, threads), one in by.items() if name == "tinyrwkv"}
    keys = (
        ("decode_tok_s", "decode"),
        ("decode_p10_tok_s", "decode, fastest tenth"),
        ("prefill_tok_s", "prefill"),
    )
    found: dict[str, float] = {}
    for (name, threads), peer in by.items():
        if not name.startswith("tinyrwkv"):
            about = f"{name}, {threads} threads"
            found |= {f"{what} by {about}": ours[threads][key] / peer[key] for key, what in keys}
            if exact := by.get(("tinyrwkv exact", threads)):
                found[f"decode of the exact file by {about}"] = (
                    exact["decode_tok_s"] / peer["decode_tok_s"]
                )
            found[f"RSS of {about}, by ours"] = peer["rss"] / ours[threads]["rss"]
    for (name, threads), one in by.items():
        if name == "tinyrwkv int4":
            by_threads = f"{threads} threads"
            own = ours[threads]["decode_tok_s"]
            found[f"decode of int4 by int8, {by_threads}"] = one["decode_tok_s"] / own
            if peer := by.get(("llama Q4_0", threads)):
                ratio = one["decode_tok_s"] / peer["decode_tok_s"]
                found[f"decode of int4 by llama Q4_0, {by_threads}"] = ratio
    for threads, one in ours.items():
        found[f"decode by the stream read, {threads} threads"] = (
            touched * one["decode_tok_s"] / stream[str(threads)] / 1e9
        )
        if threads != 1 and 1 in ours:
            found[f"decode with {threads} threads by 1"] = (
                one["decode_tok_s"] / ours[1]["decode_tok_s"]
            )
    return {what: round(value, 3) for what, value in found.items()}


def start(options: argparse.Namespace, folder: str) -> tuple[list[Engine], dict[str, str]]:
    """Write the models, start every engine; return them, and why others are left out."""
    raw, base = (os.path.join(folder, f"{options.arch}{end}") for end in (".safetensors", ""))
    random_checkpoint.write(raw, sizes(options.arch, options.layers, options.width, options.vocab))
    convert(raw, base + ".trwkv")
    compress(base + ".trwkv", base + ".exact.trwkv", PRESETS["exact"])
    convert(raw, base + ".int4.trwkv", "int4", parts="all")
    plans = [
        ("tinyrwkv", "", sys.executable, ".trwkv"),
        ("tinyrwkv", "exact", sys.executable, ".exact.trwkv"),
        ("tinyrwkv", "int4", sys.executable, ".int4.trwkv"),
    ]
    plans += [
        ("rwkv", "", options.peers_python, ".pth"),
        ("llama", "", options.peers_python, ".Q8_0.gguf"),
        ("llama", "Q4_0", options.peers_python, ".Q4_0.gguf"),
    ]
    started: list[Engine] = []
    skipped: dict[str, str] = {}
    for name, form, python, end in plans:
        try:
            if python is None:
                raise RuntimeError("no --peers-python given")
            if end == ".pth":
                _run([python, "-c", SAVE_PTH, ROOT, raw, base + end])
            if end == ".Q8_0.gguf":
                export(base + ".trwkv", base + end)
            if end == ".Q4_0.gguf":
                _run([python, "-c", QUANTIZE_GGUF, base + ".Q8_0.gguf", base + end])
            for threads in options.threads:
                engine = Engine(name, python, base + end, threads, f"{base}-{name}.log", form)
                engine.ask("prefill", tokens=[*range(16)])
                started.append(engine)
        except (OSError, RuntimeError, TinyRWKVError) as error:
            skipped[f"{name} {form}".strip()] = str(error)
    return started, skipped


def _run(command: list[str]) -> None:
    """Run a script; raise a RuntimeError with its last words if it fails."""
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        last = [*ended.stderr.strip().splitlines(), f"it ended with {ended.returncode}"]
        raise RuntimeError(last[-1])


def agree(engines: list[Engine], vocab: int, folder: str) -> dict[str, dict[str, Any]]:
    """Return by engine how far it is from the official package, where that is one of them."""
    truth = next((engine for engine in engines if engine.name == "rwkv"), None)
    if truth is None:
        return {engine.about: {"rms": None, "greedy": None} for engine in engines}
    best = truth.ask("decode", tokens=[1] * 32, greedy=True)["best"]
    read = [1, *best[:-1]]
    found = {}
    for engine in engines:
        path = os.path.join(folder, f"{engine.name}.npy")
        engine.ask("prefill", tokens=[i * 7919 % vocab for i in range(1, 17)], save=path)
        same = sum(
            a == b for a, b in zip(engine.ask("decode", tokens=read)["best"], best, strict=True)
        )
        found[engine.about] = {"logits": np.load(path), "greedy": same}
    right = found[truth.about]["logits"]
    for one in found.values():
        one["rms"] = float(np.sqrt(np.square(one.pop("logits") - right).mean()) / right.std())
    return found


def report(engine: Engine) -> dict[str, Any]:
    """Return an engine's medians, the speed of its fastest tenth, and its memory."""
    fast = sorted(engine.latencies)[len(engine.latencies) // 10]
    return {
        **{
            "name": engine.name,
            "engine": engine.about,
            "threads": engine.threads,
            "load_s": round(engine.load_s, 3),
        },
        **{
            "decode_tok_s": round(1 / statistics.median(engine.latencies), 2),
            "decode_p10_tok_s": round(1 / fast, 2),
        },
        **{"prefill_tok_s": round(statistics.median(engine.prefills), 2)},
        **engine.ask("memory"),
    }


if __name__ == "__main__":
    common.run(main)
