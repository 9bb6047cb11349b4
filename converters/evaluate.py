"""Judge a model file: how well it predicts texts, last words and answers. The command ``tinyrwkv-convert eval``.

What is measured, so that figures can be compared:

* Every text begins with token 0, which is read and not scored. All tokens after it are scored, the first one too.
* A text is tokenised as a whole and cut into windows of 512 tokens; each window begins anew, with token 0 before it.
* A document is read whole, however long; the token 0 that would end it is not scored.
* nll is in nats. The bytes are those that the scored tokens stand for. top-1 is the share of tokens that the model
  gave the largest logit (the lowest id among equals).
* The last word of a LAMBADA text, with the blank before it, is right where every one of its tokens is the greedy one.
* An answer is generated greedily from the document up to and including "Assistant:", ends at an empty line or token 0,
  and is right where it equals the document's answer, both without the blanks around them.

Tokens go through the same kernels as in generation, at most 16 at a time, and their logits into one buffer.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import math
import os
import pathlib
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyrwkv import Model, Sampler, load
from tinyrwkv.backends import HEAD_OF_ALL, NO_HEAD
from tinyrwkv.errors import ArgumentError, FormatError, TinyRWKVError
from tinyrwkv.extra.templates import template as find_template
from tinyrwkv.opcodes import MAX_TOKENS
from tinyrwkv.tokenizer import LONGEST, Tokenizer

_NOTES = """\
Give at least one file. nll is in nats; the figures of --text and --docs together are the report's, each has its own
among the parts. A window or document begins with token 0, which is not scored. LAMBADA: plain lines, or JSON lines
{"text": "..."}; right where every token of the last word is the greedy one. Commands: the prompt ends with
"Assistant:", the answer at an empty line; right where it equals the document's answer.
"""

WINDOW = 512
END_OF_DOCUMENT = 0
LEAST_ANSWER = 128  # tokens that an answer may have, or twice those of the right one; a longer one is wrong

Progress = Callable[[float, int], None]
"""Called with the share that is done, from 0 to 1, and the tokens read."""


@dataclass
class Score:
    """How well tokens were predicted.

    Attributes
    ----------
    documents, tokens, bytes : int
        What was scored: windows or documents, their tokens, the bytes these stand for.
    nll : float
        Sum of the negative log-likelihoods, in nats.
    top : int
        How many tokens were the model's first choice.
    """

    documents: int = 0
    tokens: int = 0
    bytes: int = 0
    nll: float = 0.0
    top: int = 0

    def __add__(self, other: Score) -> Score:
        """Return the score of both together."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Score(*(a + b for a, b in pairs))

    @property
    def nll_per_token(self) -> float:
        """Mean negative log-likelihood of a token."""
        return self.nll / self.tokens

    @property
    def nll_per_byte(self) -> float:
        """Negative log-likelihood by bytes: comparable between vocabularies."""
        return self.nll / max(1, self.bytes)

    @property
    def top1(self) -> float:
        """Share of the tokens that were the model's first choice."""
        return self.top / self.tokens


@dataclass
class Matches:
    """How many answers or words were exactly right.

    Attributes
    ----------
    documents, right, tokens : int
        How many there were, how many were right, tokens read or generated.
    wrong : list of dict
        For each that was not: ``document`` (its number, from 1), ``prompt``, ``expected``, ``answer``.
    """

    documents: int = 0
    right: int = 0
    tokens: int = 0
    wrong: list[dict[str, Any]] = field(default_factory=list)

    @property
    def accuracy(self) -> float:
        """Share that was right."""
        return self.right / self.documents

    def add(self, prompt: str, expected: str, answer: str, right: bool, tokens: int) -> None:
        """Count one more."""
        self.documents, self.right, self.tokens = self.documents + 1, self.right + right, self.tokens + tokens
        if not right:
            entry = {"document": self.documents, "prompt": prompt, "expected": expected, "answer": answer}
            self.wrong.append(entry)


class Scorer:
    """Scores tokens with a model, in memory that is reserved once.

    Parameters
    ----------
    model : Model

    Attributes
    ----------
    best : list of int
        The model's first choice in the place of each token that was scored last.
    """

    def __init__(self, model: Model) -> None:
        self.model, self.tokenizer = model, model.tokenizer
        self.logits = np.empty((MAX_TOKENS, model.config["vocab_size"]), np.float32)  # (16, V)
        self.begin = model.new_state().data
        self.old, self.new = np.empty_like(self.begin), np.empty_like(self.begin)
        self.best: list[int] = []

    def score(self, ids: Sequence[int], first: int = 0) -> Score:
        """Score the tokens from `first` on; token 0 and those before are what they follow.

        Parameters
        ----------
        ids : sequence of int
            At least one, without the token 0 in front.
        first : int, optional

        Returns
        -------
        Score

        Raises
        ------
        FormatError
            The model's logits are not numbers, because the file is damaged.
        """
        self.old[:] = self.begin
        inputs = self.model.check_tokens([END_OF_DOCUMENT, *ids[:-1]])
        for start in range(0, first, MAX_TOKENS):
            self._read(inputs[start : min(start + MAX_TOKENS, first)], NO_HEAD)
        self.best, nll = [], 0.0
        for start in range(first, len(ids), MAX_TOKENS):
            chunk = inputs[start : start + MAX_TOKENS]
            self._read(chunk, HEAD_OF_ALL)
            for logits, target in zip(self.logits[: len(chunk)], ids[start : start + MAX_TOKENS], strict=True):
                loss, best = _loss(logits, target)
                nll += loss
                self.best.append(best)
        if not math.isfinite(nll):
            fix = "check the file with tinyrwkv verify and convert it again"
            raise FormatError(self.model.path, "logits", "nan or infinity", "finite numbers", fix)
        scored = ids[first:]
        top = sum(a == b for a, b in zip(self.best, scored, strict=True))
        return Score(1, len(scored), len(self.tokenizer.decode_bytes(scored)), nll, top)

    def _read(self, ids: np.ndarray, head: int) -> None:
        out = self.logits[: len(ids)] if head == HEAD_OF_ALL else None
        self.model.read(ids, self.old, self.new, out, head)
        self.old, self.new = self.new, self.old


def _loss(logits: np.ndarray, target: int) -> tuple[float, int]:
    """Return -log softmax(logits)[target] and the most probable token; the logits are used up."""
    best = int(logits.argmax())
    peak, wanted = float(logits[best]), float(logits[target])
    with np.errstate(all="ignore"):
        logits -= logits[best]
        np.exp(logits, out=logits)
        total = float(logits.sum())  # at least 1: the peak's own share
    return math.log(total) + peak - wanted, best


def nll_of_text(
    model: Model, text: str | bytes, window: int = WINDOW, limit: int | None = None, progress: Progress | None = None
) -> Score:
    """Score a text in windows, each begun with token 0.

    Parameters
    ----------
    model : Model
    text : str or bytes
    window : int, optional
        Tokens in a window.
    limit : int, optional
        Score at most so many windows.
    progress : callable, optional
        Called as ``progress(share, tokens)``.

    Returns
    -------
    Score

    Raises
    ------
    ArgumentError
        The text is empty.
    UnsupportedError
        The model has no tokenizer.
    """
    scorer, score = Scorer(model), Score()
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    for ids in windows(scorer.tokenizer, data, window):
        if score.documents == limit:
            break
        score += scorer.score(ids)
        _tell(progress, score.bytes / len(data), score.documents, limit, score.tokens)
    return _some(score, "text")


def nll_of_docs(model: Model, text: str, limit: int | None = None, progress: Progress | None = None) -> Score:
    """Score documents separated by a line ``<|doc|>``, each whole and begun with token 0.

    Parameters, returns and raises as `nll_of_text`; `limit` counts documents.
    """
    scorer, score = Scorer(model), Score()
    documents = split_documents(text)[:limit]
    for document in documents:
        score += scorer.score(scorer.tokenizer.encode(document))
        _tell(progress, score.documents / len(documents), score.documents, limit, score.tokens)
    return _some(score, "documents")


def lambada_accuracy(model: Model, text: str, limit: int | None = None, progress: Progress | None = None) -> Matches:
    r"""Tell how often the last word of a text is the greedy continuation of the words before.

    Parameters
    ----------
    model : Model
    text : str
        One text on each line, plain or as a JSON object with the key ``text``; empty lines are passed over.
    limit : int, optional
        Take at most so many lines.
    progress : callable, optional
        Called as ``progress(share, tokens)``.

    Returns
    -------
    Matches
        The answer of a wrong one is what the model would have put in the place of the word's tokens.

    Raises
    ------
    FormatError
        A line is no such object, or has fewer than two words.
    UnsupportedError
        The model has no tokenizer.
    """
    scorer, matches = Scorer(model), Matches()
    texts = _lambada_texts(text, limit)
    for number, (context, word) in enumerate(texts, 1):
        before, ids = scorer.tokenizer.encode(context), scorer.tokenizer.encode(word)
        score = scorer.score([*before, *ids], len(before))
        answer = scorer.tokenizer.decode(scorer.best).strip()
        matches.add(context, word.strip(), answer, score.top == len(ids), len(before) + len(ids))
        _tell(progress, number / len(texts), number, limit, matches.tokens)
    return _some(matches, "lambada texts")


def exact_match(
    model: Model,
    text: str,
    template: str = "robot",
    limit: int | None = None,
    progress: Progress | None = None,
) -> Matches:
    """Tell how often the answer that a model generates greedily is that of a document.

    Parameters
    ----------
    model : Model
    text : str
        Documents separated by a line ``<|doc|>``. What follows the last "Assistant:" that begins a line is the right
        answer; what precedes it, and this word, is the prompt.
    template : str, optional
        The chat template that says which word begins an answer and what ends it.
    limit : int, optional
        Take at most so many documents.
    progress : callable, optional
        Called as ``progress(share, tokens)``.

    Returns
    -------
    Matches

    Raises
    ------
    ArgumentError
        There is no such template, it has no word that begins an answer, or there are no documents.
    FormatError
        A document has no answer.
    UnsupportedError
        The model has no tokenizer.
    """
    form, tokenizer, matches, greedy = find_template(template), model.tokenizer, Matches(), Sampler(temperature=0)
    if not form.answer_prefix:
        raise ArgumentError("eval", "template", repr(template), "one with turns", "give robot, chat or raven")
    documents = split_documents(text)[:limit]
    pairs = [_prompt_and_answer(document, number, form.answer_prefix) for number, document in enumerate(documents, 1)]
    for number, (prompt, expected) in enumerate(pairs, 1):
        most = max(LEAST_ANSWER, 2 * len(tokenizer.encode(expected)))
        generation = model.generate(prompt, sampler=greedy, max_tokens=most, stop=form.stop)
        for _ in generation:
            pass
        answer, timings = generation.result.text.strip(), generation.result.timings
        matches.add(prompt, expected, answer, answer == expected, int(timings["prompt_tokens"] + timings["tokens"]))
        _tell(progress, number / len(pairs), number, limit, matches.tokens)
    return _some(matches, "commands")


def split_documents(text: str) -> list[str]:
    r"""Return the documents of a text, which a line ``<|doc|>`` separates; empty ones are left out.

    A document keeps the line ends before that line; ``\r\n`` counts as ``\n``.

    Examples
    --------
    >>> split_documents("one\n\n<|doc|>\ntwo\n<|doc|>\n")
    ['one\n\n', 'two\n']
    """
    parts = re.split(r"^<\|doc\|>[ \t]*(?:\n|\Z)", text.replace("\r\n", "\n"), flags=re.MULTILINE)
    return [part for part in parts if part.strip()]


def windows(tokenizer: Tokenizer, data: bytes, size: int = WINDOW, piece: int = 1 << 16) -> Iterator[list[int]]:
    """Yield the tokens of a text, `size` at a time, the last time the rest; they are never all in memory.

    The text is encoded in pieces, which gives the tokens of the whole: the choice of a token depends on no more
    than the `LONGEST` bytes from its first on, so those that begin nearer to the end of a piece are left to the next.

    Parameters
    ----------
    tokenizer : Tokenizer
    data : bytes
    size : int, optional
    piece : int, optional
        Bytes to encode at once, more than `LONGEST`.

    Yields
    ------
    list of int
    """
    ids: list[int] = []
    place = 0
    while place < len(data):
        part = data[place : place + piece]
        sure = len(part) - (LONGEST if place + piece < len(data) else 0)
        end = 0
        for token in tokenizer.encode(part):
            if end > sure:
                break
            ids.append(token)
            end += len(tokenizer.token_bytes(token))
        place += end
        while len(ids) >= size:
            yield ids[:size]
            del ids[:size]
    if ids:
        yield ids


def _lambada_texts(text: str, limit: int | None) -> list[tuple[str, str]]:
    """Return the context and the last word, with the blank before it, of each line."""
    pairs: list[tuple[str, str]] = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or len(pairs) == limit:
            continue
        if line.startswith("{"):
            try:
                line = json.loads(line)["text"].strip()
            except (ValueError, KeyError, AttributeError, RecursionError) as error:
                found, fix = f"{type(error).__name__}: {error}", "give JSON lines with a text, or plain lines"
                raise FormatError("lambada", f"line {number}", found, 'an object with a string "text"', fix) from None
        parts = re.fullmatch(r"(.*\S)(\s+\S+)", line, re.DOTALL)
        if parts is None:
            raise FormatError("lambada", f"line {number}", f"{line[:40]!a}", "two words or more", "leave it out")
        pairs.append((parts[1], parts[2]))
    return pairs


def _prompt_and_answer(document: str, number: int, prefix: str) -> tuple[str, str]:
    before, mark, after = document.lstrip().rpartition(f"\n{prefix}")
    if not mark or not after.strip():
        found = f"{document[:60]!a} without an answer"
        fix = "separate documents by lines <|doc|>"
        raise FormatError("commands", f"document {number}", found, f"a line that begins with {prefix!r}", fix)
    return before + mark, after.strip()


def _some(result: Any, what: str) -> Any:
    if result.documents == 0:
        raise ArgumentError("eval", what, "none", "at least one", "give a file that is not empty")
    return result


def _tell(progress: Progress | None, share: float, done: int, limit: int | None, tokens: int) -> None:
    if progress is not None:
        progress(max(share, done / limit if limit else 0.0), tokens)


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
    texts = [_read_text(path) for _, path in asked]  # before minutes of scoring
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


def _read_text(path: str) -> str:
    fix = "give a text file in UTF-8"
    try:
        return pathlib.Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"byte 0x{error.object[error.start]:02x} at {error.start:,}"
        raise FormatError(path, "text", found, "UTF-8", fix) from None
    except (OSError, ValueError) as error:
        found = getattr(error, "strerror", None) or str(error)
        raise FormatError(path, "text", found, "a file that can be read", fix) from None


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
