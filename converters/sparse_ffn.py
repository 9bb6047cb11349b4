"""Store a channel mix so that only the weights of neurons that matter are read.

A channel mix is hidden = relu(K x)^2, y = V hidden; neuron f is row f of K and column f of V. Most of hidden is exactly
0. Two forms do not read the weights that this makes useless:

* exact: all of K is read, then the columns of V of neurons that fire; the same integers are summed, so nothing changes.
* predict: one bit for each weight of K tells which neurons may matter; only their rows and columns are read, which
  lie side by side, as bundles of which none crosses a page.

In both, neurons are put in another order, the hottest first, so that the weights often used share pages.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinyrwkv.errors import ArgumentError
from tinyrwkv.layout import PAGE, bundle_shape
from tinyrwkv.quant import dequantize_rows

from .sign_predictor import SignPredictor, fit_signs, scores

Array = np.ndarray
Tensors = dict[str, Array]


class Neurons(NamedTuple):
    """The channel mix of one layer in int8, as a dense file has it.

    Attributes
    ----------
    key : ndarray, int8, shape (F, C)
    key_scale : ndarray, float32, shape (F,)
    value : ndarray, int8, shape (C, F)
    value_scale : ndarray, float32, shape (C,)
    """

    key: Array
    key_scale: Array
    value: Array
    value_scale: Array

    def ordered(self, order: Array) -> Neurons:
        """Return the same neurons in another order; outputs stay the same, as sums of integers have none."""
        return Neurons(self.key[order], self.key_scale[order], self.value[:, order], self.value_scale)


class Inputs(NamedTuple):
    """What goes into a key matrix after calibration text, as int8 kernels take it (`calibrate.Statistics`).

    Attributes
    ----------
    q : ndarray, int16, shape (n, C)
    scale : ndarray, float32, shape (n,)
    """

    q: Array
    scale: Array


class Settings(NamedTuple):
    """How much a predictor leaves out; the first that is not None counts.

    Attributes
    ----------
    price : float, optional
        Expected energy of a neuron at which reading it pays, in units of the layer's mean energy of a token.
    energy : float, optional
        Share of the energy of all neurons that the chosen ones must have after the calibration text.
    fraction : float, optional
        Share of the neurons that is chosen, on average.
    """

    price: float | None = None
    energy: float | None = None
    fraction: float | None = 0.17


def sparse_exact(neurons: Neurons, counts: Array) -> Tensors:
    """Store a channel mix for exact skipping of neurons that do not fire.

    Parameters
    ----------
    neurons : Neurons
    counts : ndarray, shape (F,)
        How often each neuron fires: `Statistics.counts` of the value matrix.

    Returns
    -------
    dict of str to ndarray
        Tensors by the ends of their names, what follows ``blocks.N.ffn.``: they replace key and value.
    """
    _check(neurons)
    neurons = neurons.ordered(hot_first(counts))
    return {
        "key.weight": neurons.key,
        "key.weight.scale": neurons.key_scale,
        "value.rows": np.ascontiguousarray(neurons.value.T),  # (F, C)
        "value.rows.scale": neurons.value_scale,
    }


def sparse_predict(
    neurons: Neurons, inputs: Inputs, settings: Settings | None = None, effects: Array | None = None
) -> tuple[Tensors, dict[str, Any]]:
    """Store a channel mix in bundles with a predictor of the neurons that matter.

    The energy of neuron f is ``(hidden_f |V_f|)^2``, what leaving it out would cost: neurons are chosen where the
    energy expected after the predictor's score is above a price.

    Parameters
    ----------
    neurons : Neurons
    inputs : Inputs
        Of the key matrix, of the model as it will run; 8,192 tokens are enough.
    settings : Settings, optional
    effects : ndarray, float32, shape (C,), optional
        How much an error in each output of the channel mix matters (the root mean square of its gate); 1 if left out.

    Returns
    -------
    tensors : dict of str to ndarray
        By the ends of their names, what follows ``blocks.N.ffn.``: they replace key and value. ``bundles`` must begin
        on a page of the file (``Writer.add(..., page_aligned=True)``).
    report : dict
        Plain JSON: ``neurons``, ``sparsity`` (share of neurons that do not fire), ``fraction`` (share chosen),
        ``recall`` (share of firing neurons that are chosen), ``energy`` (share of the energy that they have),
        ``price``, ``bytes_before``, ``bytes_after`` (touched for a token, on average).

    Raises
    ------
    ArgumentError
        A shape does not fit, C is no multiple of 64, or a setting is out of range.
    """
    settings = settings or Settings()
    F, C = _check(neurons)
    if C % 64:
        raise ArgumentError("sparse ffn", "C", C, "a multiple of 64, which predictors work on", "use the exact form")
    if inputs.q.shape[1:] != (C,) or inputs.scale.shape != (len(inputs.q),) or not len(inputs.q):
        raise ArgumentError("sparse ffn", "inputs", inputs.q.shape, f"(n, {C})", "give inputs of this key matrix")
    hidden = _hidden(neurons, inputs)  # (n, F)
    weight = _value_energy(neurons, effects)  # (F,)
    energy = np.square(hidden) * weight
    unit = float(energy.sum() / len(energy))  # mean energy of a token
    predictor = fit_signs(neurons.key, neurons.key_scale, inputs.q, inputs.scale, weight / max(unit, 1e-30))
    score = scores(predictor.signs, inputs.q, inputs.scale)  # (n, F)
    price = _find_price(predictor, score, energy, settings)
    threshold = predictor.thresholds(price)
    chosen = score > threshold  # (n, F)
    order = hot_first(chosen.sum(axis=0))
    fires = hidden > 0
    kept = neurons.ordered(order)
    tensors = {
        "predictor.signs": np.packbits(predictor.signs[order], axis=1, bitorder="little"),
        "predictor.threshold": threshold[order],
        "bundles": bundle(kept.key, kept.value),
        "bundles.key_scale": kept.key_scale,
        "bundles.value_scale": kept.value_scale,
    }
    report = {
        "neurons": F,
        "sparsity": 1 - float(fires.mean()),
        "fraction": float(chosen.mean()),
        "recall": float((fires & chosen).sum() / max(1, fires.sum())),
        "energy": float((energy * chosen).sum() / max(float(energy.sum()), 1e-30)),
        "price": price,
        "bytes_before": 2 * F * C + 4 * (F + C),
        "bytes_after": F * (C // 8 + 8) + 4 * C + C * float((chosen.sum() + (fires & chosen).sum()) / len(chosen)),
    }
    return tensors, report


def hot_first(counts: Array) -> Array:
    """Return the order of neurons by how often each is used, int64, shape (F,); equals keep theirs."""
    return np.argsort(-np.asarray(counts), kind="stable")


def bundle(key: Array, value: Array) -> Array:
    """Lay each neuron's key row and value column side by side, as many to a page as fit.

    Parameters
    ----------
    key : ndarray, int8, shape (F, C)
    value : ndarray, int8, shape (C, F)

    Returns
    -------
    ndarray, int8
        (pages, 4096) with zeros at the end of each page; (F, 2 C) where a page holds fewer than two neurons.
    """
    F, C = key.shape
    pairs = np.concatenate([key, value.T], axis=1)  # (F, 2 C)
    pages, width = bundle_shape(F, C)
    per_page = PAGE // (2 * C) if width == PAGE else 1
    rows = np.zeros((pages * per_page, 2 * C), np.int8)
    rows[:F] = pairs
    bundles = np.zeros((pages, width), np.int8)
    bundles[:, : per_page * 2 * C] = rows.reshape(pages, -1)
    return bundles


def _check(neurons: Neurons) -> tuple[int, int]:
    key, key_scale, value, value_scale = neurons
    F, C = key.shape
    if value.shape != (C, F) or key_scale.shape != (F,) or value_scale.shape != (C,):
        found = f"key {key.shape}, value {value.shape}, scales {key_scale.shape} and {value_scale.shape}"
        raise ArgumentError("sparse ffn", "neurons", found, f"({F}, {C}), ({C}, {F}), ({F},), ({C},)", "give one layer")
    if key.dtype != np.int8 or value.dtype != np.int8:
        found = f"{key.dtype} and {value.dtype}"
        raise ArgumentError("sparse ffn", "neurons", found, "int8 matrices", "quantise them first")
    return F, C


def _hidden(neurons: Neurons, inputs: Inputs) -> Array:
    """Return relu(K x)^2, (n, F)."""
    K = dequantize_rows(neurons.key, neurons.key_scale)
    hidden: Array = np.square(np.maximum((inputs.q * inputs.scale[:, None]) @ K.T, 0))
    return hidden


def _value_energy(neurons: Neurons, effects: Array | None) -> Array:
    """Return |D V_f|^2 of each neuron's value column, D = diag(effects): (F,)."""
    V = dequantize_rows(neurons.value, neurons.value_scale)
    energy: Array = np.square(V if effects is None else V * effects[:, None]).sum(axis=0)
    return energy


def _find_price(predictor: SignPredictor, score: Array, energy: Array, settings: Settings) -> float:
    """Return the price that meets the settings after the calibration text, the highest one within 0.1 %."""
    if settings.price is not None:
        if not settings.price > 0:
            raise ArgumentError("sparse ffn", "price", settings.price, "a number above 0", "1e-5 is usual")
        return settings.price
    target, name = (settings.fraction, "fraction") if settings.energy is None else (settings.energy, "energy")
    if target is None or not 0 < target <= 1:
        raise ArgumentError("sparse ffn", name, target, "a number above 0, at most 1", "fraction 0.17 is usual")
    total = float(energy.sum())

    def too_high(price: float) -> bool:
        chosen = score > predictor.thresholds(price)
        if name == "fraction":
            return float(chosen.mean()) <= target
        return float((energy * chosen).sum()) < target * total

    low, high = 1e-12, 1.0
    for _ in range(50):
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if too_high(middle) else (middle, high)
        if high < low * 1.001:
            break
    return low if name == "energy" else high
