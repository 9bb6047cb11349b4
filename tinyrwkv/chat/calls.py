"""Tell orders to a robot, which are answered with calls such as ``move(1)``, from conversation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..sampling import Sampler

if TYPE_CHECKING:
    from ..model import Model

LONGEST = 256
"""Tokens of an order at most; longer texts are conversation, and not read twice."""


class Calls:
    """Asks the model itself how probable it is that the answer begins with the name of a call.

    The question is put as if nothing had been said before. Models learn orders that way, and small
    ones no longer understand them after a conversation.

    Parameters
    ----------
    model : Model
    names : iterable of str
        The calls, for instance ("move", "turn"); without any, nothing is an order.
    """

    def __init__(self, model: Model, names: Iterable[str]) -> None:
        self.model = model
        self._first = sorted({model.tokenizer.encode(f" {name}(")[0] for name in names})

    def expected(self, prompt: str, deadline: float | None = None) -> bool:
        """Tell whether a prompt is more likely to be answered by a call than by anything else.

        Parameters
        ----------
        prompt : str
            The first turn of a conversation, up to where the answer begins.
        deadline : float, optional
            Absolute ``time.monotonic()`` time; False where it ends the reading.
        """
        if not self._first or len(self.model.tokenizer.encode(prompt)) > LONGEST:
            return False
        reading = self.model.generate(prompt, max_tokens=0, deadline=deadline)
        for _ in reading:
            pass
        if reading.result.stop_reason != "length":
            return False
        return bool(Sampler().probabilities(reading.logits)[self._first].sum() > 0.5)
