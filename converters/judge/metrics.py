"""How well a model predicts texts, last words and answers.

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

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyrwkv import Model, Sampler
from tinyrwkv.chat.templates import template as find_template
from tinyrwkv.errors import ArgumentError, FormatError
from tinyrwkv.kernels.abi import MAX_TOKENS

from .texts import (
    END_OF_DOCUMENT,
    WINDOW,
    lambada_texts,
    prompt_and_answer,
    split_documents,
    windows,
)

LEAST_ANSWER = (
    128  # tokens that an answer may have, or twice those of the right one; a longer one is wrong
)

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
        self.documents, self.right, self.tokens = (
            self.documents + 1,
            self.right + right,
            self.tokens + tokens,
        )
        if not right:
            entry = {
                "document": self.documents,
                "prompt": prompt,
                "expected": expected,
                "answer": answer,
            }
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
        self.model = model
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
            self._read(inputs[start : min(start + MAX_TOKENS, first)], None)
        self.best, nll = [], 0.0
        for start in range(first, len(ids), MAX_TOKENS):
            chunk = inputs[start : start + MAX_TOKENS]
            self._read(chunk, self.logits[: len(chunk)])
            for logits, target in zip(
                self.logits[: len(chunk)], ids[start : start + MAX_TOKENS], strict=True
            ):
                loss, best = _loss(logits, target)
                nll += loss
                self.best.append(best)
        if not math.isfinite(nll):
            fix = "check the file with tinyrwkv verify and convert it again"
            raise FormatError(self.model.path, "logits", "nan or infinity", "finite numbers", fix)
        scored = ids[first:]
        top = sum(a == b for a, b in zip(self.best, scored, strict=True))
        size = (
            len(self.model.tokenizer.decode_bytes(scored))
            if "tokenizer.bytes" in self.model.file
            else 0
        )
        return Score(1, len(scored), size, nll, top)

    def _read(self, ids: np.ndarray, out: np.ndarray | None) -> None:
        self.model.reader.read(ids, self.old, self.new, out)
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
    model: Model,
    text: str | bytes,
    window: int = WINDOW,
    limit: int | None = None,
    progress: Progress | None = None,
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
    for ids in windows(model.tokenizer, data, window):
        if score.documents == limit:
            break
        score += scorer.score(ids)
        _tell(progress, score.bytes / len(data), score.documents, limit, score.tokens)
    return _some(score, "text")


def nll_of_docs(
    model: Model, text: str, limit: int | None = None, progress: Progress | None = None
) -> Score:
    """Score documents separated by a line ``<|doc|>``, each whole and begun with token 0.

    Parameters, returns and raises as `nll_of_text`; `limit` counts documents.
    """
    scorer, score = Scorer(model), Score()
    documents = split_documents(text)[:limit]
    for document in documents:
        score += scorer.score(model.tokenizer.encode(document))
        _tell(progress, score.documents / len(documents), score.documents, limit, score.tokens)
    return _some(score, "documents")


def lambada_accuracy(
    model: Model, text: str, limit: int | None = None, progress: Progress | None = None
) -> Matches:
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
    tokenizer, scorer, matches = model.tokenizer, Scorer(model), Matches()
    texts = lambada_texts(text, limit)
    for number, (context, word) in enumerate(texts, 1):
        before, ids = tokenizer.encode(context), tokenizer.encode(word)
        score = scorer.score([*before, *ids], len(before))
        answer = tokenizer.decode(scorer.best).strip()
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
    form, tokenizer, matches, greedy = (
        find_template(template),
        model.tokenizer,
        Matches(),
        Sampler(temperature=0),
    )
    if not form.answer_prefix:
        raise ArgumentError(
            "eval", "template", repr(template), "one with turns", "give robot, chat or raven"
        )
    documents = split_documents(text)[:limit]
    pairs = [
        prompt_and_answer(document, number, form.answer_prefix)
        for number, document in enumerate(documents, 1)
    ]
    for number, (prompt, expected) in enumerate(pairs, 1):
        most = max(LEAST_ANSWER, 2 * len(tokenizer.encode(expected)))
        generation = model.generate(prompt, sampler=greedy, max_tokens=most, stop=form.stop)
        for _ in generation:
            pass
        answer, timings = generation.result.text.strip(), generation.result.timings
        matches.add(
            prompt,
            expected,
            answer,
            answer == expected,
            int(timings["prompt_tokens"] + timings["tokens"]),
        )
        _tell(progress, number / len(pairs), number, limit, matches.tokens)
    return _some(matches, "commands")


def _some(result: Any, what: str) -> Any:
    if result.documents == 0:
        raise ArgumentError("eval", what, "none", "at least one", "give a file that is not empty")
    return result


def _tell(
    progress: Progress | None, share: float, done: int, limit: int | None, tokens: int
) -> None:
    if progress is not None:
        progress(max(share, done / limit if limit else 0.0), tokens)
