"""A sampler that can tell afterwards what its last choice was made from."""

from __future__ import annotations

import numpy as np

from ..sampling import Sampler


class Recorder(Sampler):
    """A `Sampler` that keeps the logits of the last step and the token it chose.

    Attributes
    ----------
    seen : ndarray, float32, shape (V,), or None
        None before the first step.
    chosen : int
    """

    seen: np.ndarray | None = None
    chosen = -1

    def sample(self, logits: np.ndarray) -> tuple[int, float]:
        """Choose a token as `Sampler.sample` does, and remember from what."""
        token, logprob = super().sample(logits)
        if self.seen is None or self.seen.shape != logits.shape:
            self.seen = np.empty(logits.shape, np.float32)
        self.seen[:] = logits
        self.chosen = token
        return token, logprob

    def likeliest(self, n: int = 5) -> list[tuple[int, float, bool]]:
        """Return the n likeliest tokens of the last step as (id, probability, whether it was chosen).

        The probabilities are the model's own, before temperature and the rest.
        """
        if self.seen is None:
            return []
        return [(token, p, token == self.chosen) for token, p in self.top(self.seen, n)]
