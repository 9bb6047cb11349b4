"""The techniques, each as a stage: a model goes in, out come the tensors that replace some of its own, and a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tinyrwkv import Model
from tinyrwkv.engine.plan import TYPICAL_TOKENS
from tinyrwkv.errors import ArgumentError
from tinyrwkv.file.quant import dequantize_rows
from tinyrwkv.versions.layout import FACTORED

from ..calibrate.calibration import MEMORY, Calibration, Metrics, Tell, groups
from ..calibrate.collect import collect
from ..techniques.low_rank import (
    Metric,
    choose_ranks,
    factored_bytes,
    round_factors,
    spectrum,
    uniform_rank,
)
from ..techniques.predict_ffn import Fit, Inputs, Settings, find_prices, fit_layer, predicted
from ..techniques.preview_head import fit_preview, mean_probabilities, seen_bytes
from ..techniques.sparse_ffn import Neurons, sparse_exact
from ..write.edit import Edits

Array = np.ndarray

COVERED = 512
"""Tokens after which the coverage of the head is looked at."""

SAMPLES = 8192
"""Tokens that predictors and the head are fitted to, at most; fewer for more than 4,096 neurons."""


class Stage(NamedTuple):
    """What a technique does to a model.

    Attributes
    ----------
    technique : str
    edits : mapping
        See `edit`.
    params, report : dict
        For the metadata: what was asked for, and the error of what was done.
    figures : dict
        For the pictures of the report.
    part : str, optional
        Of the model, as `Model.plan` names it, where kernels choose what to read for each token.
    lossless : bool
        Whether the model computes the same bits.
    """

    technique: str
    edits: Edits
    params: dict[str, Any]
    report: dict[str, Any]
    figures: dict[str, Any]
    part: str | None = None
    lossless: bool = False


def matrix(model: Model, name: str) -> Array:
    """Return a matrix of an int8 model as float32."""
    return dequantize_rows(model.file[name], model.file[name + ".scale"])


def projections(model: Model) -> list[str]:
    """Return the names of the dense matrices that can be factored.

    Raises
    ------
    ArgumentError
        There are none.
    """
    names = [name for name in model.file.tensors if name.endswith(FACTORED)]
    if not names:
        found, fix = "factors already", "leave --low-rank out"
        raise ArgumentError(model.path, "low rank", found, "dense matrices to factor", fix)
    return names


def low_rank(
    model: Model,
    metrics: Metrics | None,
    tell: Tell,
    *,
    k: float | None = None,
    budget: int | None = None,
) -> Stage:
    """Store receptance, key, value and gate as the products of thin int8 factors.

    Parameters
    ----------
    model : Model
    metrics : Metrics or None
        Errors are measured by the inputs that occur, and by what an error of each output does to the residual stream;
        without them by the weights alone.
    tell : callable
    k : float, optional
        The same rank for all, 1/k of the width, as in RWKV-Lite;
    budget : int, optional
        or ranks by need: the bytes of all projections together.

    Returns
    -------
    Stage

    Raises
    ------
    ArgumentError
        The rank would save nothing, the budget is out of reach, or there is nothing left to factor.
    """
    names = projections(model)
    shapes = {
        name: (model.file.tensors[name].shape[0], model.file.tensors[name].shape[1])
        for name in names
    }
    metric_of: Callable[[str], Metric | None] = (
        (lambda name: None) if metrics is None else metrics.__getitem__
    )
    if budget is None:
        ranks = {
            name: uniform_rank(shape, 0.0 if k is None else k) for name, shape in shapes.items()
        }
    else:
        values = {}
        for i, name in enumerate(names):
            values[name] = spectrum(matrix(model, name), metric_of(name)).values
            tell("ranks", i + 1, len(names))
        # Errors count by the root of what the matrix does: measured, that costs less than to take them as they are, by
        # which the first layers, which do little, lose too much, or as shares, by which they lose too little.
        weights = {
            name: 1 / max(float(np.square(one).sum()), 1e-30) ** 0.5 for name, one in values.items()
        }
        ranks = choose_ranks(shapes, values, weights, budget)
    edits: dict[str, Callable[[], Mapping[str, Array]]] = {}
    curves, errors = dict[str, list[float]](), dict[str, float]()
    for i, name in enumerate(names):
        weight, metric = matrix(model, name), metric_of(name)
        taken = spectrum(weight, metric)
        curves[name] = taken.values.tolist()
        if ranks[name]:
            factors = round_factors(weight, taken, ranks[name], metric)
            by = Metric(np.eye(weight.shape[1])) if metric is None else metric
            errors[name] = (
                by.error(weight, factors.product()) / max(by.error(weight, 0 * weight), 1e-30)
            ) ** 0.5
            stored = {
                ".a": factors.a,
                ".a.scale": factors.a_scale,
                ".b": factors.b,
                ".b.scale": factors.b_scale,
            }
            edits[name] = partial(dict, {name + end: array for end, array in stored.items()})
        tell("low rank", i + 1, len(names))
    sizes = [
        factored_bytes(shapes[name], rank) if rank else _dense_bytes(shapes[name])
        for name, rank in ranks.items()
    ]
    worst = max(errors, key=errors.__getitem__, default="")
    params: dict[str, Any] = {"k": k} if budget is None else {"bytes": budget}
    report = {
        **{
            "ranks": ranks,
            "bytes": sum(sizes),
            "bytes_before": sum(map(_dense_bytes, shapes.values())),
        },
        **{"relative_error": sum(errors.values()) / max(1, len(errors)), "worst_tensor": worst},
        "worst_relative_error": errors.get(worst, 0.0),
    }
    figures = {
        "spectra": curves,
        "ranks": ranks,
        "widths": {name: min(shape) for name, shape in shapes.items()},
    }
    return Stage("low rank", edits, {**params, "whiten": metrics is not None}, report, figures)


def _dense_bytes(shape: tuple[int, int]) -> int:
    return shape[0] * (shape[1] + 4)


def sparse_ffn(
    model: Model, calibration: Calibration, tell: Tell, settings: Settings | None = None
) -> Stage:
    """Store each channel mix so that only the weights of neurons that matter are read.

    Parameters
    ----------
    model : Model
        As it will run: the predictors are fitted to what goes into its keys.
    calibration : Calibration
    tell : callable
    settings : Settings, optional
        Of the predictors; without them all keys are read, and then the values of neurons that fire: the same bits.

    Returns
    -------
    Stage

    Raises
    ------
    ArgumentError
        The channel mixes are sparse already.
    """
    layers = [f"blocks.{layer}.ffn." for layer in range(model.config["n_layer"])]
    if any(ffn + end not in model.file for ffn in layers for end in ("key.weight", "value.weight")):
        fix = "leave --sparse-ffn out"
        raise ArgumentError(
            model.path, "sparse ffn", "sparse channel mixes already", "dense ones", fix
        )
    F, C = model.file.tensors[layers[0] + "key.weight"].shape
    samples = min(SAMPLES, (SAMPLES << 12) // F)
    reports, made, fits = list[dict[str, Any]](), list[dict[str, Array]](), list[Fit]()
    for group in groups([(ffn, samples * (2 * C + 4)) for ffn in layers], MEMORY):
        values = [ffn + "value.weight" for ffn in group if settings is None]
        keys = [ffn + "key.weight" for ffn in group if settings is not None]
        gates = [name for ffn in group if settings is not None and (name := _gate(model, ffn))]
        show = partial(tell, "neurons")
        found = collect(
            model,
            calibration.fit,
            counts=values,
            inputs=keys,
            squares=gates,
            samples=samples,
            progress=show,
        )
        for ffn in group:
            names = ("key.weight", "key.weight.scale", "value.weight", "value.weight.scale")
            neurons = Neurons(*(model.file[ffn + name] for name in names))
            if settings is None:
                counts = found.counts[ffn + "value.weight"]
                made.append(sparse_exact(neurons, counts))
                reports.append({"neurons": F, "sparsity": 1 - float(counts.mean()) / found.tokens})
            else:
                inputs = Inputs(
                    found.inputs.pop(ffn + "key.weight"), found.scales.pop(ffn + "key.weight")
                )
                squares = found.squares.get(_gate(model, ffn) or "")
                effects = None if squares is None else np.sqrt(squares).astype(np.float32)
                fits.append(fit_layer(neurons, inputs, effects, settings, partial(tell, "network")))
            tell("sparse ffn", max(len(made), len(fits)), len(layers))
    if settings is not None:
        for fit, price in zip(fits, find_prices(fits, settings), strict=True):
            tensors, one = predicted(fit, price)
            made.append(tensors)
            reports.append(one)
    edits: dict[str, Callable[[], Mapping[str, Array]]] = {}
    for ffn, tensors in zip(layers, made, strict=True):
        named = {ffn + end: array for end, array in tensors.items()}
        edits[ffn + "key.weight"], edits[ffn + "value.weight"] = (
            partial(_some, named, False),
            partial(_some, named, True),
        )
    report = {name: sum(one[name] for one in reports) / len(reports) for name in reports[0]} | {
        "layers": reports
    }
    params: dict[str, Any] = (
        {"mode": "exact"} if settings is None else {"mode": "predict", **settings._asdict()}
    )
    return Stage("sparse ffn", edits, params, report, {}, "channel_mix", lossless=settings is None)


def _gate(model: Model, ffn: str) -> str | None:
    """Return the matrix whose outputs multiply those of a channel mix; None for v7, which has no such gate."""
    names = (f"{ffn}receptance.weight", f"{ffn}receptance.weight.b")
    return next((name for name in names if name in model.file), None)


def _some(tensors: Mapping[str, Array], value: bool) -> dict[str, Array]:
    """Return the tensors that stand in the place of the value, or of the key."""
    return {name: array for name, array in tensors.items() if (".ffn.value." in name) == value}


def head(model: Model, calibration: Calibration, tell: Tell, rows: int, seed: int) -> Stage:
    """Store the head's rows most probable first, with a preview of all that tells which to read.

    Parameters
    ----------
    model : Model
        As it will run.
    calibration : Calibration
    tell : callable
    rows : int
        To read exactly for each token.
    seed : int

    Returns
    -------
    Stage

    Raises
    ------
    ArgumentError
        The head has a preview already.
    """
    if "head.weight" not in model.file:
        raise ArgumentError(
            model.path, "head", "a preview already", "a dense head", "leave --head out"
        )
    show = partial(tell, "head inputs")
    found = collect(
        model, calibration.fit, inputs=["head.weight"], samples=SAMPLES, seed=seed, progress=show
    )
    states = found.inputs.pop("head.weight") * found.scales.pop("head.weight")[:, None]  # (n, C)
    weight = matrix(model, "head.weight")  # (V, C)
    tell("head", 0, 1)
    parts, report = fit_preview(weight, states, rows=rows, seed=seed)
    report["seen_bytes"] = seen_bytes(parts, states[:TYPICAL_TOKENS])
    tell("head", 1, 1)
    p = np.sort(mean_probabilities(weight, states[:COVERED]))[::-1].cumsum()
    counts = np.unique(np.geomspace(1, len(p), 60).astype(int))
    figures = {"coverage": [[int(n), float(p[n - 1])] for n in counts]}
    tensors = {f"head.{name}": array for name, array in parts.items()}
    params = {"form": "preview", "rows": rows, "seed": seed}
    return Stage("head", {"head.weight": partial(dict, tensors)}, params, report, figures, "head")
