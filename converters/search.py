"""Find the options that lose least within a budget of memory.

Each option is tried alone: what it costs in nll on held text, and how many bytes it keeps out of memory when 200 tokens
are sampled from a cold start. Both are about additive, so the best sum that fits is built, and measured in earnest;
where it takes more than was thought, the next one is tried.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

from tinyrwkv.errors import ArgumentError, UnsupportedError
from tinyrwkv.extra.terminal import show_size

from .measure import sample_cold
from .pipeline import Options, Pipeline

RANKS: tuple[dict[str, Any], ...] = ({}, *({"rank_budget": share} for share in (0.8, 0.65, 0.5, 0.35)))
NEURONS: tuple[dict[str, Any], ...] = (
    {"sparse_ffn": "exact"},
    *({"sparse_ffn": "predict", "keep": keep} for keep in (0.22, 0.14)),
)
HEADS: tuple[dict[str, Any], ...] = ({}, *({"head": "preview", "head_rows": rows} for rows in (2048, 640)))


class Trial(NamedTuple):
    """What an option does alone: its nll less that of the dense model, and the same for bytes in memory."""

    options: dict[str, Any]
    nll: float
    resident: int


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
    kinds = [[_try(pipeline, options, nll, resident) for options in kind] for kind in (RANKS, NEURONS, HEADS)]
    for one in itertools.chain(*kinds):
        tried += [(Options(**one.options), nll + one.nll, resident + one.resident)] if one.options else []
    sums = sorted(
        (sum(one.nll for one in chosen), sum(one.resident for one in chosen), i, chosen)
        for i, chosen in enumerate(itertools.product(*kinds))
    )
    room, least = budget - resident, min(size for _, size, _, _ in sums)
    while fitting := [one for one in sums if one[1] <= room]:
        _, thought, _, chosen = fitting[0]
        options = Options(**{key: value for one in chosen for key, value in one.options.items()})
        _build(pipeline, options)
        found = _resident(pipeline)
        tried.append((options, pipeline.nll, found))
        if found <= budget:
            return _told(budget, options, found, tried)
        room = min(room, thought) - max(1, found - budget)
    expected = f"{show_size(resident + least)} or so, the least of {pipeline.metadata['source']['name']}"
    raise ArgumentError("search", "budget", show_size(budget), expected, "raise the budget")


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
            "search", "budget", "a system that does not tell what is in memory", "Linux", "give options"
        )
    return found


def _told(budget: int, options: Options, resident: int, tried: list[tuple[Options, float, int]]) -> dict[str, Any]:
    listed = [{"options": describe(one), "nll": nll, "resident": size} for one, nll, size in tried]
    return {"budget": budget, "chosen": describe(options), "resident": resident, "tried": listed}


def describe(options: Options) -> str:
    """Return options as they are given on a command line."""
    write: dict[str, Callable[[Any], str]] = {"rank_budget": lambda v: f"{100 * v:g}%" if v <= 1 else str(int(v))}
    given = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f" {write.get(name, str)(value)}")
        for name, value in options._asdict().items()
        if value not in (None, False, 0)
    ]
    return " ".join(given) or "none"
