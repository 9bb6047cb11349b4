"""How probable some texts are after a prompt. The prompt is read once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from .arguments import items, refusal
from .core import Core
from .state import State
from .tokenizer import to_bytes


class Scored(NamedTuple):
    """A choice and how probable it is.

    Attributes
    ----------
    text : str
    logprob : float
        Natural logarithm of the probability that exactly this text follows.
    tokens, bytes : int
        How long the text is.

    Examples
    --------
    >>> scored = Scored(" left", logprob=-2.0, tokens=1, bytes=5)
    >>> scored.per_token, scored.per_byte
    (-2.0, -0.4)
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


class _After(NamedTuple):
    """What reading a token gives."""

    logits: np.ndarray  # (V,)
    hidden: np.ndarray  # (C + 1,), what went into the head
    state: State


def score(
    model: Core,
    prompt: str | Iterable[int],
    choices: Iterable[str],
    state: State | None = None,
) -> list[Scored]:
    """Do what ``Model.score`` does.

    log P(choice | prompt) = sum over its tokens of (logit of the token - log sum exp(logits)).
    """
    texts = _check_choices(choices)
    ids, state = model.check_prompt(prompt, state)
    if len(ids) > 1:
        _, state = model.forward(ids[:-1], state, logits=None)
    after_prompt = _read(model, int(ids[-1]), state)
    return [_score_text(model, text, after_prompt) for text in texts]


def _check_choices(choices: Iterable[str]) -> list[str]:
    """Return the choices as a list; raise an ArgumentError if there is none, or one is no text."""
    expected = "texts of 1 character or more"
    fix = "give a list of str"
    texts = items("score", "choices", choices, expected, fix)
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise refusal("score", "choices", texts, expected, fix)
    return texts


def _score_text(model: Core, text: str, after: _After) -> Scored:
    tokens = model.tokenizer.encode(text)
    total = _logprob(model, tokens[0], after)
    for before, token in itertools.pairwise(tokens):
        after = _read(model, before, after.state)
        total += _logprob(model, token, after)
    return Scored(text, total, len(tokens), len(to_bytes(text)))


def _read(model: Core, token: int, state: State) -> _After:
    """Return what reading a token gives."""
    new = State(np.empty_like(state.data), state.tokens + 1, state.origin)
    logits = np.empty(model.config["vocab_size"], np.float32)
    hidden = np.zeros(model.config["n_embd"] + 1, np.float32)
    ids = np.array([token], np.int32)
    model.reader.read(ids, state.data, new.data, logits, hidden=hidden)
    return _After(logits, hidden, new)


def _logprob(model: Core, token: int, after: _After) -> float:
    """Return the logarithm of the probability of a token."""
    logits = after.logits.astype(np.float64)
    # If the head has a preview, the logit of this token may be approximate.
    logits[token] = model.exact_logits(np.array([token]), after.logits, after.hidden)[0]
    peak = float(logits.max())
    return float(logits[token]) - peak - math.log(float(np.exp(logits - peak).sum()))
