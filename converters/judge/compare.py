"""Compare a model with another on the same tokens: what a compressed file lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tinyrwkv import Model
from tinyrwkv.errors import ArgumentError, FormatError
from tinyrwkv.kernels.abi import MAX_TOKENS

from .texts import END_OF_DOCUMENT

Array = np.ndarray


@dataclass
class Difference:
    """How far a model is from another.

    Attributes
    ----------
    tokens : int
        That both models scored.
    nll, other_nll : float
        Sums of the negative log-likelihoods, in nats.
    top, other_top : int
        How often the token was the first choice.
    agreed : int
        How often both made the same first choice.
    divergence : float
        Sum of KL(other || model), in nats.
    """

    tokens: int = 0
    nll: float = 0.0
    other_nll: float = 0.0
    top: int = 0
    other_top: int = 0
    agreed: int = 0
    divergence: float = 0.0

    def figures(self) -> dict[str, float]:
        """Return the means: the differences are this model's figures minus those of the other."""
        n = max(1, self.tokens)
        return {
            "tokens": self.tokens,
            "nll_per_token": self.other_nll / n,
            "top1": self.other_top / n,
            "nll_delta": (self.nll - self.other_nll) / n,
            "top1_delta": (self.top - self.other_top) / n,
            "greedy_agreement": self.agreed / n,
            "kl": self.divergence / n,
        }


def differing(a: Array, b: Array) -> int:
    """Return how many float32 of two arrays of one shape differ in a bit."""
    return int(np.count_nonzero(a.view(np.int32) != b.view(np.int32)))


def compare(
    model: Model,
    other: Model,
    documents: Iterable[Sequence[int]],
    progress: Callable[[int], None] | None = None,
) -> Difference:
    """Read documents with two models, each from a new state, and compare what they expect.

    Parameters
    ----------
    model, other : Model
        With the same vocabulary.
    documents : iterable of sequence of int
        Without the token 0 in front; all their tokens are scored.
    progress : callable, optional
        Called with the number of tokens read.

    Returns
    -------
    Difference

    Raises
    ------
    ArgumentError
        The vocabularies differ.
    FormatError
        Logits are not numbers, because a file is damaged.
    """
    check_same(model, other)
    found = Difference()
    reader, other_reader = _Reader(model), _Reader(other)
    for ids in documents:
        inputs = model.check_tokens([END_OF_DOCUMENT, *ids[:-1]])
        reader.begin()
        other_reader.begin()
        for start in range(0, len(ids), MAX_TOKENS):
            chunk = inputs[start : start + MAX_TOKENS]
            targets = np.asarray(ids[start : start + MAX_TOKENS])
            _add(found, reader.read(chunk), other_reader.read(chunk), targets)
        if not math.isfinite(found.nll + found.other_nll):
            wrong, expected = "nan or infinity", "finite numbers"
            fix = "check the files with tinyrwkv verify and convert them again"
            sentence = f"{model.path} or {other.path} has logits that are {wrong}"
            raise FormatError(model.path, "logits", wrong, expected, fix, sentence)
        if progress is not None:
            progress(found.tokens)
    return found


def check_same(model: Model, other: Model) -> None:
    """Refuse models with different vocabularies.

    Parameters
    ----------
    model, other : Model

    Raises
    ------
    ArgumentError
    """
    size, other_size = model.config["vocab_size"], other.config["vocab_size"]
    names = [name for name in model.file.tensors if name.startswith("tokenizer.")]
    same = all(
        name in other.file and np.array_equal(model.file[name], other.file[name]) for name in names
    )
    if size != other_size:
        found = f"{other.path} with {other_size} tokens"
        sentence = f"{other.path} has {other_size} tokens, but {model.path} has {size}"
    elif not same:
        found = f"{other.path} with other tokens"
        sentence = f"{other.path} has other tokens than {model.path}"
    else:
        return
    expected, fix = f"the {size} of {model.path}", "give files of one vocabulary"
    raise ArgumentError("eval", "against", found, expected, fix, sentence)


class _Reader:
    """Reads documents with a model, in memory that is reserved once."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.logits = np.empty((MAX_TOKENS, model.config["vocab_size"]), np.float32)  # (16, V)
        self.first = model.new_state().data
        self.old, self.new = np.empty_like(self.first), np.empty_like(self.first)

    def begin(self) -> None:
        self.old[:] = self.first

    def read(self, ids: Array) -> Array:
        """Return log-probabilities after each token, (T, V)."""
        z = self.logits[: len(ids)]
        self.model.reader.read(ids, self.old, self.new, z)
        self.old, self.new = self.new, self.old
        with np.errstate(all="ignore"):
            z -= z.max(axis=1, keepdims=True)
            z -= np.log(np.exp(z).sum(axis=1, keepdims=True))
        return z


def _add(found: Difference, mine: Array, theirs: Array, targets: Array) -> None:
    """Count tokens, from the log-probabilities of both models, (T, V).

    ::

        KL(other || model) = sum_t p_t (log p_t - log q_t),  p of the other, q of the model
    """
    rows = np.arange(len(targets))
    best, other_best = mine.argmax(axis=1), theirs.argmax(axis=1)
    found.tokens += len(targets)
    found.nll -= float(mine[rows, targets].sum(dtype=np.float64))
    found.other_nll -= float(theirs[rows, targets].sum(dtype=np.float64))
    found.top += int((best == targets).sum())
    found.other_top += int((other_best == targets).sum())
    found.agreed += int((best == other_best).sum())
    found.divergence += float((np.exp(theirs) * (theirs - mine)).sum(dtype=np.float64))
