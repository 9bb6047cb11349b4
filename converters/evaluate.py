"""Judge a model file: how well it predicts texts, last words and answers.

This is the command ``tinyrwkv-convert eval``.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tinyrwkv import Model, load
from tinyrwkv.cli import exits
from tinyrwkv.cli.options import given_model
from tinyrwkv.cli.parser import Parser
from tinyrwkv.file.config import CompressionStep
from tinyrwkv.robot.scripts import Scripts

from .arguments import count, whole_number
from .judge.compare import check_same, compare
from .judge.cost import TOKENS, chosen_bytes, sample_cold
from .judge.metrics import (
    Matches,
    TextLoss,
    exact_match,
    lambada_accuracy,
    nll_of_docs,
    nll_of_text,
    prompts_and_answers,
)
from .judge.scripts import are_of_the_grammar, count_misses, is_script
from .judge.texts import read_text, split_documents, windows

NAME = "tinyrwkv-convert eval"

ACCURACY = {
    "lambada": "lambada_accuracy",
    "commands": "exact_match",
    "grammar": "exact_match_grammar",
}
"""The keys in the report for the texts whose answers are right or wrong."""

COLUMNS = ("", "documents", "tokens", "nll/token", "nll/byte", "top-1", "right", "seconds")
"""Headings of the table for people."""

_NOTES = """\
examples:
  tinyrwkv-convert eval model.trwkv --text book.txt
  tinyrwkv-convert eval lite.trwkv --against dense.trwkv --text book.txt --json
      What a compressed file lost: differences of nll and top-1, how often the first choices agree,
      and the KL divergence.

Give at least one of --text, --docs, --lambada and --commands. The nll is in nats. The report has
one nll for --text and --docs together; its parts have one for each. Every window and document
begins with token 0, which is not scored.
LAMBADA: plain lines, or JSON lines {"text": "..."}. A last word is right if each of its tokens is
the model's first choice.
Commands: the prompt ends with "Assistant:", and the answer ends at an empty line. An answer is
right if it equals the one in the document (exact_match). If all right answers are scripts such as
move(2); turn(90), the misses are counted apart: wrong_actions is the share of scripts that are
neither right nor unknown(), unknown is the share of unknown() where an action was right, and
no_script is the rest. If the grammar of tinyrwkv.robot.scripts has all the calls, everything is
done again under this grammar: exact_match_grammar, wrong_actions_grammar and so on.
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
        0; 1 after an error; 130 after Ctrl-C; 141 if nobody reads the output. A mistake in the
        arguments ends the process with 2.
    """
    return exits.run(NAME, functools.partial(_run, argv))


def _run(argv: Sequence[str] | None) -> int:
    made = parser()
    arguments = made.parse_args(argv)
    arguments.model = given_model(arguments)
    if arguments.model is None:
        made.error("nothing to judge: give a MODEL")
    if not _asked(arguments):
        made.error("nothing to score: give --text, --docs, --lambada or --commands")
    report = evaluate(arguments)
    print(json.dumps(report, indent=1) if arguments.json else _table(report))
    return 0


def parser() -> Parser:
    """Return the parser of the arguments."""
    made = Parser(
        prog=NAME,
        description="Judge a model file: how well it predicts texts, last words and answers.",
        epilog=_NOTES,
    )
    add = made.add_argument
    add("model", nargs="?", metavar="MODEL", help="a .trwkv file")
    add("-m", "--model", dest="model_option", metavar="FILE", help="the same as MODEL")
    add("--text", metavar="FILE", help="a plain text in UTF-8, scored in windows of 512 tokens")
    add(
        "--docs",
        metavar="FILE",
        help="documents with a line <|doc|> between them, each scored whole",
    )
    add("--lambada", metavar="FILE", help="lines of text: how often is the last word predicted?")
    add("--commands", metavar="FILE", help="User/Assistant documents: is the greedy answer right?")
    add(
        "--against",
        metavar="MODEL",
        help="another file with the same vocabulary, to compare MODEL with",
    )
    add(
        "--template",
        default="robot",
        metavar="NAME",
        help="chat template for --commands (default: robot)",
    )
    add(
        "--backend",
        default="auto",
        metavar="B",
        help="auto, native, numba or numpy (default: auto)",
    )
    add(
        "--threads",
        type=whole_number,
        default=_cores(),
        metavar="N",
        help="threads to use (default on this machine: %(default)s)",
    )
    add("--limit", type=count, metavar="N", help="only the first N windows, documents or lines")
    add(
        "--show-wrong",
        type=count,
        default=0,
        metavar="N",
        help="show the first N wrong answers of each file",
    )
    add("--json", action="store_true", help="print the figures as JSON")
    return made


def _cores() -> int:
    """Return one thread for each core that this process may use, at most 4.

    The figures do not depend on it.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    return min(4, len(affinity(0)) if affinity else os.cpu_count() or 1)


def _asked(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the files to score, by the names of their options."""
    paths = {name: getattr(arguments, name) for name in ("text", "docs", "lambada", "commands")}
    return {name: path for name, path in paths.items() if path is not None}


def evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Do what the command line asks for.

    Parameters
    ----------
    arguments : Namespace

    Returns
    -------
    dict
        The report, all of it plain JSON.
    """
    asked = _asked(arguments)
    texts = {name: read_text(path) for name, path in asked.items()}  # before minutes of scoring
    _hint(texts)
    answers = _right_answers(texts, arguments)
    if answers and are_of_the_grammar(answers):
        asked["grammar"], texts["grammar"] = asked["commands"], texts["commands"]
    # This comes first: pages that are mapped, here or in another process, stay in the cache.
    cost = sample_cold(arguments.model, backend=arguments.backend, threads=arguments.threads)
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(_opened(arguments.model, arguments))
        other = None
        if arguments.against is not None:
            other = stack.enter_context(_opened(arguments.against, arguments))
            check_same(model, other)
        scored = _Scored(model, arguments, count_actions=all(map(is_script, answers)))
        for name, text in texts.items():
            scored.add(name, asked[name], text)
        report: dict[str, Any] = {**scored.accuracies, **scored.misses}
        if other is not None:
            report["against"] = _against(model, other, texts, scored.accuracies, arguments)
        if scored.loss.tokens:
            report |= {"tokens": scored.loss.tokens, **_figures(scored.loss)}
        report["model"] = model.path
        report["backend"] = model.backend.name
        report["threads"] = model.backend.threads
        report["compression"] = [_step(step) for step in model.config.get("compression", [])]
        report["touched_bytes_per_token"] = scored.touched() if scored.loss.tokens else cost.touched
    if cost.resident is not None:
        report["resident_bytes"] = cost.resident
    report["parts"] = scored.parts
    if arguments.show_wrong:
        report["wrong"] = scored.wrong
    return report


def _hint(texts: Mapping[str, str]) -> None:
    """Say so if a text is one of documents, whose separators would be scored as text."""
    if len(split_documents(texts.get("text", ""))) > 1:
        hint = "has lines <|doc|> between documents: --docs scores each document for itself"
        print(f"note: the file of --text {hint}", file=sys.stderr)


def _right_answers(texts: Mapping[str, str], arguments: argparse.Namespace) -> list[str]:
    if "commands" not in texts:
        return []
    pairs = prompts_and_answers(texts["commands"], arguments.template, arguments.limit)
    return [answer for _, answer in pairs]


@contextlib.contextmanager
def _opened(path: str, arguments: argparse.Namespace) -> Iterator[Model]:
    model = load(path, backend=arguments.backend, threads=arguments.threads)
    with contextlib.closing(model):
        yield model


class _Scored:
    """The scores of a model on texts.

    Attributes
    ----------
    loss : TextLoss
        Of plain texts and documents together.
    accuracies, misses : dict
        Of last words and answers, by their key in the report.
    parts, wrong : list of dict
        For the report.
    """

    def __init__(self, model: Model, arguments: argparse.Namespace, count_actions: bool) -> None:
        self.loss = TextLoss()
        self.accuracies: dict[str, float] = {}
        self.misses: dict[str, float] = {}
        self.parts: list[dict[str, Any]] = []
        self.wrong: list[dict[str, Any]] = []
        self._model = model
        self._arguments = arguments
        self._count_actions = count_actions
        self._chosen = 0  # bytes that kernels chose while plain texts and documents were read

    def add(self, name: str, path: str, text: str) -> None:
        """Score one text."""
        begin = time.perf_counter()
        chosen_before = chosen_bytes(self._model)
        result = _measure(name, self._model, text, self._arguments)
        part = {
            "part": name,
            "file": path,
            "documents": result.documents,
            "tokens": result.tokens,
        }
        if isinstance(result, TextLoss):
            self.loss += result
            self._chosen += chosen_bytes(self._model) - chosen_before
            part |= _figures(result)
        else:
            self.accuracies[ACCURACY[name]] = result.accuracy
            shown = result.wrong[: self._arguments.show_wrong]
            self.wrong += [{"part": name, **entry} for entry in shown]
            part |= {"right": result.right, "accuracy": result.accuracy}
            if name in ("commands", "grammar") and self._count_actions:
                ending = "_grammar" if name == "grammar" else ""
                found = count_misses(result)
                self.misses |= {f"{kind}{ending}": share for kind, share in found.items()}
        part["seconds"] = round(time.perf_counter() - begin, 3)
        self.parts.append(part)

    def touched(self) -> float:
        """Return the bytes of weights read for a token of the plain texts and documents."""
        planned: float = self._model.plan()["touched_bytes_per_token"]
        return planned + self._chosen / self.loss.tokens


def _measure(
    name: str, model: Model, text: str, arguments: argparse.Namespace
) -> TextLoss | Matches:
    measures: dict[str, Callable[..., TextLoss | Matches]] = {
        "text": nll_of_text,
        "docs": nll_of_docs,
        "lambada": lambada_accuracy,
        "commands": functools.partial(exact_match, template=arguments.template),
        "grammar": functools.partial(
            exact_match, template=arguments.template, constraint=Scripts()
        ),
    }
    with Bar(name) as bar:
        return measures[name](model, text, limit=arguments.limit, progress=bar)


def _against(
    model: Model,
    other: Model,
    texts: Mapping[str, str],
    accuracies: Mapping[str, float],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Return how far a model is from another on the same texts: its figures minus the other's."""
    found: dict[str, Any] = {"model": other.path}
    documents: list[list[int]] = []
    for name, text in texts.items():
        if name == "text":
            listed = windows(model.tokenizer, text.encode())
            documents += itertools.islice(listed, arguments.limit)
        elif name == "docs":
            documents += map(model.tokenizer.encode, split_documents(text)[: arguments.limit])
        else:
            matches = _measure(name, other, text, arguments)
            assert isinstance(matches, Matches)
            key = ACCURACY[name]
            found[f"{key}_delta"] = accuracies[key] - matches.accuracy
    if documents:
        size = sum(map(len, documents))
        with Bar("against") as bar:
            difference = compare(model, other, documents, lambda tokens: bar(tokens / size, tokens))
        found |= difference.figures()
    return found


def _step(step: CompressionStep) -> dict[str, Any]:
    """Return what was done to a file and what it cost when it was made."""
    keys = ("nll_delta", "top1_delta", "relative_error", "differing_logits", "fraction", "energy")
    report = {key: step["report"][key] for key in keys if key in step["report"]}
    return {"technique": step["technique"], "params": step["params"], **report}


def _figures(loss: TextLoss) -> dict[str, float]:
    return {
        "nll_per_token": loss.nll_per_token,
        "nll_per_byte": loss.nll_per_byte,
        "top1": loss.top1,
    }


class Bar:
    """A line on stderr that follows the work if stderr is a terminal; it is gone at the end.

    Parameters
    ----------
    name : str
        What the line begins with.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.shown = sys.stderr.isatty()
        self.begin = self.last = time.monotonic()

    def __enter__(self) -> Bar:
        """Return the bar itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the line."""
        if self.shown:
            print("\r" + " " * 79 + "\r", end="", file=sys.stderr, flush=True)

    def __call__(self, share: float, tokens: int) -> None:
        """Show the share that is done and the tokens read, at most ten times a second."""
        now = time.monotonic()
        if not self.shown or now - self.last < 0.1:
            return
        self.last = now
        spent = now - self.begin
        left = round(spent / share - spent)
        bar = "#" * int(30 * share)
        line = (
            f"{self.name:8} [{bar:.<30}] {share:4.0%} {tokens / spent:7.0f} tok/s "
            f"{left // 60:3d}:{left % 60:02d} left"
        )
        print("\r" + line, end="", file=sys.stderr, flush=True)


def _table(report: Mapping[str, Any]) -> str:
    """Return the report for people."""
    lines = [_line(COLUMNS)]
    lines += [_line(_cells(part)) for part in report["parts"]]
    lines += _misses(report)
    lines += _recorded(report["compression"])
    if "against" in report:
        lines += _differences(report["against"])
    for entry in report.get("wrong", ()):
        lines += ["", f"{entry['part']} {entry['document']}: {entry['prompt']}"]
        lines += [f"  expected: {entry['expected']}", f"  answered: {entry['answer']}"]
    cost = f"{report['touched_bytes_per_token'] / 1e6:.1f} MB touched per token"
    if "resident_bytes" in report:
        cost += f", {report['resident_bytes'] / 1e6:.1f} MB resident after {TOKENS} tokens"
    lines += ["", f"backend {report['backend']}, threads {report['threads']}; {cost}"]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    name, *figures = cells
    return f"{name:<11}{''.join(f'{cell:>11}' for cell in figures)}".rstrip()


def _cells(part: Mapping[str, Any]) -> list[str]:
    keys = ("nll_per_token", "nll_per_byte", "top1", "accuracy")
    return [
        part["part"],
        f"{part['documents']:,}",
        f"{part['tokens']:,}",
        *(f"{part[key]:.4f}" if key in part else "" for key in keys),
        f"{part['seconds']:.1f}",
    ]


def _misses(report: Mapping[str, Any]) -> list[str]:
    """Return lines about what the answers that are not right would do."""
    lines = []
    for part, ending in (("commands", ""), ("grammar", "_grammar")):
        if f"wrong_actions{ending}" in report:
            wrong, unknown, other = (
                f"{report[f'{kind}{ending}']:.4f}"
                for kind in ("wrong_actions", "unknown", "no_script")
            )
            line = f"wrong actions {wrong}, unknown() for an action {unknown}, no script {other}"
            lines.append(f"  {part:9}{line}")
    return ["", "of the answers that are not right:", *lines] if lines else []


def _recorded(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return lines about what compression cost, as it is recorded in the file."""
    lines = []
    for step in steps:
        given = {name: value for name, value in step["params"].items() if value is not None}
        params = ", ".join(f"{name} {value}" for name, value in given.items())
        costs = ", ".join(
            f"{name} {_number(name, value)}"
            for name, value in step.items()
            if name not in ("technique", "params")
        )
        lines.append(f"  {step['technique']} ({params}): {costs}".rstrip(": "))
    return ["", "when the file was made:", *lines] if lines else []


def _differences(against: Mapping[str, Any]) -> list[str]:
    """Return lines about how far the model is from another."""
    figures = [
        f"  {name} {_number(name, value)}"
        for name, value in against.items()
        if name not in ("model", "tokens")
    ]
    return ["", f"against {against['model']}:", *figures]


def _number(name: str, value: float) -> str:
    """Return a figure for people; differences have a sign."""
    if name.endswith("_delta"):
        return f"{value:+.4f}"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
