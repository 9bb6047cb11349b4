"""A sampler that can tell afterwards what its last choice was made from."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

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
        """Choose a token as `Sampler.sample` does, and remember the logits and the token."""
        token, logprob = super().sample(logits)
        if self.seen is None or self.seen.shape != logits.shape:
            self.seen = np.empty(logits.shape, np.float32)
        self.seen[:] = logits
        self.chosen = token
        return token, logprob

    def with_setting(self, key: str, value: float | None) -> Recorder:
        """Return a sampler with one setting changed.

        The new sampler draws the random numbers that this one would draw next, unless the setting
        is the seed.

        Raises
        ------
        ArgumentError
            The value is out of its range.
        """
        other = replace(self, **{key: value})  # type: ignore[arg-type]
        if key != "seed":
            other._random = deepcopy(self._random)
        return other

    def likeliest(self, n: int = 5) -> list[tuple[int, float, bool]]:
        """Return the n likeliest tokens of the last step.

        Returns
        -------
        list of (int, float, bool)
            The id, its probability before temperature and the other settings, and whether it was
            chosen.
        """
        if self.seen is None:
            return []
        return [(token, p, token == self.chosen) for token, p in self.top(self.seen, n)]
