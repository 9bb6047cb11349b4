"""Find the options that lose least within a budget of memory.

Each option is tried alone: what it costs in nll on held text, and how many bytes it keeps out of memory when 200 tokens
are sampled from a cold start. Both are about additive, so the best sum that fits is built, and measured in earnest. By
how much that was not what was thought, those with the same channel mix are thought to differ too; so a few are built.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

from tinyrwkv.errors import ArgumentError, UnsupportedError
from tinyrwkv.units import show_size

from ..judge.cost import sample_cold
from .pipeline import Options, Pipeline

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
"""Sums that are built, at most."""


class Trial(NamedTuple):
    """What an option does alone: its nll less that of the dense model, and the same for bytes in memory."""

    options: dict[str, Any]
    nll: float
    resident: int


class Sum(NamedTuple):
    """What options should do together: the nll more than the dense model's, and bytes in memory."""

    nll: float
    resident: int
    options: Options


def within(pipeline: Pipeline, budget: int) -> dict[str, Any]:
    """Apply to a pipeline the options with the lowest nll whose bytes in memory stay within a budget.

    Parameters
    ----------
    pipeline : Pipeline
        Calibrated.
    budget : int
        Bytes of the file in memory after 200 tokens sampled from a cold start.

    Returns
    -------
    dict
        ``budget``, ``chosen``, ``resident``, and all that was ``tried``, with options, nll and resident.

    Raises
    ------
    ArgumentError
        No options stay within it.
    UnsupportedError
        This system does not tell what is in memory.
    """
    nll, resident = pipeline.nll, _resident(pipeline)
    tried = [(Options(), nll, resident)]
    _build(pipeline, exact := Options(**NEURONS[0]))
    if (found := _resident(pipeline)) <= budget:
        return _told(budget, exact, found, [*tried, (exact, nll, found)])
    pipeline.reset()
    kinds = [
        [_try(pipeline, options, nll, resident) for options in kind]
        for kind in (RANKS, NEURONS, HEADS)
    ]
    for alone in itertools.chain(*kinds):
        tried += (
            [(Options(**alone.options), nll + alone.nll, resident + alone.resident)]
            if alone.options
            else []
        )
    sums = [_sum(chosen, resident) for chosen in itertools.product(*kinds)]
    best: Sum | None = None
    built, beyond = dict[Options, int](), dict[str | None, int]()

    def thought(one: Sum) -> int:
        return one.resident + beyond.get(one.options.sparse_ffn, 0)

    for _ in range(BUILDS):
        fitting = [
            one for one in sums if thought(one) <= budget and (best is None or one.nll < best.nll)
        ]
        if not sums or (best is not None and not fitting):
            break
        one = min(fitting, key=lambda one: one.nll) if fitting else min(sums, key=thought)
        sums.remove(one)
        _build(pipeline, one.options)
        found = built[one.options] = _resident(pipeline)
        tried.append((one.options, pipeline.nll, found))
        beyond[one.options.sparse_ffn] = found - one.resident
        if found <= budget:
            best = one
        elif not fitting:
            break  # that was the smallest
    if best is None:
        expected = f"{show_size(min(built.values()))}, the least of {pipeline.metadata['source']['name']}, or more"
        raise ArgumentError("search", "budget", show_size(budget), expected, "raise the budget")
    if best.options != one.options:
        _build(pipeline, best.options)
    return _told(budget, best.options, built[best.options], tried)


def _sum(trials: tuple[Trial, ...], resident: int) -> Sum:
    options = Options(**{key: value for one in trials for key, value in one.options.items()})
    return Sum(
        sum(one.nll for one in trials), resident + sum(one.resident for one in trials), options
    )


def _try(pipeline: Pipeline, options: dict[str, Any], nll: float, resident: int) -> Trial:
    if not options:
        return Trial(options, 0.0, 0)
    (stage,) = pipeline.stages(Options(**options))
    path = pipeline.write(stage)
    try:
        cost = 0.0 if stage.lossless else pipeline.judge(path) - nll
        return Trial(options, cost, _resident(pipeline, path) - resident)
    finally:
        os.unlink(path)


def _build(pipeline: Pipeline, options: Options) -> None:
    pipeline.reset()
    for stage in pipeline.stages(options):
        pipeline.apply(stage)


def _resident(pipeline: Pipeline, path: str | None = None) -> int:
    """Return the bytes in memory of a file, by default that of the present model: a copy, as it is not mapped yet."""
    copy = os.path.join(pipeline.folder, "cold.trwkv")
    shutil.copyfile(path or pipeline.model.path, copy)
    found = sample_cold(copy).resident
    if found is None:
        raise UnsupportedError(
            "search",
            "budget",
            "a system that does not tell what is in memory",
            "Linux",
            "give options",
        )
    return found


def _told(
    budget: int, options: Options, resident: int, tried: list[tuple[Options, float, int]]
) -> dict[str, Any]:
    listed = [{"options": describe(one), "nll": nll, "resident": size} for one, nll, size in tried]
    return {"budget": budget, "chosen": describe(options), "resident": resident, "tried": listed}


def describe(options: Options) -> str:
    """Return options as they are given on a command line."""
    write: dict[str, Callable[[Any], str]] = {
        "rank_budget": lambda v: f"{100 * v:g}%" if v <= 1 else str(int(v))
    }
    given = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f" {write.get(name, str)(value)}")
        for name, value in options._asdict().items()
        if value not in (None, False, 0)
    ]
    return " ".join(given) or "none"
