"""Choose what guesses the next tokens, and how many, by what it costs and how often it is right."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np

from ..arguments import refusal
from ..core import Core
from ..generate import ConstraintWalk
from ..loading import check_draft
from .costs import Costs
from .draft import Draft
from .forced import Forced
from .lookup import Lookup


class Proposer(Protocol):
    """One way to guess."""

    @property
    def chance(self) -> float:
        """How likely the next guess is; 0 if there is none."""

    @property
    def each(self) -> float:
        """What it costs to propose a token, in times of a single token of the model."""

    def hear(self, tokens: Iterable[int]) -> None:
        """Add tokens of the prompt to the text."""

    def choose(self, token: int) -> None:
        """Add a token that was chosen."""

    def propose(self, most: int) -> list[int]:
        """Return tokens that may follow, from 0 up to `most`."""

    def judge(self, proposed: int, right: int) -> None:
        """Learn how many of the tokens proposed last were chosen."""


class Guesses:
    """Asks the proposers in their order; see `reading.Speculation`.

    Parameters
    ----------
    proposers : sequence of Proposer
        The surest first.
    costs : Costs
    """

    def __init__(self, proposers: Sequence[Proposer], costs: Costs) -> None:
        self._proposers = proposers
        self._costs = costs
        self._asked = proposers[0]

    def hear(self, tokens: Iterable[int]) -> None:
        """Add tokens of the prompt to the text."""
        for proposer in self._proposers:
            proposer.hear(tokens)

    def choose(self, token: int) -> None:
        """Add a token that was chosen."""
        for proposer in self._proposers:
            proposer.choose(token)

    def propose(self, most: int) -> list[int]:
        """Return the tokens of the first proposer whose guess is worth reading."""
        for proposer in self._proposers:
            chance = proposer.chance
            count = self._costs.worth(chance, most, proposer.each) if chance else 0
            found = proposer.propose(count) if count else []
            if found:
                self._asked = proposer
                return found
        return []

    def judge(self, read: int, right: int) -> None:
        """Learn how many of the tokens proposed last were read, and were chosen."""
        self._asked.judge(read, right)

    def learn(self, tokens: int, seconds: float) -> None:
        """Learn how long it took to read a number of tokens at once."""
        self._costs.learn(tokens, seconds)


_costs: WeakKeyDictionary[Core, Costs] = WeakKeyDictionary()


def start(
    model: Core,
    walk: ConstraintWalk | None,
    lookup: bool,
    draft: Core | None,
    stopped: Callable[[], Any],
) -> Guesses | None:
    """Return what guesses the tokens of one generation; None if nothing does.

    Nothing does where a chunk would change bits: on the numpy backend.

    Parameters
    ----------
    model : Core
    walk : ConstraintWalk or None
    lookup : bool
        Whether to look the last tokens up in the text before them.
    draft : Core or None
        A smaller model that guesses.
    stopped : callable
        Asked while the smaller model reads; a true answer ends that.

    Raises
    ------
    ArgumentError
        An argument is of another type, or the vocabulary of the smaller model is another one.
    """
    if not isinstance(lookup, (bool, np.bool_)):
        raise refusal("generate", "lookup", lookup, "True or False", "give one of them")
    if draft is not None:
        check_draft(model, draft)
    if not model.backend.exact_chunks:
        return None
    costs = _costs.setdefault(model, Costs())
    proposers: list[Proposer] = []
    forced = getattr(walk, "forced", None)
    if callable(forced):
        proposers.append(Forced(forced, model.config["vocab_size"]))
    if lookup:
        proposers.append(Lookup())
    if draft is not None:
        proposers.append(Draft(draft, costs, stopped))
    return Guesses(proposers, costs) if proposers else None
