"""How well a model predicts texts, last words and answers.

What is measured, so that figures can be compared:

* Every text begins with token 0, which is read and not scored. All tokens after it are scored.
* A text is tokenised as a whole and cut into windows of 512 tokens. Each window begins anew, with
  token 0 before it.
* A document is read whole, however long. The token 0 that would end it is not scored.
* nll is in nats. The bytes are those that the scored tokens stand for. top-1 is the share of tokens
  that the model gave the largest logit (the lowest id among equals).
* The last word of a LAMBADA text, with the blank before it, is right if every one of its tokens is
  the model's first choice.
* An answer is generated greedily from the document up to and including "Assistant:". It ends at an
  empty line or at token 0. It is right if it equals the document's answer; blanks around both do
  not count. With a constraint, it ends where the constraint does.

Tokens go through the same kernels as in generation, at most 16 at a time, and their logits into one
buffer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyrwkv import Model, Sampler
from tinyrwkv.chat.templates import template as find_template
from tinyrwkv.constraints.constraint import Constraint
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

LEAST_ANSWER = 128
"""An answer is cut after this many tokens, or after twice those of the right one if that is more.

A longer answer is wrong.
"""

Progress = Callable[[float, int], None]
"""Called with the share that is done, from 0 to 1, and the tokens read."""


@dataclass
class TextLoss:
    """How well tokens were predicted.

    Attributes
    ----------
    documents, tokens, bytes : int
        What was scored: windows or documents, their tokens, the bytes that these stand for.
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

    def __add__(self, other: TextLoss) -> TextLoss:
        """Return the loss of both together."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return TextLoss(*(a + b for a, b in pairs))

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
        Those that were not right: ``document`` (its number, from 1), ``prompt``, ``expected``,
        ``answer``.
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
        """Count one more.

        Parameters
        ----------
        prompt, expected, answer : str
        right : bool
        tokens : int
            Read or generated for it.
        """
        self.documents += 1
        self.right += right
        self.tokens += tokens
        if not right:
            self.wrong.append(
                {
                    "document": self.documents,
                    "prompt": prompt,
                    "expected": expected,
                    "answer": answer,
                }
            )


class Judge:
    """Scores tokens with a model, in buffers that are reserved once.

    Parameters
    ----------
    model : Model

    Attributes
    ----------
    best : list of int
        The model's first choice for each token that was scored by the last call.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.best: list[int] = []
        self._logits = np.empty((MAX_TOKENS, model.config["vocab_size"]), np.float32)  # (16, V)
        self._begin = model.new_state().data
        self._old = np.empty_like(self._begin)
        self._new = np.empty_like(self._begin)

    def loss(self, ids: Sequence[int], first: int = 0) -> TextLoss:
        """Score the tokens from `first` on; they follow token 0 and the tokens before `first`.

        Parameters
        ----------
        ids : sequence of int
            At least one, without the token 0 in front.
        first : int, optional

        Returns
        -------
        TextLoss

        Raises
        ------
        FormatError
            The model's logits are not numbers, because the file is damaged.
        """
        self._old[:] = self._begin
        self.best = []
        inputs = self.model.check_tokens([END_OF_DOCUMENT, *ids[:-1]])
        for start in range(0, first, MAX_TOKENS):
            self._read(inputs[start : min(start + MAX_TOKENS, first)], None)
        nll = 0.0
        for start in range(first, len(ids), MAX_TOKENS):
            targets = ids[start : start + MAX_TOKENS]
            rows = self._logits[: len(targets)]
            self._read(inputs[start : start + MAX_TOKENS], rows)
            for logits, target in zip(rows, targets, strict=True):
                token_nll, best = _token_loss(logits, target)
                nll += token_nll
                self.best.append(best)
        if not math.isfinite(nll):
            path, found, expected = self.model.path, "nan or infinity", "finite numbers"
            fix = "check the file with tinyrwkv verify and convert it again"
            sentence = f"{path} has logits that are {found}"
            raise FormatError(path, "logits", found, expected, fix, sentence)
        scored = ids[first:]
        top = sum(best == target for best, target in zip(self.best, scored, strict=True))
        return TextLoss(1, len(scored), self._bytes(scored), nll, top)

    def _read(self, ids: np.ndarray, out: np.ndarray | None) -> None:
        self.model.reader.read(ids, self._old, self._new, out)
        self._old, self._new = self._new, self._old

    def _bytes(self, ids: Sequence[int]) -> int:
        """Return the bytes that tokens stand for; 0 if the model has no tokenizer."""
        if "tokenizer.bytes" not in self.model.file:
            return 0
        return len(self.model.tokenizer.decode_bytes(ids))


def _token_loss(logits: np.ndarray, target: int) -> tuple[float, int]:
    """Return -log softmax(logits)[target] and the first choice; the logits are overwritten.

    ::

        -log softmax(z)_t = log(sum_i exp(z_i - peak)) + peak - z_t
    """
    best = int(logits.argmax())
    peak = float(logits[best])
    target_logit = float(logits[target])
    with np.errstate(all="ignore"):
        logits -= logits[best]
        np.exp(logits, out=logits)
        total = float(logits.sum())  # at least 1: the peak's own share
    return math.log(total) + peak - target_logit, best


def nll_of_text(
    model: Model,
    text: str | bytes,
    window: int = WINDOW,
    limit: int | None = None,
    progress: Progress | None = None,
) -> TextLoss:
    """Score a text in windows, each begun with token 0.

    Parameters
    ----------
    model : Model
    text : str or bytes
    window : int, optional
        Tokens in a window.
    limit : int, optional
        Windows to score, at most.
    progress : callable, optional
        Called as ``progress(share, tokens)``.

    Returns
    -------
    TextLoss

    Raises
    ------
    ArgumentError
        The text is empty.
    UnsupportedError
        The model has no tokenizer.
    """
    judge = Judge(model)
    loss = TextLoss()
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    for ids in windows(model.tokenizer, data, window):
        if loss.documents == limit:
            break
        loss += judge.loss(ids)
        _tell(progress, loss.bytes / len(data), loss.documents, limit, loss.tokens)
    _check_any(loss.documents, "windows of a text")
    return loss


def nll_of_docs(
    model: Model, text: str, limit: int | None = None, progress: Progress | None = None
) -> TextLoss:
    """Score documents separated by a line ``<|doc|>``, each whole and begun with token 0.

    Parameters, returns and raises as `nll_of_text`; `limit` counts documents.
    """
    judge = Judge(model)
    loss = TextLoss()
    documents = split_documents(text)[:limit]
    for document in documents:
        loss += judge.loss(model.tokenizer.encode(document))
        _tell(progress, loss.documents / len(documents), loss.documents, limit, loss.tokens)
    _check_any(loss.documents, "documents")
    return loss


def lambada_accuracy(
    model: Model, text: str, limit: int | None = None, progress: Progress | None = None
) -> Matches:
    r"""Tell how often the last word of a text is the greedy continuation of the words before.

    Parameters
    ----------
    model : Model
    text : str
        One text on each line, plain or as a JSON object with the key ``text``. Empty lines are
        passed over.
    limit : int, optional
        Lines to take, at most.
    progress : callable, optional
        Called as ``progress(share, tokens)``.

    Returns
    -------
    Matches
        The answer of a wrong one is the model's first choice for each of the word's tokens.

    Raises
    ------
    FormatError
        A line is no such object, or has fewer than two words.
    UnsupportedError
        The model has no tokenizer.
    """
    tokenizer = model.tokenizer
    judge = Judge(model)
    matches = Matches()
    texts = lambada_texts(text, limit)
    for number, (context, word) in enumerate(texts, 1):
        before, ids = tokenizer.encode(context), tokenizer.encode(word)
        loss = judge.loss([*before, *ids], len(before))
        answer = tokenizer.decode(judge.best).strip()
        tokens = len(before) + len(ids)
        matches.add(context, word.strip(), answer, loss.top == len(ids), tokens)
        _tell(progress, number / len(texts), number, limit, matches.tokens)
    _check_any(matches.documents, "lambada texts")
    return matches


def exact_match(
    model: Model,
    text: str,
    template: str = "robot",
    limit: int | None = None,
    progress: Progress | None = None,
    constraint: Constraint | None = None,
) -> Matches:
    """Tell how often the greedy answer of a model equals the answer in a document.

    Parameters
    ----------
    model : Model
    text : str
        Documents separated by a line ``<|doc|>``. The right answer follows the last "Assistant:"
        that begins a line; the prompt is everything up to and including this word.
    template : str, optional
        The chat template that says which word begins an answer and what ends it.
    limit : int, optional
        Documents to take, at most.
    progress : callable, optional
        Called as ``progress(share, tokens)``.
    constraint : Constraint, optional
        What the answers must match.

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
    tokenizer = model.tokenizer
    matches = Matches()
    pairs = prompts_and_answers(text, template, limit)
    stop = find_template(template).stop
    for number, (prompt, expected) in enumerate(pairs, 1):
        max_tokens = max(LEAST_ANSWER, 2 * len(tokenizer.encode(expected)))
        answer, tokens = _greedy_answer(model, prompt, max_tokens, stop, constraint)
        matches.add(prompt, expected, answer, answer == expected, tokens)
        _tell(progress, number / len(pairs), number, limit, matches.tokens)
    _check_any(matches.documents, "commands")
    return matches


def prompts_and_answers(text: str, template: str, limit: int | None) -> list[tuple[str, str]]:
    """Return the prompt and the right answer of each document.

    Parameters and errors are those of `exact_match`.
    """
    prefix = find_template(template).answer_prefix
    if not prefix:
        found, fix = repr(template), "give robot, chat or raven"
        sentence = f"the template {found} has no turns"
        raise ArgumentError("eval", "template", found, "one with turns", fix, sentence)
    documents = enumerate(split_documents(text)[:limit], 1)
    return [prompt_and_answer(document, number, prefix) for number, document in documents]


def _greedy_answer(
    model: Model,
    prompt: str,
    max_tokens: int,
    stop: Sequence[str],
    constraint: Constraint | None,
) -> tuple[str, int]:
    """Return what a model answers, and the tokens that were read and generated for it."""
    greedy = Sampler(temperature=0)
    generation = model.generate(
        prompt, sampler=greedy, max_tokens=max_tokens, stop=stop, constraint=constraint
    )
    for _ in generation:
        pass
    timings = generation.result.timings
    return generation.result.text.strip(), int(timings["prompt_tokens"] + timings["tokens"])


def _check_any(documents: int, what: str) -> None:
    if documents == 0:
        fix = "give a file that is not empty"
        sentence = f"there is nothing to score among the {what}"
        raise ArgumentError("eval", what, "none", "at least one", fix, sentence)


def _tell(
    progress: Progress | None, share: float, done: int, limit: int | None, tokens: int
) -> None:
    """Report the share that is done: of the text, or of the limit if that is nearer."""
    if progress is not None:
        progress(max(share, done / limit if limit else 0.0), tokens)
