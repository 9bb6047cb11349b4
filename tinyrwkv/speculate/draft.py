"""Let a smaller model of the same vocabulary guess."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ..core import Core
from ..engine.reader import MOST_AT_ONCE
from ..generate import InterruptionError
from ..kernels.abi import MAX_TOKENS
from ..tokenizer import END_OF_DOCUMENT
from .chance import Chance
from .costs import Costs

FIRST_CHANCE = 0.7
"""Before the first guess."""

STATES = MOST_AT_ONCE + 1
"""States that are kept: before the first token that was drafted, and after each."""


class Draft:
    """Reads the text with a small model, and proposes the tokens that it holds most likely.

    A generation that goes on from a state has a text before it that the small model does not know.
    It sees the prompt alone then.

    Parameters
    ----------
    model : Core
    costs : Costs
        Of the large model.
    stopped : callable
        Asked while the model reads; a true answer ends that.
    """

    def __init__(self, model: Core, costs: Costs, stopped: Callable[[], Any]) -> None:
        self._model = model
        self._costs = costs
        self._stopped = stopped
        self._chance = Chance(FIRST_CHANCE)
        self._own_costs = Costs()
        begin = model.new_state().data
        self._states = np.empty((STATES, len(begin)), np.float32)
        self._states[0] = begin
        self._at = 0  # which of the states is the one after the text that was read
        self._unread = array("i")  # the rest of the text
        self._drafted: list[int] = []  # what is believed to follow, as long as it comes true
        self._ahead = 0  # how many of these tokens were read
        self._logits = np.empty(model.config["vocab_size"], np.float32)  # (V,)

    @property
    def chance(self) -> float:
        """How likely the next guess comes true."""
        return self._chance.value

    @property
    def each(self) -> float:
        """What a token costs here, in times of a single token of the large model."""
        return self._own_costs.of_one / self._costs.of_one if self._costs.of_one else 0.0

    def hear(self, tokens: Iterable[int]) -> None:
        """Add tokens to the text; those that were drafted need not be read again."""
        for token in tokens:
            self._chance.come_back()
            if self._ahead and self._drafted[0] == token:
                del self._drafted[0]
                self._ahead -= 1
                self._at = (self._at + 1) % STATES
            else:
                self._ahead = 0
                self._unread.append(token)

    def choose(self, token: int) -> None:
        """Add a token to the text."""
        self.hear([token])

    def judge(self, proposed: int, right: int) -> None:
        """Learn how many of the tokens proposed last were chosen."""
        self._chance.judge(proposed, right)

    def propose(self, most: int) -> list[int]:
        """Return the tokens that the model holds most likely, up to the end of a document.

        Raises
        ------
        InterruptionError
            There is no time left.
        """
        self._drafted = []
        self._ahead = 0  # some may be left, if not all were read that were proposed last
        while len(self._unread) > 1:
            self._read_text(self._unread[: min(MAX_TOKENS, len(self._unread) - 1)])
        if not self._unread:
            return []
        begin = time.perf_counter()
        self._read_text(self._unread[:], self._logits)
        token = int(self._logits.argmax())
        while token != END_OF_DOCUMENT:
            self._drafted.append(token)
            if len(self._drafted) == most:
                break
            self._read([token], self._ahead, self._logits)
            self._ahead += 1
            token = int(self._logits.argmax())
        self._own_costs.learn(1, (time.perf_counter() - begin) / max(len(self._drafted), 1))
        return self._drafted[:]

    def _read_text(self, tokens: Sequence[int], logits: np.ndarray | None = None) -> None:
        """Read the next tokens of the text."""
        self._read(tokens, 0, logits)
        del self._unread[: len(tokens)]
        self._at = (self._at + 1) % STATES

    def _read(self, tokens: Sequence[int], ahead: int, logits: np.ndarray | None) -> None:
        """Read tokens after so many that were drafted, into the next state."""
        old, new = (self._states[(self._at + ahead + i) % STATES] for i in (0, 1))
        ids = np.array(tokens, np.int32)
        if not self._model.reader.read(ids, old, new, logits, self._stopped):
            raise InterruptionError
