"""``tinyrwkv bench``: how fast a model is here, and what it takes of the memory."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

import numpy as np

from ... import Model, Sampler
from ...errors import ArgumentError, UnsupportedError
from ...file import memory
from ...units import show_size
from .. import options as shared
from ..terminal import Progress

HELP = "measure speed and memory"
EXAMPLES = """\
examples:
  tinyrwkv bench
  tinyrwkv bench model.trwkv --threads 4 --json
  tinyrwkv bench model.trwkv --prompt-tokens 64 --tokens 16 --repeat 3
      on a slow board

Speeds are medians of the repetitions, on whatever else the machine does. The first token is timed from the beginning
of load() in new processes, with the file in the page cache.
"""

# Prints the seconds of load() and one token: package, path, backend, threads, limit.
FIRST_TOKEN = """
import importlib, sys, time
package, path, backend, threads, limit = sys.argv[1:]
tinyrwkv = importlib.import_module(package)
begin = time.perf_counter()
model = tinyrwkv.load(path, backend=backend, threads=int(threads), resident_limit=int(limit) or None)
model.forward([0])
print(time.perf_counter() - begin)
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    shared.add_model(parser)
    parser.add_argument(
        "--prompt-tokens", type=int, default=256, metavar="N", help="prompt to read (default: 256)"
    )
    parser.add_argument(
        "--tokens", type=int, default=64, metavar="N", help="tokens to generate (default: 64)"
    )
    parser.add_argument(
        "--repeat", type=int, default=5, metavar="N", help="repetitions (default: 5)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    shared.add_loading(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    for name, least in (("prompt_tokens", 1), ("tokens", 2), ("repeat", 1)):
        if getattr(options, name) < least:
            found, expected = getattr(options, name), f"at least {least}"
            raise ArgumentError(
                "bench", f"--{name.replace('_', '-')}", found, expected, "give a larger number"
            )
    model = shared.loaded(options)
    report = measure(model, options.prompt_tokens, options.tokens, options.repeat)
    if options.json:
        print(json.dumps(report, indent=1))
    else:
        print(_text(model, report))
    return 0


def measure(model: Model, prompt_tokens: int, tokens: int, repeat: int) -> dict[str, Any]:
    """Return the report that ``--json`` prints.

    Parameters
    ----------
    model : Model
    prompt_tokens, tokens : int
        To read at once, and to generate one by one.
    repeat : int
        Repetitions; the medians count.
    """
    first, decode, prefill, chosen = [], [], [], []
    sampler = Sampler(temperature=0, logit_bias={0: -float("inf")})  # token 0 would end the text
    prompt = [i % (model.config["vocab_size"] - 1) + 1 for i in range(prompt_tokens)]
    with Progress("bench") as progress:
        for i in range(repeat):
            progress(i, repeat)
            if i < 3:
                first.append(_first_token(model))
            generation = model.generate(prompt, sampler=sampler, max_tokens=tokens)
            read = [
                sum(workspace.touched for workspace in model.reader.workspaces) for _ in generation
            ]
            times = generation.result.timings
            chosen.append(
                (read[-1] - read[0]) / (times["tokens"] - 1)
            )  # bytes of weights that not every token needs
            prefill.append(times["prompt_tokens"] / times["prompt_seconds"])
            decode.append(
                (times["tokens"] - 1) / times["seconds"]
            )  # the last one is only chosen, not read
    process = memory.process_memory()
    return {
        "backend": model.backend.name,
        "threads": model.backend.threads,
        "decode_tok_s": round(float(np.median(decode)), 2),
        "prefill_tok_s": round(float(np.median(prefill)), 2),
        "first_token_s": round(float(np.median(first)), 4),
        "peak_rss_bytes": process.get("peak"),
        "rss_anon_bytes": process.get("anon"),
        "resident_bytes": model.resident(),
        "touched_bytes_per_token": round(
            model.plan()["touched_bytes_per_token"] + float(np.median(chosen))
        ),
    }


def _first_token(model: Model) -> float:
    """Return the seconds of load() and one token in a new process."""
    import subprocess  # here, because it is large and no other command needs it

    package = __package__.rsplit(".", 2)[0]
    settings = (
        model.path,
        model.backend.name,
        str(model.backend.threads),
        str(model.resident_limit or 0),
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", FIRST_TOKEN, package, *settings]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    try:
        return float(ended.stdout)
    except ValueError:
        found = (ended.stderr.strip().splitlines() or [f"exit status {ended.returncode}"])[-1]
        raise UnsupportedError(
            "bench", "new process", found, "a time", "try the same model with generate"
        ) from None


def _text(model: Model, report: dict[str, Any]) -> str:
    threads = f"{report['threads']} thread{'s' if report['threads'] > 1 else ''}"
    rows = [
        ("decode", f"{report['decode_tok_s']:.1f} tok/s"),
        ("prefill", f"{report['prefill_tok_s']:.1f} tok/s"),
        ("first token", f"{report['first_token_s']:.3f} s from load()"),
        ("peak RSS", show_size(report["peak_rss_bytes"])),
        ("RssAnon", f"{show_size(report['rss_anon_bytes'])}, what is not the file or a library"),
        ("resident", f"{show_size(report['resident_bytes'])} of the file"),
        ("touched", f"{show_size(report['touched_bytes_per_token'])} of weights a token"),
    ]
    head = (
        f"{model.path}: {shared.describe(model.config)}\nbackend {report['backend']}, {threads}\n\n"
    )
    return head + "\n".join(f"{name:<12} {value}" for name, value in rows)
