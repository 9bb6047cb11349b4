"""How probable some texts are after a prompt, which is read once."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .errors import ArgumentError
from .generate import END_OF_DOCUMENT
from .opcodes import MAX_TOKENS

if TYPE_CHECKING:
    from .model import Model
    from .state import State


class Scored(NamedTuple):
    """A choice and how probable it is.

    Attributes
    ----------
    text : str
    logprob : float
        Natural logarithm of the probability that the model goes on with just this text.
    tokens, bytes : int
        How long the text is.
    """

    text: str
    logprob: float
    tokens: int
    bytes: int

    @property
    def per_token(self) -> float:
        """The mean over the tokens, which does not favour short texts."""
        return self.logprob / self.tokens

    @property
    def per_byte(self) -> float:
        """The mean over the bytes, which compares across vocabularies too."""
        return self.logprob / self.bytes


def score(
    model: Model, prompt: str | Iterable[int], choices: Iterable[str], state: State | None = None
) -> list[Scored]:
    """Do what ``Model.score`` does.

    log P(choice | prompt) = sum over its tokens of (logit of the token - log sum exp(logits)).
    """
    texts = tuple(choices) if isinstance(choices, Iterable) and not isinstance(choices, (str, bytes)) else ()
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise ArgumentError(
            "score", "choices", f"{choices!r}"[:80], "texts of 1 character or more", "give a list of str"
        )
    ids = model.tokenizer.encode(prompt) if isinstance(prompt, (str, bytes)) else list(prompt)
    first, after = model.forward([END_OF_DOCUMENT, *ids] if state is None else ids, state, logits="last")
    return [_scored(model, text, first, after) for text in texts]


def _scored(model: Model, text: str, first: Any, state: State) -> Scored:
    tokens = model.tokenizer.encode(text)
    logprob = _logprob(first, tokens[0])
    rows: Any
    for start in range(0, len(tokens) - 1, MAX_TOKENS):  # logits of so many tokens are in memory at once
        chunk = tokens[start : start + MAX_TOKENS + 1]
        rows, state = model.forward(chunk[:-1], state, logits="all")
        logprob += sum(_logprob(row, token) for row, token in zip(rows, chunk[1:], strict=True))
    return Scored(text, logprob, len(tokens), len(text.encode()))


def _logprob(logits: np.ndarray, token: int) -> float:
    logits = logits.astype(np.float64)
    peak = float(logits.max())
    return float(logits[token]) - peak - math.log(float(np.exp(logits - peak).sum()))
