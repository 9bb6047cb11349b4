"""How far one generation has come under a constraint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import ArgumentError, TinyRWKVError
from ..tokenizer import Tokenizer
from .masks import FEW, Masks

NEAR = 4.0
"""If more than `FEW` tokens are allowed, only those this near to the largest logit are exact."""


class Walk:
    """A way through the automaton of a constraint, token by token.

    Parameters
    ----------
    masks : Masks
    tokenizer : Tokenizer

    Attributes
    ----------
    stopped : callable or None
        A generation sets it, to be asked while `mask` works: a true answer ends that.
    """

    def __init__(self, masks: Masks, tokenizer: Tokenizer) -> None:
        self._masks = masks
        self._tokenizer = tokenizer
        self._place = masks.begin()
        self.stopped: Callable[[], Any] | None = None

    def mask(
        self, logits: np.ndarray, exact: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> None:
        """Put ``-inf`` in the place of the logits of tokens that may not follow.

        Parameters
        ----------
        logits : ndarray, float32, shape (V,)
            At least one stays. If a byte can follow, that byte is a token itself. If none can,
            the text is complete, and token 0 can follow.
        exact : callable, optional
            Takes ids and returns better logits for them. It is asked for the tokens that stay. If
            these are more than `FEW`, it is asked for the best of them only.

        Raises
        ------
        InterruptionError
            `stopped` has told to end; the logits are as they were.
        """
        allowed = self._masks.allowed(self._place, self.stopped)
        if allowed.dtype == np.int32:
            kept = logits.take(allowed) if exact is None else exact(allowed)
            logits.fill(-np.inf)
            logits.put(allowed, kept)
            return
        forbidden = np.unpackbits(allowed, count=len(logits)).view(bool)
        np.copyto(logits, -np.inf, where=forbidden)
        if exact is not None:
            best = _best(logits)
            logits[best] = exact(best)

    def advance(self, token: int) -> bool:
        """Go on by a token that was chosen.

        Returns
        -------
        bool
            False if nothing can follow, because the text is complete.

        Raises
        ------
        TinyRWKVError
            The token was not allowed.
        """
        data = self._tokenizer.token_bytes(token)
        if data:
            self._place = self._masks.advance(self._place, token, data)
        if not data or not self._place:
            found = f"token {token}, {data[:40]!r}"
            expected = "a token that the constraint allows"
            fix = "let it choose only tokens whose logits are not -inf"
            sentence = f"the sampler chose {found}, which the constraint does not allow"
            raise TinyRWKVError("generate", "sampler", found, expected, fix, sentence)
        return self._place.automaton.goes_on(self._place.state)

    def forced(self, most: int) -> list[int]:
        """Return tokens, at most so many, that may spell the first part of what must follow.

        Other tokens that spell it are allowed too.

        Raises
        ------
        InterruptionError
            `stopped` has told to end.
        """
        try:
            return self._masks.forced(self._place, most, self._tokenizer, self.stopped)
        except ArgumentError:  # too much work: then nothing is guessed
            return []

    def read(self, data: bytes) -> bool:
        """Go on by some bytes; return False if they do not fit."""
        self._place = self._masks.read(self._place, data)
        return bool(self._place)


def _best(logits: np.ndarray) -> np.ndarray:
    """Return the ids of the largest logits, at most `FEW`, int64."""
    best = np.flatnonzero(logits > logits.max() - NEAR)
    if len(best) > FEW:
        best = best[np.argpartition(logits[best], -FEW)[-FEW:]]
    return best
