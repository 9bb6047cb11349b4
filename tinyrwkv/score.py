"""How probable some texts are after a prompt, which is read once."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .errors import ArgumentError
from .state import State

if TYPE_CHECKING:
    from .model import Model


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
    texts = (
        tuple(choices)
        if isinstance(choices, Iterable) and not isinstance(choices, (str, bytes))
        else ()
    )
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise ArgumentError(
            "score",
            "choices",
            f"{choices!r}"[:80],
            "texts of 1 character or more",
            "give a list of str",
        )
    ids, state = model.check_prompt(prompt, state)
    *before, last = ids.tolist()
    after = _read(model, last, model.forward(before, state, logits=None)[1] if before else state)
    return [_scored(model, text, *after) for text in texts]


def _scored(
    model: Model, text: str, logits: np.ndarray, hidden: np.ndarray, state: State
) -> Scored:
    first, *rest = tokens = model.tokenizer.encode(text)
    logprob = _logprob(model, first, logits, hidden)
    for before, token in zip(tokens, rest, strict=False):
        logits, hidden, state = _read(model, before, state)
        logprob += _logprob(model, token, logits, hidden)
    return Scored(text, logprob, len(tokens), len(text.encode()))


def _read(model: Model, token: int, state: State) -> tuple[np.ndarray, np.ndarray, State]:
    """Return the logits after a token (V,), what went into the head (C + 1,), and the state."""
    after = State(np.empty_like(state.data), state.tokens + 1, state.origin)
    logits = np.empty((1, model.config["vocab_size"]), np.float32)
    hidden = np.zeros(model.config["n_embd"] + 1, np.float32)
    model.reader.read(np.array([token], np.int32), state.data, after.data, logits, None, hidden)
    return logits[0], hidden, after


def _logprob(model: Model, token: int, logits: np.ndarray, hidden: np.ndarray) -> float:
    wide = logits.astype(np.float64)
    wide[token] = model.exact_logits(np.array([token]), logits, hidden)[
        0
    ]  # of a head with a preview
    peak = float(wide.max())
    return float(wide[token]) - peak - math.log(float(np.exp(wide - peak).sum()))
