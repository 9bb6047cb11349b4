"""Tell orders to a robot from conversation: orders are answered with calls such as ``move(1)``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..sampling import Sampler

if TYPE_CHECKING:
    from ..model import Model

LONGEST = 256
"""Most tokens of an order. Longer texts are conversation, and are not read twice."""


_RESTS = ("(", '("', "()")
"""How a call goes on after its name.

A vocabulary may have a token for the name with one of them, and none for the name alone. An answer
then begins with a token for the blank alone if no such token fits: that says nothing of calls.
"""


class Calls:
    """Asks the model itself how probable it is that the answer begins with the name of a call.

    It asks as if nothing had been said before. Models learn orders that way, and small models no
    longer understand orders after a conversation.

    Parameters
    ----------
    model : Model
    names : iterable of str
        The calls, for instance ("move", "turn"). Without calls, nothing is an order.
    """

    def __init__(self, model: Model, names: Iterable[str]) -> None:
        self.model = model
        tokenizer = model.tokenizer
        begun = (f" {name}{rest}" for name in names for rest in _RESTS)
        first = {tokenizer.encode(text)[0] for text in begun}
        self._first = sorted(token for token in first if tokenizer.token_bytes(token).strip())

    def expected(self, prompt: str, deadline: float | None = None) -> bool:
        """Tell whether a prompt is answered by a call with a probability above 0.5.

        Parameters
        ----------
        prompt : str
            The first turn of a conversation, up to where the answer begins.
        deadline : float, optional
            Absolute ``time.monotonic()`` time. If it ends the reading, the answer is False.
        """
        if not self._first or len(self.model.tokenizer.encode(prompt)) > LONGEST:
            return False
        reading = self.model.generate(prompt, max_tokens=0, deadline=deadline)
        for _ in reading:
            pass
        if reading.result.stop_reason != "length":
            return False
        return bool(Sampler().probabilities(reading.logits)[self._first].sum() > 0.5)
