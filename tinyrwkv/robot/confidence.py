"""How sure a model is of an answer under a constraint, and from where on to trust it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import ArgumentError

if TYPE_CHECKING:
    from ..model import Model


class Weighed:
    """A constraint that also tells what the model would rather have said.

    Parameters
    ----------
    constraint : Regex
        `Choice`, `JsonSchema` and `Scripts` are some too.

    Attributes
    ----------
    log_share : float
        Sum over the tokens of the logarithm of the probability that all allowed ones had together. Added to the sum of
        ``piece.logprob`` it gives the probability of the answer by the model itself, had nothing been ruled out.
    """

    def __init__(self, constraint: Any) -> None:
        self.constraint, self.log_share = constraint, 0.0

    def start(self, model: Model) -> _Walk:
        """Return a walk along one text; begins `log_share` anew."""
        self.log_share = 0.0
        return _Walk(self, self.constraint.start(model))


class _Walk:
    def __init__(self, weighed: Weighed, walk: Any) -> None:
        self._weighed, self._walk = weighed, walk
        self.advance = walk.advance

    def mask(self, logits: np.ndarray, exact: Any = None) -> None:
        every = _log_sum(logits)
        self._walk.mask(logits, exact)
        self._weighed.log_share += _log_sum(logits) - every


def _log_sum(logits: np.ndarray) -> float:
    """Return log(sum(exp(logits)))."""
    peak = float(logits.max())
    return (
        peak + math.log(float(np.exp(logits - np.float32(peak)).sum()))
        if math.isfinite(peak)
        else peak
    )


class Point(NamedTuple):
    """What trusting all answers at least as sure as `threshold` gives."""

    threshold: float
    coverage: float
    precision: float


def curve(logprobs: Sequence[float], right: Sequence[bool]) -> list[Point]:
    """Return precision against coverage: a point for each number of answers trusted, the surest first.

    Parameters
    ----------
    logprobs : sequence of float
        How sure the model was of each answer.
    right : sequence of bool
        Whether it was right.

    Returns
    -------
    list of Point
        ``coverage`` is the share of answers trusted, ``precision`` the share of right ones among them.

    Examples
    --------
    >>> curve([-0.1, -2.0], [True, False])[1]
    Point(threshold=-2.0, coverage=1.0, precision=0.5)
    """
    pairs = sorted(zip(logprobs, right, strict=True), key=lambda pair: -pair[0])
    points, hits = [], 0
    for count, (logprob, good) in enumerate(pairs, 1):
        hits += bool(good)
        points.append(Point(logprob, count / len(pairs), hits / count))
    # Answers that are equally sure are trusted together.
    return [
        point
        for i, point in enumerate(points)
        if i + 1 == len(points) or points[i + 1].threshold < point.threshold
    ]


def calibrate(logprobs: Sequence[float], right: Sequence[bool], precision: float) -> Point:
    """Return the point of the largest coverage that has at least this precision.

    Raises
    ------
    ArgumentError
        None has.
    """
    good = [point for point in curve(logprobs, right) if point.precision >= precision]
    if not good:
        found = f"no threshold among {len(logprobs)} answers"
        raise ArgumentError(
            "calibrate", "precision", found, f"one of precision {precision}", "ask for less"
        )
    return good[-1]
