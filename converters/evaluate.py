"""Judge a model file: how well it predicts texts, last words and answers. The command ``tinyrwkv-convert eval``."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from tinyrwkv import load
from tinyrwkv.errors import TinyRWKVError

from .score import Matches, Score, exact_match, lambada_accuracy, nll_of_docs, nll_of_text
from .texts import read_text

_NOTES = """\
Give at least one file. nll is in nats; the figures of --text and --docs together are the report's, each has its own
among the parts. A window or document begins with token 0, which is not scored. LAMBADA: plain lines, or JSON lines
{"text": "..."}; right where every token of the last word is the greedy one. Commands: the prompt ends with
"Assistant:", the answer at an empty line; right where it equals the document's answer.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments after ``eval``; those of the process by default.

    Returns
    -------
    int
        0, or 1 after an error, 130 after Ctrl-C.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if not any((options.text, options.docs, options.lambada, options.commands)):
        parser.error("nothing to score: give --text, --docs, --lambada or --commands")
    try:
        report = evaluate(options)
    except TinyRWKVError as error:
        print(f"tinyrwkv-convert eval: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ntinyrwkv-convert eval: interrupted", file=sys.stderr)
        return 130
    print(json.dumps(report, indent=1) if options.json else _table(report))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tinyrwkv-convert eval",
        description="Judge a model file: how well it predicts texts, last words and answers.",
        epilog=_NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="a .trwkv file")
    parser.add_argument("--text", metavar="FILE", help="plain UTF-8, scored in windows of 512 tokens")
    parser.add_argument("--docs", metavar="FILE", help="documents separated by a line <|doc|>, each scored whole")
    parser.add_argument("--lambada", metavar="FILE", help='lines, or JSON lines with "text": the last word')
    parser.add_argument("--commands", metavar="FILE", help="User/Assistant documents, answered greedily")
    parser.add_argument("--template", default="robot", metavar="NAME", help="of --commands (default: robot)")
    parser.add_argument("--backend", default="auto", metavar="B", help="auto, numba or numpy (default: auto)")
    parser.add_argument("--threads", type=int, default=_cores(), metavar="N", help="default here: %(default)s")
    parser.add_argument("--limit", type=_count, metavar="N", help="only the first N windows, documents and lines")
    parser.add_argument("--show-wrong", type=_count, default=0, metavar="N", help="show the first N wrong answers")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser


def _cores() -> int:
    """Return how many threads to use: one for each core this process may use, up to 4; figures don't depend on it."""
    affinity = getattr(os, "sched_getaffinity", None)
    return min(4, len(affinity(0)) if affinity else os.cpu_count() or 1)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Do what the command line asks for and return the report, all of it plain JSON."""
    measures: dict[str, Callable[..., Score | Matches]] = {
        "text": nll_of_text,
        "docs": nll_of_docs,
        "lambada": lambada_accuracy,
        "commands": functools.partial(exact_match, template=options.template),
    }
    asked = [(name, path) for name in measures if (path := getattr(options, name))]
    texts = [read_text(path) for _, path in asked]  # before minutes of scoring
    report: dict[str, Any] = {}
    total, parts, wrong = Score(), [], []
    with contextlib.closing(load(options.model, backend=options.backend, threads=options.threads)) as model:
        for (name, path), text in zip(asked, texts, strict=True):
            begin = time.perf_counter()
            with _Bar(name) as bar:
                result = measures[name](model, text, limit=options.limit, progress=bar)
            part = {"part": name, "file": path, "documents": result.documents, "tokens": result.tokens}
            if isinstance(result, Score):
                part |= _figures(result)
                total += result
            else:
                report["exact_match" if name == "commands" else "lambada_accuracy"] = result.accuracy
                part |= {"right": result.right, "accuracy": result.accuracy}
                wrong += [{"part": name, **entry} for entry in result.wrong[: options.show_wrong]]
            parts.append({**part, "seconds": round(time.perf_counter() - begin, 3)})
        if total.tokens:
            report |= {"tokens": total.tokens, **_figures(total)}
        report["touched_bytes_per_token"] = model.plan()["touched_bytes_per_token"]
        if (resident := model.resident()) is not None:
            report["resident_bytes"] = resident
        report |= {"model": model.path, "backend": model.backend.name, "threads": model.backend.threads}
    report["parts"] = parts
    if options.show_wrong:
        report["wrong"] = wrong
    return report


def _figures(score: Score) -> dict[str, float]:
    return {"nll_per_token": score.nll_per_token, "nll_per_byte": score.nll_per_byte, "top1": score.top1}


class _Bar:
    """A line on stderr that follows the work, where stderr is a terminal; it is gone at the end."""

    def __init__(self, name: str) -> None:
        self.name, self.shown = name, sys.stderr.isatty()
        self.begin = self.last = time.monotonic()

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.shown:
            print("\r" + " " * 79 + "\r", end="", file=sys.stderr, flush=True)

    def __call__(self, share: float, tokens: int) -> None:
        now = time.monotonic()
        if not self.shown or now - self.last < 0.1:
            return
        self.last, spent = now, now - self.begin
        left, filled = round(spent / share - spent), int(30 * share)
        bar = "#" * filled + "." * (30 - filled)
        line = f"{self.name:8} [{bar}] {share:4.0%} {tokens / spent:7.0f} tok/s {left // 60:3d}:{left % 60:02d} left"
        print("\r" + line, end="", file=sys.stderr, flush=True)


def _table(report: dict[str, Any]) -> str:
    """Return the report for people."""
    heads = ("", "documents", "tokens", "nll/token", "nll/byte", "top-1", "right", "seconds")
    keys = ("nll_per_token", "nll_per_byte", "top1", "accuracy")
    rows = [heads]
    for part in report["parts"]:
        figures = (f"{part[key]:.4f}" if key in part else "" for key in keys)
        rows.append((part["part"], f"{part['documents']:,}", f"{part['tokens']:,}", *figures, f"{part['seconds']:.1f}"))
    lines = ["".join(f"{cell:{'<' if i == 0 else '>'}11}" for i, cell in enumerate(row)).rstrip() for row in rows]
    for entry in report.get("wrong", ()):
        lines += ["", f"{entry['part']} {entry['document']}: {entry['prompt']}"]
        lines += [f"  expected: {entry['expected']}", f"  answered: {entry['answer']}"]
    cost = f"{report['touched_bytes_per_token'] / 1e6:.1f} MB touched per token"
    if "resident_bytes" in report:
        cost += f", {report['resident_bytes'] / 1e6:.1f} MB resident"
    return "\n".join([*lines, "", f"backend {report['backend']}, threads {report['threads']}; {cost}"])


if __name__ == "__main__":
    sys.exit(main())
