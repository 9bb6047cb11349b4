"""``tinyrwkv bench``: how fast a model is here, and how much memory it takes."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

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

Speeds are medians of the repetitions; other work on the machine slows them.
The time to the first token begins with load() in a new process, with the file
in the page cache.
"""

FIRST_TOKENS = 3
"""This number of repetitions measure the time to the first token too."""

# Prints the seconds of load() and one token.
FIRST_TOKEN = """
import importlib, sys, time
package, path, backend, threads, limit = sys.argv[1:]
tinyrwkv = importlib.import_module(package)
begin = time.perf_counter()
model = tinyrwkv.load(
    path, backend=backend, threads=int(threads), resident_limit=int(limit) or None
)
model.forward([0])
print(time.perf_counter() - begin)
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    shared.add_model(parser)
    parser.add_argument(
        "--prompt-tokens",
        type=int,
        default=256,
        metavar="N",
        help="length of the prompt (default: 256)",
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
            option = f"--{name.replace('_', '-')}"
            expected = f"at least {least}"
            found = getattr(options, name)
            sentence = f"{option} is {found}, but must be {expected}"
            what = ("bench", option, found, expected)
            raise ArgumentError(*what, "give a larger number", sentence)
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
        The number of tokens to read at once, and the number to generate one by one.
    repeat : int
        Repetitions. The report has their medians.
    """
    prompt = [i % (model.config["vocab_size"] - 1) + 1 for i in range(prompt_tokens)]
    first_tokens = []
    runs = []
    with Progress("bench") as progress:
        for i in range(repeat):
            progress(i, repeat)
            if i < FIRST_TOKENS:
                first_tokens.append(_first_token(model))
            runs.append(_run_once(model, prompt, tokens))
    touched = model.plan()["touched_bytes_per_token"] + _median(run.chosen for run in runs)
    process = memory.process_memory()
    return {
        "backend": model.backend.name,
        "threads": model.backend.threads,
        "decode_tok_s": round(_median(run.decode for run in runs), 2),
        "prefill_tok_s": round(_median(run.prefill for run in runs), 2),
        "first_token_s": round(_median(first_tokens), 4),
        "peak_rss_bytes": process.get("peak"),
        "rss_anon_bytes": process.get("anon"),
        "resident_bytes": model.resident(),
        "touched_bytes_per_token": round(touched),
    }


class _Run(NamedTuple):
    """What one repetition measured.

    Attributes
    ----------
    prefill, decode : float
        Tokens per second.
    chosen : float
        Bytes per token of the weights that not every token needs.
    """

    prefill: float
    decode: float
    chosen: float


def _run_once(model: Model, prompt: list[int], tokens: int) -> _Run:
    sampler = Sampler(temperature=0, logit_bias={0: -float("inf")})  # token 0 would end the text
    # The text repeats itself, so tokens that are guessed would make it faster than other texts.
    generation = model.generate(prompt, sampler=sampler, max_tokens=tokens, lookup=False)
    touched = []  # after each token
    for _ in generation:
        touched.append(sum(workspace.touched for workspace in model.reader.workspaces))
    times = generation.result.timings
    steps = times["tokens"] - 1  # the model does not read the last token
    return _Run(
        prefill=times["prompt_tokens"] / times["prompt_seconds"],
        decode=steps / times["seconds"],
        chosen=(touched[-1] - touched[0]) / steps,
    )


def _median(values: Iterable[float]) -> float:
    return float(np.median(list(values)))


def _first_token(model: Model) -> float:
    """Return the seconds of load() and one token in a new process."""
    import subprocess  # here, because it is large, and no other command needs it

    arguments = [
        __package__.rsplit(".", 2)[0],
        model.path,
        model.backend.name,
        str(model.backend.threads),
        str(model.resident_limit or 0),
    ]
    ended = subprocess.run(
        [sys.executable, "-c", FIRST_TOKEN, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    try:
        return float(ended.stdout)
    except ValueError:
        complaints = ended.stderr.strip().splitlines()
        found = complaints[-1] if complaints else f"exit status {ended.returncode}"
        fix = "try the same model with generate"
        sentence = f"the model did not run in a new process: {found}"
        what = ("bench", "new process", found, "a time")
        raise UnsupportedError(*what, fix, sentence) from None


def _text(model: Model, report: dict[str, Any]) -> str:
    threads = f"{report['threads']} thread{'s' if report['threads'] > 1 else ''}"
    rows = [
        ("decode", f"{report['decode_tok_s']:.1f} tok/s"),
        ("prefill", f"{report['prefill_tok_s']:.1f} tok/s"),
        ("first token", f"{report['first_token_s']:.3f} s from load()"),
        ("peak RSS", show_size(report["peak_rss_bytes"])),
        ("RssAnon", f"{show_size(report['rss_anon_bytes'])}, without the file and libraries"),
        ("resident", f"{show_size(report['resident_bytes'])} of the file"),
        ("touched", f"{show_size(report['touched_bytes_per_token'])} of weights for each token"),
    ]
    lines = [
        f"{model.path}: {shared.describe(model.config)}",
        f"backend {report['backend']}, {threads}",
        "",
        *(f"{name:<12} {value}" for name, value in rows),
    ]
    return "\n".join(lines)
