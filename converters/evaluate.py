"""Judge a model file: how well it predicts texts, last words and answers. The command ``tinyrwkv-convert eval``."""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tinyrwkv import Model, load
from tinyrwkv.errors import TinyRWKVError

from .judge.compare import check_same, compare
from .judge.cost import TOKENS, chosen_bytes, sample_cold
from .judge.metrics import Matches, Score, exact_match, lambada_accuracy, nll_of_docs, nll_of_text
from .judge.texts import read_text, split_documents, windows

_NOTES = """\
examples:
  tinyrwkv-convert eval model.trwkv --text book.txt
  tinyrwkv-convert eval lite.trwkv --against dense.trwkv --text book.txt --json
      what a compressed file lost: differences of nll and top-1, agreement of first choices, KL divergence

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
    parser.add_argument(
        "--text", metavar="FILE", help="plain UTF-8, scored in windows of 512 tokens"
    )
    parser.add_argument(
        "--docs", metavar="FILE", help="documents separated by a line <|doc|>, each scored whole"
    )
    parser.add_argument(
        "--lambada", metavar="FILE", help='lines, or JSON lines with "text": the last word'
    )
    parser.add_argument(
        "--commands", metavar="FILE", help="User/Assistant documents, answered greedily"
    )
    parser.add_argument(
        "--against",
        metavar="MODEL",
        help="another file of this vocabulary: how far is MODEL from it?",
    )
    parser.add_argument(
        "--template", default="robot", metavar="NAME", help="of --commands (default: robot)"
    )
    parser.add_argument(
        "--backend", default="auto", metavar="B", help="auto, numba or numpy (default: auto)"
    )
    parser.add_argument(
        "--threads", type=int, default=_cores(), metavar="N", help="default here: %(default)s"
    )
    parser.add_argument(
        "--limit", type=_count, metavar="N", help="only the first N windows, documents and lines"
    )
    parser.add_argument(
        "--show-wrong", type=_count, default=0, metavar="N", help="show the first N wrong answers"
    )
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
    asked = {
        name: path
        for name in ("text", "docs", "lambada", "commands")
        if (path := getattr(options, name))
    }
    texts = {name: read_text(path) for name, path in asked.items()}  # before minutes of scoring
    # First: what is mapped, here or in another process, does not leave the cache.
    cost = sample_cold(options.model, backend=options.backend, threads=options.threads)
    total, chosen, report = Score(), 0, dict[str, Any]()
    parts, wrong = list[dict[str, Any]](), list[dict[str, Any]]()
    with contextlib.ExitStack() as stack:
        model, other = (
            path
            and stack.enter_context(
                contextlib.closing(load(path, backend=options.backend, threads=options.threads))
            )
            for path in (options.model, options.against)
        )
        if other:
            check_same(model, other)
        for name, text in texts.items():
            begin, before = time.perf_counter(), chosen_bytes(model)
            result = _measure(name, model, text, options)
            part = {
                "part": name,
                "file": asked[name],
                "documents": result.documents,
                "tokens": result.tokens,
            }
            if isinstance(result, Score):
                part |= _figures(result)
                total += result
                chosen += chosen_bytes(model) - before
            else:
                report[_ACCURACY[name]] = result.accuracy
                part |= {"right": result.right, "accuracy": result.accuracy}
                wrong += [{"part": name, **entry} for entry in result.wrong[: options.show_wrong]]
            parts.append({**part, "seconds": round(time.perf_counter() - begin, 3)})
        if other:
            report["against"] = _against(model, other, texts, report, options)
        report |= {"tokens": total.tokens, **_figures(total)} if total.tokens else {}
        every = model.plan()["touched_bytes_per_token"]
        report |= {
            "model": model.path,
            "backend": model.backend.name,
            "threads": model.backend.threads,
        }
        report["compression"] = [_step(step) for step in model.config.get("compression", [])]
    report["touched_bytes_per_token"] = (
        every + chosen / total.tokens if total.tokens else cost.touched
    )
    report |= {"resident_bytes": cost.resident} if cost.resident is not None else {}
    report["parts"] = parts
    if options.show_wrong:
        report["wrong"] = wrong
    return report


_ACCURACY = {"lambada": "lambada_accuracy", "commands": "exact_match"}


def _measure(name: str, model: Model, text: str, options: argparse.Namespace) -> Any:
    measures: dict[str, Callable[..., Score | Matches]] = {
        **{"text": nll_of_text, "docs": nll_of_docs, "lambada": lambada_accuracy},
        "commands": functools.partial(exact_match, template=options.template),
    }
    with _Bar(name) as bar:
        return measures[name](model, text, limit=options.limit, progress=bar)


def _against(
    model: Model,
    other: Model,
    texts: Mapping[str, str],
    report: Mapping[str, Any],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Return how far a model is from another on the same texts: its figures less those of the other."""
    found: dict[str, Any] = {"model": other.path}
    documents = list[list[int]]()
    for name, text in texts.items():
        if name == "text":
            documents += itertools.islice(windows(model.tokenizer, text.encode()), options.limit)
        elif name == "docs":
            documents += map(model.tokenizer.encode, split_documents(text)[: options.limit])
        else:
            key = _ACCURACY[name]
            found[f"{key}_delta"] = report[key] - _measure(name, other, text, options).accuracy
    if documents:
        size = sum(map(len, documents))
        with _Bar("against") as bar:
            found |= compare(
                model, other, documents, lambda tokens: bar(tokens / size, tokens)
            ).figures()
    return found


def _step(step: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was done to a file and what it cost when it was made."""
    keys = ("nll_delta", "top1_delta", "relative_error", "differing_logits", "fraction", "energy")
    report = {key: step["report"][key] for key in keys if key in step["report"]}
    return {"technique": step["technique"], "params": step["params"], **report}


def _figures(score: Score) -> dict[str, float]:
    return {
        "nll_per_token": score.nll_per_token,
        "nll_per_byte": score.nll_per_byte,
        "top1": score.top1,
    }


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
        rows.append(
            (
                part["part"],
                f"{part['documents']:,}",
                f"{part['tokens']:,}",
                *figures,
                f"{part['seconds']:.1f}",
            )
        )
    lines = [
        "".join(f"{cell:{'<' if i == 0 else '>'}11}" for i, cell in enumerate(row)).rstrip()
        for row in rows
    ]
    lines += _deltas(report)
    for entry in report.get("wrong", ()):
        lines += ["", f"{entry['part']} {entry['document']}: {entry['prompt']}"]
        lines += [f"  expected: {entry['expected']}", f"  answered: {entry['answer']}"]
    cost = f"{report['touched_bytes_per_token'] / 1e6:.1f} MB touched per token"
    if "resident_bytes" in report:
        cost += f", {report['resident_bytes'] / 1e6:.1f} MB resident after {TOKENS} tokens"
    return "\n".join(
        [*lines, "", f"backend {report['backend']}, threads {report['threads']}; {cost}"]
    )


def _deltas(report: Mapping[str, Any]) -> list[str]:
    """Return lines about what compression cost: as recorded in the file, and measured now against another."""
    lines = []
    for step in report["compression"]:
        figures = {
            name: value for name, value in step.items() if name not in ("technique", "params")
        }
        params = ", ".join(
            f"{name} {value}" for name, value in step["params"].items() if value is not None
        )
        costs = ", ".join(f"{name} {_signed(name, value)}" for name, value in figures.items())
        lines.append(f"  {step['technique']} ({params}): {costs}".rstrip(": "))
    if lines:
        lines = ["", "when the file was made:", *lines]
    if "against" in report:
        figures = {
            name: value
            for name, value in report["against"].items()
            if name not in ("model", "tokens")
        }
        lines += ["", f"against {report['against']['model']}:"]
        lines += [f"  {name} {_signed(name, value)}" for name, value in figures.items()]
    return lines


def _signed(name: str, value: float) -> str:
    return (
        f"{value:+.4f}"
        if name.endswith("_delta")
        else f"{value:.4f}"
        if isinstance(value, float)
        else str(value)
    )


if __name__ == "__main__":
    sys.exit(main())
