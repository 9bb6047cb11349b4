"""A generation in slices of time, for programs that have other work many times a second."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..constraints.constraint import Constraint
from ..sampling import Sampler, TokenSampler
from .confidence import Weighed

if TYPE_CHECKING:
    from ..generate import Generation
    from ..model import Model
    from ..state import State


class Slices:
    r"""A generation that works only when `work` is called, and only until a deadline.

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
        "stop" or "length" at the end, and None before.
    logprob : float
        Natural logarithm of the probability that the model itself gives `tokens`, without the
        constraint.

    Raises
    ------
    ArgumentError, UnsupportedError
        As `Model.generate`.

    Examples
    --------
    >>> import time, tinyrwkv
    >>> thought = Slices(tinyrwkv.load(), "User: turn left\n\nAssistant:", max_tokens=4)
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
        self.model = model
        self.max_tokens = max_tokens
        self.constraint = constraint
        self.tokens: list[int] = []
        self.logprob = 0.0
        self.stop_reason: str | None = None
        self._prompt = prompt if isinstance(prompt, str) else list(prompt)
        self._state = state
        self._sampler: TokenSampler = sampler or Sampler(temperature=0)
        self._generate(deadline=None, constraint=constraint)  # only to check the arguments

    @property
    def text(self) -> str:
        """The text so far, with U+FFFD in place of an incomplete character."""
        return self.model.tokenizer.decode(self.tokens)

    def work(self, deadline: float) -> bool:
        """Go on until a deadline.

        Parameters
        ----------
        deadline : float
            Absolute ``time.monotonic()`` time. It is overrun by at most 2 ms or the time for one
            layer of the model, whichever is longer. A slice shorter than a token changes nothing.

        Returns
        -------
        bool
            True when all is done.
        """
        if self.stop_reason is not None:
            return True
        weighed = None
        if self.constraint is not None:
            before = self.model.tokenizer.decode_bytes(self.tokens)
            weighed = Weighed(self.constraint.after(before))
        generation = self._generate(deadline, weighed)
        logprob = sum(piece.logprob for piece in generation)
        if weighed is not None:
            logprob += weighed.log_share
        self.logprob += logprob
        result = generation.result
        self.tokens += result.tokens
        if result.stop_reason != "deadline":
            self.stop_reason = result.stop_reason
            return True
        self._prompt = result.unread
        self._state = result.state
        self._sampler = generation.sampler
        return False

    def _generate(
        self, deadline: float | None, constraint: Constraint | Weighed | None
    ) -> Generation:
        """Return a generation of the tokens that are left."""
        return self.model.generate(
            self._prompt,
            state=self._state,
            sampler=self._sampler,
            max_tokens=self.max_tokens - len(self.tokens),
            deadline=deadline,
            constraint=constraint,
        )
