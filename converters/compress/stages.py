"""The techniques as stages: a model goes in, the tensors that replace some of its own come out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tinyrwkv import Model
from tinyrwkv.engine.plan import TYPICAL_TOKENS
from tinyrwkv.errors import ArgumentError
from tinyrwkv.versions.forms import matrix_shape
from tinyrwkv.versions.layout import FACTORED

from ..calibrate.calibration import MEMORY, Calibration, Tell, groups
from ..calibrate.collect import Statistics, collect
from ..techniques.low_rank import (
    Factors,
    Metric,
    choose_ranks,
    factored_bytes,
    round_factors,
    uniform_rank,
)
from ..techniques.predict_ffn import (
    Fit,
    Inputs,
    PredictorSettings,
    find_prices,
    fit_layer,
    order_at,
    predicted,
)
from ..techniques.preview_head import fit_preview, mean_probabilities, seen_bytes
from ..techniques.round_int4 import round_int4
from ..techniques.sparse_ffn import (
    AnyNeurons,
    Neurons,
    PackedNeurons,
    Tensors,
    hot_first,
    sparse_exact,
)
from ..write.edit import Edits
from .float_copy import dense_matrix, is_packed
from .spectra import Spectra, matrix

Array = np.ndarray
Shape = tuple[int, int]

COVERED = 512
"""Tokens that the coverage of the head is averaged over."""

SAMPLES = 8192
"""Tokens that predictors and the head are fitted to, at most; fewer for more than 4,096 neurons."""

POINTS = 60
"""Points of the curve of the head's coverage."""


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
        The part of the model, as `Model.plan` names it, in which kernels choose for each token
        what to read.
    lossless : bool
        Whether the model computes the same bits.
    dtype : str, optional
        The type of the matrices afterwards, if it changes.
    """

    technique: str
    edits: Edits
    params: dict[str, Any]
    report: dict[str, Any]
    figures: dict[str, Any]
    part: str | None = None
    lossless: bool = False
    dtype: str | None = None


# Projections


def projections(model: Model) -> list[str]:
    """Return the names of the dense matrices that can be factored.

    Raises
    ------
    ArgumentError
        There are none.
    """
    names = [name for name in model.file.tensors if name.endswith(FACTORED)]
    if not names:
        found, expected = "factors already", "dense matrices to factor"
        fix = "leave --low-rank and --rank-budget out"
        sentence = "the projections of the model are factors already"
        raise ArgumentError("the model", "low rank", found, expected, fix, sentence)
    return names


def factor_projections(
    model: Model,
    spectra: Spectra,
    tell: Tell,
    *,
    k: float | None = None,
    budget: int | None = None,
) -> Stage:
    """Store receptance, key, value and gate as the products of thin int8 factors.

    Parameters
    ----------
    model : Model
    spectra : Spectra
        Of its projections. With metrics, errors are measured by the inputs that occur and by what
        an error of each output does to the residual stream; without, by the weights alone.
    tell : callable
    k : float, optional
        The same rank for all projections: 1/k of the width, as in RWKV-Lite.
    budget : int, optional
        Adaptive ranks in the place of `k`: the bytes of all projections together.

    Returns
    -------
    Stage

    Raises
    ------
    ArgumentError
        The rank would save nothing, the budget is too small, or there is nothing left to factor.
    """
    names = projections(model)
    shapes = {name: _shape(model, name) for name in names}
    if budget is None:
        divisor = 0.0 if k is None else k  # 0 is refused
        ranks = {name: uniform_rank(shape, divisor) for name, shape in shapes.items()}
    else:
        ranks = _adaptive_ranks(spectra, shapes, budget, tell)

    edits: dict[str, Callable[[], Mapping[str, Array]]] = {}
    curves: dict[str, list[float]] = {}
    errors: dict[str, float] = {}
    for done, name in enumerate(names, 1):
        taken = spectra[name]
        curves[name] = taken.values.tolist()
        if ranks[name]:
            weight = matrix(model, name)
            metric = spectra.metric(name)
            factors = round_factors(weight, taken, ranks[name], metric)
            errors[name] = _relative_error(weight, factors, metric)
            edits[name] = partial(_factor_tensors, name, factors)
        tell("low rank", done, len(names))

    params: dict[str, Any] = {"k": k} if budget is None else {"bytes": budget}
    params["whiten"] = spectra.metrics is not None
    figures = {
        "spectra": curves,
        "ranks": ranks,
        "widths": {name: min(shape) for name, shape in shapes.items()},
    }
    return Stage("low rank", edits, params, _factors_report(shapes, ranks, errors), figures)


def _adaptive_ranks(
    spectra: Spectra, shapes: Mapping[str, Shape], budget: int, tell: Tell
) -> dict[str, int]:
    """Return the ranks that lose least within a budget of bytes; 0 stands for a dense matrix."""
    values = {}
    for done, name in enumerate(shapes, 1):
        values[name] = spectra.values(name)
        tell("ranks", done, len(shapes))
    # An error counts in relation to the root of what the matrix does. Two other ways were measured
    # to cost more: absolute errors take too much from the first layers, because these do little;
    # relative errors take too little from them.
    weights = {
        name: 1 / max(float(np.square(one).sum()), 1e-30) ** 0.5 for name, one in values.items()
    }
    return choose_ranks(shapes, values, weights, budget)


def _relative_error(weight: Array, factors: Factors, metric: Metric | None) -> float:
    """Return the root of the factors' error, relative to the error of zeros in their place."""
    metric = Metric(np.eye(weight.shape[1])) if metric is None else metric
    whole = max(metric.error(weight, 0 * weight), 1e-30)
    return float((metric.error(weight, factors.product()) / whole) ** 0.5)


def _factor_tensors(name: str, factors: Factors) -> dict[str, Array]:
    return {
        f"{name}.a": factors.a,
        f"{name}.a.scale": factors.a_scale,
        f"{name}.b": factors.b,
        f"{name}.b.scale": factors.b_scale,
    }


def _factors_report(
    shapes: Mapping[str, Shape], ranks: Mapping[str, int], errors: Mapping[str, float]
) -> dict[str, Any]:
    sizes = [
        factored_bytes(shapes[name], rank) if rank else _dense_bytes(shapes[name])
        for name, rank in ranks.items()
    ]
    worst = max(errors, key=errors.__getitem__, default="")
    return {
        "ranks": ranks,
        "bytes": sum(sizes),
        "bytes_before": sum(map(_dense_bytes, shapes.values())),
        "relative_error": sum(errors.values()) / max(1, len(errors)),
        "worst_tensor": worst,
        "worst_relative_error": errors.get(worst, 0.0),
    }


def _shape(model: Model, name: str) -> Shape:
    rows, columns = model.file.tensors[name].shape
    return rows, columns


def _dense_bytes(shape: Shape) -> int:
    return shape[0] * (shape[1] + 4)


# Channel mixes


def sparsify_ffn(
    model: Model,
    calibration: Calibration,
    tell: Tell,
    settings: PredictorSettings | None = None,
) -> Stage:
    """Store each channel mix so that only the weights of neurons that matter are read.

    Parameters
    ----------
    model : Model
        As it will run: the predictors are fitted to the inputs of its keys.
    calibration : Calibration
    tell : callable
    settings : PredictorSettings, optional
        Without them, all keys are read, and then the values of neurons that fire: in int8 the same
        bits, in int4 the same terms, which are added in another order.

    Returns
    -------
    Stage

    Raises
    ------
    ArgumentError
        The channel mixes are sparse already.
    """
    layers = _dense_channel_mixes(model)
    params: dict[str, Any]
    if settings is None:
        made = _exact_layers(model, calibration, tell, layers)
        params = {"mode": "exact"}
    else:
        made = _predicted_layers(model, calibration, tell, layers, settings)
        params = {"mode": "predict", **settings._asdict()}

    edits: dict[str, Callable[[], Mapping[str, Array]]] = {}
    for ffn, layer in zip(layers, made, strict=True):
        named = {ffn + end: array for end, array in layer.tensors.items()}
        edits[ffn + "key.weight"] = partial(_key_part, named)
        edits[_value(model, ffn)] = partial(_value_part, named)
        for name in (ffn + "s0", ffn + "s2.weight"):
            if name in model.file:  # the factors of v7a, one for each neuron
                edits[name] = partial(_in_order, model, name, layer.order)

    reports = [layer.report for layer in made]
    mean = {name: sum(one[name] for one in reports) / len(reports) for name in reports[0]}
    report = {**mean, "layers": reports}
    lossless = settings is None and model.config["dtype"] == "int8"
    return Stage("sparse ffn", edits, params, report, {}, "channel_mix", lossless)


class Layer(NamedTuple):
    """What replaces a channel mix.

    Attributes
    ----------
    tensors : dict of str to ndarray
        By the ends of their names.
    report : dict
    order : ndarray of int, shape (F,)
        The neurons in their new order.
    """

    tensors: Tensors
    report: dict[str, Any]
    order: Array


def _dense_channel_mixes(model: Model) -> list[str]:
    """Return what the names of each layer's channel mix begin with."""
    layers = [f"blocks.{layer}.ffn." for layer in range(model.config["n_layer"])]
    names = [name for ffn in layers for name in (ffn + "key.weight", _value(model, ffn))]
    # Values in int4 may be grouped by neuron. They lie in rows then, but in no order of use.
    made = [name for name in names if name.endswith(".rows") and not is_packed(model.file, name)]
    if made or any(name not in model.file for name in names):
        found, fix = "sparse channel mixes already", "leave --sparse-ffn out"
        sentence = "the channel mixes of the model are sparse already"
        raise ArgumentError("the model", "sparse ffn", found, "dense ones", fix, sentence)
    return layers


def _exact_layers(
    model: Model, calibration: Calibration, tell: Tell, layers: Sequence[str]
) -> list[Layer]:
    """Return the channel mixes, with the neurons that fire often first."""
    made: list[Layer] = []
    for group, _ in _layer_groups(model, layers):
        values = [_value(model, ffn) for ffn in group]
        show = partial(tell, "neurons")
        found = collect(model, calibration.fit, counts=values, progress=show)
        for ffn, value in zip(group, values, strict=True):
            counts = found.counts[value]
            sparsity = 1 - float(counts.mean()) / found.tokens
            report = {"neurons": len(counts), "sparsity": sparsity}
            tensors = sparse_exact(_neurons(model, ffn), counts)
            made.append(Layer(tensors, report, hot_first(counts)))
            tell("sparse ffn", len(made), len(layers))
    return made


def _predicted_layers(
    model: Model,
    calibration: Calibration,
    tell: Tell,
    layers: Sequence[str],
    settings: PredictorSettings,
) -> list[Layer]:
    """Return the channel mixes with their predictors.

    One price for all layers is found only when all of them are fitted.
    """
    fits: list[Fit] = []
    for group, samples in _layer_groups(model, layers):
        gates = {ffn: _gate(model, ffn) for ffn in group}
        found = collect(
            model,
            calibration.fit,
            inputs=[ffn + "key.weight" for ffn in group],
            squares=[gate for gate in gates.values() if gate is not None],
            samples=samples,
            progress=partial(tell, "neurons"),
        )
        for ffn, gate in gates.items():
            key = ffn + "key.weight"
            inputs = Inputs(found.inputs.pop(key), found.scales.pop(key))
            effects = _root_mean_square(found, gate)
            show = partial(tell, "network")
            fits.append(fit_layer(_neurons(model, ffn), inputs, effects, settings, show))
            tell("sparse ffn", len(fits), len(layers))
    prices = find_prices(fits, settings)
    return [
        Layer(*predicted(fit, price), order_at(fit, price))
        for fit, price in zip(fits, prices, strict=True)
    ]


def _layer_groups(model: Model, layers: Sequence[str]) -> Iterator[tuple[list[str], int]]:
    """Yield layers whose samples fit into memory together, and the tokens to sample."""
    F, C = matrix_shape(model.file.tensors[layers[0] + "key.weight"])
    samples = min(SAMPLES, (SAMPLES << 12) // F)
    size = samples * (2 * C + 4)  # int16 inputs and their float32 scale
    for group in groups([(ffn, size) for ffn in layers], MEMORY):
        yield group, samples


def _value(model: Model, ffn: str) -> str:
    """Return the name of the values of a channel mix: a matrix, or a table of rows."""
    rows = ffn + "value.rows"
    return rows if rows in model.file else ffn + "value.weight"


def _neurons(model: Model, ffn: str) -> AnyNeurons:
    key, value = ffn + "key.weight", _value(model, ffn)
    if is_packed(model.file, key) or is_packed(model.file, value):
        return PackedNeurons(_packed(model, key), _packed(model, value))
    names = (key, key + ".scale", value, value + ".scale")
    return Neurons(*(model.file[name] for name in names))


def _packed(model: Model, name: str) -> Array:
    """Return a key, or values by neuron, in int4; rounded to nearest if they are stored otherwise.

    Of a model whose other matrices keep their int8, only some may be in int4.
    """
    of_values = ".ffn.value." in name
    if is_packed(model.file, name) and of_values == name.endswith(".rows"):
        return model.file[name]
    weights = dense_matrix(model.file, name)
    return round_int4(np.ascontiguousarray(weights.T) if of_values else weights).packed()


def _gate(model: Model, ffn: str) -> str | None:
    """Return the matrix whose outputs multiply those of a channel mix; None from v7 on."""
    names = (f"{ffn}receptance.weight", f"{ffn}receptance.weight.b")
    return next((name for name in names if name in model.file), None)


def _root_mean_square(found: Statistics, gate: str | None) -> Array | None:
    return None if gate is None else np.sqrt(found.squares[gate]).astype(np.float32)


def _in_order(model: Model, name: str, order: Array) -> dict[str, Array]:
    """Return a tensor that has a row for each neuron, and its scales, in another order."""
    names = [name, f"{name}.scale"]
    return {one: model.file[one][order] for one in names if one in model.file}


def _key_part(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Return the tensors that stand in the place of the key."""
    return {name: array for name, array in tensors.items() if ".ffn.value." not in name}


def _value_part(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Return the tensors that stand in the place of the value."""
    return {name: array for name, array in tensors.items() if ".ffn.value." in name}


# The head


def preview_head(model: Model, calibration: Calibration, tell: Tell, rows: int, seed: int) -> Stage:
    """Sort the head's rows, most probable first, and add a preview that chooses which to read.

    Parameters
    ----------
    model : Model
        As it will run.
    calibration : Calibration
    tell : callable
    rows : int
        Candidates for each token: rows that are read exactly.
    seed : int

    Returns
    -------
    Stage

    Raises
    ------
    ArgumentError
        The head has a preview already.
    """
    name = "head.weight"
    if name not in model.file:
        found, fix = "a preview already", "leave --head out"
        sentence = "the head of the model has a preview already"
        raise ArgumentError("the model", "head", found, "a dense head", fix, sentence)
    show = partial(tell, "head inputs")
    statistics = collect(
        model, calibration.fit, inputs=[name], samples=SAMPLES, seed=seed, progress=show
    )
    states = statistics.inputs.pop(name) * statistics.scales.pop(name)[:, None]  # (n, C)
    weight = dense_matrix(model.file, name)  # (V, C)
    packed = model.file[name] if is_packed(model.file, name) else None

    tell("head", 0, 1)
    parts, report = fit_preview(weight, states, rows=rows, seed=seed, packed=packed)
    report["seen_bytes"] = seen_bytes(parts, states[:TYPICAL_TOKENS])
    tell("head", 1, 1)

    tensors = {f"head.{part}": array for part, array in parts.items()}
    params: dict[str, Any] = {"form": "preview", "rows": rows, "seed": seed}
    params |= {} if packed is None else {"dtype": "int4"}
    figures = {"coverage": _coverage(weight, states[:COVERED])}
    return Stage("head", {name: partial(dict, tensors)}, params, report, figures, "head")


def _coverage(weight: Array, states: Array) -> list[list[float]]:
    """Return pairs (n, p): the n most probable tokens have the probability p together."""
    p = np.sort(mean_probabilities(weight, states))[::-1].cumsum()
    counts = np.unique(np.geomspace(1, len(p), POINTS).astype(int))
    return [[int(count), float(p[count - 1])] for count in counts]
