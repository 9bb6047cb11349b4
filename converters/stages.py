"""The techniques, each as a stage: a model goes in, out come the tensors that replace some of its own, and a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tinyrwkv import Model
from tinyrwkv.errors import ArgumentError
from tinyrwkv.layout import FACTORED
from tinyrwkv.quant import dequantize_rows

from .calibration import Metrics, Tell
from .low_rank import Metric, choose_ranks, factored_bytes, round_factors, spectrum, uniform_rank
from .rewrite import Edits

Array = np.ndarray


class Stage(NamedTuple):
    """What a technique does to a model.

    Attributes
    ----------
    technique : str
    edits : mapping
        See `rewrite`.
    params, report : dict
        For the metadata: what was asked for, and the error of what was done.
    figures : dict
        For the pictures of the report.
    lossless : bool
        Whether the model computes the same bits.
    """

    technique: str
    edits: Edits
    params: dict[str, Any]
    report: dict[str, Any]
    figures: dict[str, Any]
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
    model: Model, metrics: Metrics | None, tell: Tell, *, k: float | None = None, budget: int | None = None
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
    shapes = {name: (model.file.tensors[name].shape[0], model.file.tensors[name].shape[1]) for name in names}
    metric_of: Callable[[str], Metric | None] = (lambda name: None) if metrics is None else metrics.__getitem__
    if budget is None:
        ranks = {name: uniform_rank(shape, 0.0 if k is None else k) for name, shape in shapes.items()}
    else:
        values = {}
        for i, name in enumerate(names):
            values[name] = spectrum(matrix(model, name), metric_of(name)).values
            tell("ranks", i + 1, len(names))
        ranks = choose_ranks(shapes, values, dict.fromkeys(names, 1.0), budget)
    edits: dict[str, Callable[[], Mapping[str, Array]]] = {}
    curves, errors = dict[str, list[float]](), dict[str, float]()
    for i, name in enumerate(names):
        weight, metric = matrix(model, name), metric_of(name)
        taken = spectrum(weight, metric)
        curves[name] = taken.values.tolist()
        if ranks[name]:
            factors = round_factors(weight, taken, ranks[name], metric)
            by = Metric(np.eye(weight.shape[1])) if metric is None else metric
            errors[name] = (by.error(weight, factors.product()) / max(by.error(weight, 0 * weight), 1e-30)) ** 0.5
            stored = {".a": factors.a, ".a.scale": factors.a_scale, ".b": factors.b, ".b.scale": factors.b_scale}
            edits[name] = partial(dict, {name + end: array for end, array in stored.items()})
        tell("low rank", i + 1, len(names))
    sizes = [factored_bytes(shapes[name], rank) if rank else _dense_bytes(shapes[name]) for name, rank in ranks.items()]
    worst = max(errors, key=errors.__getitem__, default="")
    params: dict[str, Any] = {"k": k} if budget is None else {"bytes": budget}
    report = {
        **{"ranks": ranks, "bytes": sum(sizes), "bytes_before": sum(map(_dense_bytes, shapes.values()))},
        **{"relative_error": sum(errors.values()) / max(1, len(errors)), "worst_tensor": worst},
        "worst_relative_error": errors.get(worst, 0.0),
    }
    figures = {"spectra": curves, "ranks": ranks, "widths": {name: min(shape) for name, shape in shapes.items()}}
    return Stage("low rank", edits, {**params, "whiten": metrics is not None}, report, figures)


def _dense_bytes(shape: tuple[int, int]) -> int:
    return shape[0] * (shape[1] + 4)


def exact_values(model: Model) -> Stage:
    """Store the values of the channel mix by neurons, so that only those of neurons other than 0 are read.

    Parameters
    ----------
    model : Model

    Returns
    -------
    Stage
        The model computes the same bits.
    """
    edits: dict[str, Callable[[], Mapping[str, Array]]] = {}

    def transpose(name: str) -> Mapping[str, Array]:
        rows = name.removesuffix("weight") + "rows"
        return {rows: np.ascontiguousarray(model.file[name].T), rows + ".scale": model.file[name + ".scale"]}

    for layer in range(model.config["n_layer"]):
        name = f"blocks.{layer}.ffn.value.weight"
        if name in model.file:
            edits[name] = partial(transpose, name)
    return Stage("sparse ffn", edits, {"mode": "exact"}, {}, {}, lossless=True)
