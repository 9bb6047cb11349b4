"""A generation made in slices of time, for programs that have something else to do many times a second."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..constraints.constraint import Constraint
from ..sampling import Sampler
from .confidence import Weighed

if TYPE_CHECKING:
    from ..model import Model
    from ..state import State


class Slices:
    r"""A generation that works only while it is told to.

    Parameters
    ----------
    model : Model
    prompt : str or iterable of int
    state : State, optional
    sampler : Sampler, optional
        Greedy by default. Penalties count within a slice only.
    max_tokens : int, optional
    constraint : Constraint, optional
        A `Choice`, `Regex`, `JsonSchema` or `Scripts`.

    Attributes
    ----------
    tokens : list of int
    stop_reason : str or None
        "stop" or "length" at the end; None before.
    logprob : float
        Natural logarithm of the probability of `tokens` by the model itself, as if there were no constraint.

    Raises
    ------
    ArgumentError, UnsupportedError
        As `Model.generate`.

    Examples
    --------
    >>> import time, tinyrwkv
    >>> thought = Slices(tinyrwkv.load(), "User: turn left\n\nAssistant:", max_tokens=5)
    >>> while not thought.work(time.monotonic() + 0.02):
    ...     pass  # whatever else there is to do
    >>> thought.text, thought.stop_reason
    (' turn(90)', 'length')
    """

    def __init__(
        self,
        model: Model,
        prompt: str | Iterable[int],
        *,
        state: State | None = None,
        sampler: Sampler | None = None,
        max_tokens: int = 100,
        constraint: Constraint | None = None,
    ) -> None:
        self.model, self.max_tokens, self.constraint = model, max_tokens, constraint
        self.tokens: list[int] = []
        self.logprob = 0.0
        self.stop_reason: str | None = None
        self._prompt = prompt if isinstance(prompt, str) else list(prompt)
        self._state, self._sampler = state, sampler or Sampler(temperature=0)
        model.generate(
            self._prompt,
            state=state,
            sampler=self._sampler,
            max_tokens=max_tokens,
            constraint=constraint,
        )

    @property
    def text(self) -> str:
        """What has been generated, U+FFFD in place of a character that is incomplete."""
        return self.model.tokenizer.decode(self.tokens)

    def work(self, deadline: float) -> bool:
        """Go on until `deadline`; True when all is done.

        Parameters
        ----------
        deadline : float
            Absolute ``time.monotonic()`` time, kept within milliseconds: the longer of 2 ms and a layer of the model.
            A slice shorter than a token does nothing lasting.
        """
        if self.stop_reason is not None:
            return True
        before = self.model.tokenizer.decode_bytes(self.tokens)
        weighed = None if self.constraint is None else Weighed(self.constraint.after(before))
        generation = self.model.generate(
            self._prompt,
            state=self._state,
            sampler=self._sampler,
            max_tokens=self.max_tokens - len(self.tokens),
            deadline=deadline,
            constraint=weighed,
        )
        self.logprob += sum(piece.logprob for piece in generation) + (
            weighed.log_share if weighed else 0.0
        )
        result = generation.result
        self.tokens += result.tokens
        if result.stop_reason != "deadline":
            self.stop_reason = result.stop_reason
            return True
        self._prompt, self._state, self._sampler = result.unread, result.state, generation.sampler
        return False
