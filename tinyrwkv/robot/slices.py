"""A generation in slices of time, for programs with other work to do many times a second."""

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
    r"""A generation that works only when it is told to, and until it is told to stop.

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
        Natural logarithm of the probability that the model itself gives `tokens`, without the
        constraint.

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
        self._state = state
        self._sampler: TokenSampler = sampler or Sampler(temperature=0)
        self._generate(deadline=None, constraint=constraint)  # which checks the arguments

    @property
    def text(self) -> str:
        """What has been generated, with U+FFFD in place of a character that is incomplete."""
        return self.model.tokenizer.decode(self.tokens)

    def work(self, deadline: float) -> bool:
        """Go on until a deadline.

        Parameters
        ----------
        deadline : float
            Absolute ``time.monotonic()`` time. It is kept within the longer of 2 ms and the time
            for one layer of the model. A slice that is shorter than a token changes nothing.

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
        self._prompt, self._state, self._sampler = result.unread, result.state, generation.sampler
        return False

    def _generate(
        self, deadline: float | None, constraint: Constraint | Weighed | None
    ) -> Generation:
        """Return the generation of what is left."""
        return self.model.generate(
            self._prompt,
            state=self._state,
            sampler=self._sampler,
            max_tokens=self.max_tokens - len(self.tokens),
            deadline=deadline,
            constraint=constraint,
        )
