"""Find the options that lose least within a budget of memory.

First the smallest combination is built: a budget that even this exceeds is refused at once. Then
each option is tried alone: how much it raises the nll of held-out text, and how many bytes it keeps
out of memory when 200 tokens are sampled from a cold start. Both are nearly additive, so sums tell
what a combination of options does. The best combination that fits is built and measured. The sum of
its bytes is off by an error, which is taken to be that of all combinations with the same kind of
channel mix. With this correction, a few more combinations are built.
"""

from __future__ import annotations

import itertools
import math
import os
import shutil
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from tinyrwkv.errors import ArgumentError, UnsupportedError, os_errors
from tinyrwkv.file.config import CompressionStep
from tinyrwkv.units import show_size

from ..judge.cost import sample_cold
from .options import Options
from .pipeline import Pipeline
from .presets import LITE

RANKS: tuple[dict[str, Any], ...] = (
    {},
    *({"rank_budget": share} for share in (0.8, 0.65, 0.5, 0.35)),
)
NEURONS: tuple[dict[str, Any], ...] = (
    {"sparse_ffn": "exact"},
    *({"sparse_ffn": "predict", "keep": keep} for keep in (0.22, 0.14)),
)
HEADS: tuple[dict[str, Any], ...] = (
    {},
    *({"head": "preview", "head_rows": rows} for rows in (2048, 640, 200)),
)

BUILDS = 6
"""Combinations that are built, at most."""

MEASURED = 2 + len(RANKS + NEURONS + HEADS) - 2 + 3 + BUILDS
"""Models that are measured, at most: two before the smallest, each option alone, those built."""

SLACK = 1 << 16
"""Bytes by which a measurement may differ from the next: pages that the system maps in passing."""


class Trial(NamedTuple):
    """What an option does alone, compared with the dense model.

    Attributes
    ----------
    options : dict
    nll : float
        By how much it raises the nll.
    resident : int
        By how much it raises the bytes in memory; usually below 0.
    """

    options: dict[str, Any]
    nll: float
    resident: int


class Combination(NamedTuple):
    """What options are estimated to do together.

    Attributes
    ----------
    nll : float
        By how much they raise the nll of the dense model.
    resident : int
        Bytes in memory.
    options : Options
    """

    nll: float
    resident: int
    options: Options


class Measured(NamedTuple):
    """Options that were measured, alone or together: their nll and their bytes in memory."""

    options: Options
    nll: float
    resident: int


def within(pipeline: Pipeline, budget: int) -> dict[str, Any]:
    """Apply the options with the lowest nll whose bytes in memory stay within a budget.

    Parameters
    ----------
    pipeline : Pipeline
        Calibrated.
    budget : int
        Bytes of the file in memory after 200 tokens sampled from a cold start.

    Returns
    -------
    dict
        ``budget``, ``chosen``, ``resident``, and all that was ``tried``, with options, nll and
        resident.

    Raises
    ------
    ArgumentError
        No options stay within it.
    UnsupportedError
        This system does not tell what is in memory.
    """
    dense = Measured(Options(), pipeline.nll, _resident(pipeline))
    exact = _measure(pipeline, Options(**NEURONS[0]), dense.nll)
    if exact.resident <= budget:
        return _report(budget, exact, [dense, exact])
    smallest = _smallest(pipeline, dense)
    if smallest.resident > budget:
        raise _too_small(pipeline.metadata["source"]["name"], budget, smallest.resident)
    pipeline.reset()

    kinds = [
        [_try(pipeline, options, dense) for options in kind] for kind in (RANKS, NEURONS, HEADS)
    ]
    alone = [
        Measured(Options(**one.options), dense.nll + one.nll, dense.resident + one.resident)
        for one in itertools.chain(*kinds)
        if one.options
    ]
    combinations = [estimate(trials, dense.resident) for trials in itertools.product(*kinds)]
    built, best = _build_best(pipeline, combinations, budget)
    best = smallest if best is None else best
    if not built or best is not built[-1]:
        _build(pipeline, best.options)
    pipeline.notes += _more_than_lite(pipeline.metadata["compression"])
    return _report(budget, best, [dense, smallest, *alone, *built])


def _smallest(pipeline: Pipeline, dense: Measured) -> Measured:
    """Build what keeps least in memory, whatever it loses: of each kind the last, if it helps."""
    pipeline.reset()
    chosen: dict[str, Any] = {}
    resident = dense.resident
    for kind in (RANKS, NEURONS, HEADS):
        for stage in pipeline.stages(Options(**kind[-1])):
            path = pipeline.write(stage)
            found = _resident(pipeline, path)
            os.unlink(path)
            if found < resident:
                pipeline.apply(stage)
                chosen |= kind[-1]
                resident = found
    return Measured(Options(**chosen), pipeline.nll, resident)


def _too_small(name: str, budget: int, least: int) -> ArgumentError:
    """Return the refusal of a budget, which names one that works."""
    unit, size = ("MB", 10**6) if least >= 10**6 else ("kB", 10**3)
    enough = f"{math.ceil(10 * (least + SLACK) / size) / 10:g}{unit}"
    found, expected = show_size(budget), f"{enough} or more"
    saved = f"{name} takes {show_size(least)} of memory with the options that save most"
    sentence = f"{saved}, more than the budget of {found}"
    return ArgumentError("search", "budget", found, expected, f"give --budget {enough}", sentence)


def _more_than_lite(steps: Sequence[CompressionStep]) -> list[str]:
    """Return a note for each technique that loses more than the preset lite would accept."""
    most = LITE.max_nll_rise or 0.0
    notes = []
    for step in steps:
        rise = step["report"].get("nll_rise")
        if rise is not None and rise > most:
            cost = f"{step['technique']} raises the nll of held-out documents by {rise:.1%}"
            refused = f"--preset lite leaves out what costs more than {most:.1%}"
            notes.append(f"to stay within the budget, {cost}; {refused}: give a larger budget")
    return notes


def _build_best(
    pipeline: Pipeline, combinations: list[Combination], budget: int
) -> tuple[list[Measured], Measured | None]:
    """Build combinations, the most promising first.

    Return all that were built, and the best that fits.
    """
    built: list[Measured] = []
    best: Measured | None = None
    best_nll = float("inf")  # as it was estimated, like that of the others
    errors: dict[str | None, int] = {}  # of the estimated bytes, by the kind of channel mix

    def corrected(one: Combination) -> int:
        return one.resident + errors.get(one.options.sparse_ffn, 0)

    for _ in range(BUILDS):
        fitting = [one for one in combinations if corrected(one) <= budget and one.nll < best_nll]
        if not combinations or (best is not None and not fitting):
            break
        if fitting:
            one = min(fitting, key=lambda one: one.nll)
        else:
            one = min(combinations, key=corrected)
        combinations.remove(one)
        found = _measure(pipeline, one.options)
        built.append(found)
        errors[one.options.sparse_ffn] = found.resident - one.resident
        if found.resident <= budget:
            best, best_nll = found, one.nll
        elif not fitting:
            break  # it was estimated to be the smallest
    return built, best


def estimate(trials: Iterable[Trial], resident: int) -> Combination:
    """Return what options are expected to do together.

    Parameters
    ----------
    trials : iterable of Trial
    resident : int
        Bytes of the dense model in memory.

    Returns
    -------
    Combination
    """
    nll = 0.0
    options: dict[str, Any] = {}
    for one in trials:
        nll += one.nll
        resident += one.resident
        options |= one.options
    return Combination(nll, resident, Options(**options))


def _try(pipeline: Pipeline, options: dict[str, Any], dense: Measured) -> Trial:
    """Measure an option alone, without applying it."""
    if not options:
        return Trial(options, 0.0, 0)
    (stage,) = pipeline.stages(Options(**options))
    path = pipeline.write(stage)
    try:
        cost = 0.0 if stage.lossless else pipeline.judge(path) - dense.nll
        return Trial(options, cost, _resident(pipeline, path) - dense.resident)
    finally:
        os.unlink(path)


def _measure(pipeline: Pipeline, options: Options, nll: float | None = None) -> Measured:
    """Build a model and measure it; its nll only if it is not given."""
    _build(pipeline, options)
    return Measured(options, pipeline.nll if nll is None else nll, _resident(pipeline))


def _build(pipeline: Pipeline, options: Options) -> None:
    pipeline.reset()
    for stage in pipeline.stages(options):
        pipeline.apply(stage)


def _resident(pipeline: Pipeline, path: str | None = None) -> int:
    """Return how many bytes of a file are in memory; by default, of the present model's file.

    A copy is measured, because it is not mapped yet.
    """
    pipeline.measured += 1
    pipeline.tell("search", pipeline.measured, MEASURED)
    copy = os.path.join(pipeline.folder, "cold.trwkv")
    with os_errors(copy, "write"):
        shutil.copyfile(path or pipeline.model.path, copy)
    resident = sample_cold(copy).resident
    if resident is None:
        found, fix = "a system that does not tell what is in memory", "give options in its place"
        sentence = "--budget works only on Linux, which tells what is in memory"
        raise UnsupportedError("search", "budget", found, "Linux", fix, sentence)
    return resident


def _report(budget: int, chosen: Measured, tried: Sequence[Measured]) -> dict[str, Any]:
    listed = [
        {"options": one.options.as_arguments(), "nll": one.nll, "resident": one.resident}
        for one in tried
    ]
    return {
        "budget": budget,
        "chosen": chosen.options.as_arguments(),
        "resident": chosen.resident,
        "tried": listed,
    }
