"""How sure a model is of an answer under a constraint, and when to trust it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..constraints.constraint import Constraint
from ..constraints.walk import Walk
from ..errors import ArgumentError

if TYPE_CHECKING:
    from ..core import Core


class Weighed:
    r"""A constraint that also tells how much of the probability it ruled out.

    A is the set of tokens that the constraint allows at a step, p(t) the model's own probability
    of token t::

        log_share = sum over the steps of log(sum of p(t) for t in A)
        log p(answer) = log_share + sum over the steps of piece.logprob

    because ``piece.logprob`` is the probability of a token among those in A.

    Parameters
    ----------
    constraint : Constraint
        A `Choice`, `Regex`, `JsonSchema` or `Scripts`.

    Attributes
    ----------
    log_share : float
        As above, a natural logarithm.
    """

    def __init__(self, constraint: Constraint) -> None:
        self.constraint = constraint
        self.log_share = 0.0

    def start(self, model: Core) -> _Walk:
        """Return a walk along one text, and begin `log_share` anew."""
        self.log_share = 0.0
        return _Walk(self, self.constraint.start(model))


class _Walk:
    def __init__(self, weighed: Weighed, walk: Walk) -> None:
        self._weighed = weighed
        self._walk = walk
        self.advance = walk.advance

    @property
    def stopped(self) -> Callable[[], object] | None:
        return self._walk.stopped

    @stopped.setter
    def stopped(self, stopped: Callable[[], object] | None) -> None:
        self._walk.stopped = stopped

    def mask(
        self, logits: np.ndarray, exact: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> None:
        of_all = _log_sum(logits)
        self._walk.mask(logits, exact)
        of_allowed = _log_sum(logits)
        self._weighed.log_share += of_allowed - of_all


def _log_sum(logits: np.ndarray) -> float:
    """Return log(sum(exp(logits)))."""
    peak = float(logits.max())
    if not math.isfinite(peak):
        return peak
    return peak + math.log(float(np.exp(logits - np.float32(peak)).sum()))


class Point(NamedTuple):
    """The result of trusting every answer whose log-probability is at least `threshold`.

    Attributes
    ----------
    threshold : float
    coverage : float
        The share of answers that are trusted.
    precision : float
        The share of trusted answers that are right.
    """

    threshold: float
    coverage: float
    precision: float


def curve(logprobs: Sequence[float], right: Sequence[bool]) -> list[Point]:
    """Return precision against coverage: a point for each number of answers that are trusted.

    Parameters
    ----------
    logprobs : sequence of float
        How sure the model was of each answer.
    right : sequence of bool
        Whether each answer was right.

    Returns
    -------
    list of Point
        The first point trusts only the surest answer, the last one trusts all.

    Examples
    --------
    >>> curve([-0.1, -2.0], [True, False])[1]
    Point(threshold=-2.0, coverage=1.0, precision=0.5)
    """
    surest_first = sorted(zip(logprobs, right, strict=True), key=lambda pair: -pair[0])
    points = list[Point]()
    hits = 0
    for count, (logprob, is_right) in enumerate(surest_first, 1):
        hits += bool(is_right)
        if points and not logprob < points[-1].threshold:
            points.pop()  # answers that are equally sure are trusted together
        points.append(Point(logprob, count / len(surest_first), hits / count))
    return points


def calibrate(logprobs: Sequence[float], right: Sequence[bool], precision: float) -> Point:
    """Return the point with the largest coverage among those of at least this precision.

    Raises
    ------
    ArgumentError
        No point has this precision.
    """
    good = [point for point in curve(logprobs, right) if point.precision >= precision]
    if not good:
        found = f"no threshold among {len(logprobs)} answers"
        expected = f"one of precision {precision}"
        sentence = f"{found} has a precision of {precision}"
        raise ArgumentError("calibrate", "precision", found, expected, "ask for less", sentence)
    return good[-1]
