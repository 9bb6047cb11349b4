"""Choose the neurons of a channel mix that matter by scores that cost few bytes.

The energy of neuron f is what leaving it out changes in the residual stream. With D, the gate of
the channel mix, it is::

    energy_f = (hidden_f |D V_f|)^2

A neuron is chosen if the energy to expect after its score exceeds a price. The price is the same
for all layers, because the residual stream is the sum of what all of them add. Fitting a layer
counts what each of many prices would choose after the calibration inputs. So the price for any
share of the neurons, or of the energy, can be found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tinyrwkv.errors import ArgumentError

from .expected_energy import Expectation, fit_expectation
from .mlp_predictor import Network, Progress, train
from .pack_codes import pack_codes
from .sign_predictor import fit_signs, scores
from .sparse_ffn import AnyNeurons, Tensors, hot_first

Array = np.ndarray

STEP = 1.1
"""Prices that are tried are powers of this."""

RANGE = 1e-11
"""The lowest price that is tried, by the highest."""

ALWAYS = 0.95
"""A neuron that is chosen after this share of the inputs is not worth predicting."""


class Inputs(NamedTuple):
    """What goes into a key matrix after calibration text, as int8 kernels take it.

    See `calibrate.collect.Statistics`.

    Attributes
    ----------
    q : ndarray, int16, shape (n, C)
    scale : ndarray, float32, shape (n,)
    """

    q: Array
    scale: Array


class PredictorSettings(NamedTuple):
    """How much predictors leave out, and what they are.

    Of the first three, the first that is not None counts.

    Attributes
    ----------
    price : float, optional
        Energy that must be expected of a neuron, in the residual stream.
    energy : float, optional
        Share of the energy of all neurons that the chosen ones must have after the calibration
        inputs, in each layer.
    fraction : float, optional
        Share of the neurons that is chosen, on average over tokens and layers.
    mlp : int
        Width of a network whose choice is joined with that of the signs; 0 for none.
    seed : int
        Of its training.
    """

    price: float | None = None
    energy: float | None = None
    fraction: float | None = 0.17
    mlp: int = 0
    seed: int = 0


class Fit(NamedTuple):
    """Predictors of one layer, and what each price would choose after the calibration inputs.

    Attributes
    ----------
    neurons : Neurons or PackedNeurons
    signs : ndarray, uint8, shape (F, C / 8)
        A bit for each sign, 1 for +1, the lowest bit first.
    by_signs : Expectation
    network : Network or None
    by_network : Expectation or None
    prices : ndarray, float64, shape (P,)
        0 and rising powers of STEP.
    chosen : ndarray, float32, shape (P, F)
        Share of the tokens after which each neuron is chosen.
    firing, energy : ndarray, float64, shape (P,)
        For a token, how many neurons are chosen and fire, and the energy of the chosen ones.
    all_firing, all_energy : float
        The same of all neurons.
    """

    neurons: AnyNeurons
    signs: Array
    by_signs: Expectation
    network: Network | None
    by_network: Expectation | None
    prices: Array
    chosen: Array
    firing: Array
    energy: Array
    all_firing: float
    all_energy: float

    def place(self, price: float) -> int:
        """Return the place of the highest price that does not exceed this one."""
        return max(0, int(np.searchsorted(self.prices, price * (1 + 1e-9), side="right")) - 1)


def fit_layer(
    neurons: AnyNeurons,
    inputs: Inputs,
    effects: Array | None = None,
    settings: PredictorSettings | None = None,
    progress: Progress | None = None,
) -> Fit:
    """Fit predictors to calibration inputs.

    Parameters
    ----------
    neurons : Neurons or PackedNeurons
    inputs : Inputs
        Of the key matrix, of the model as it will run; 8,192 tokens are enough.
    effects : ndarray, float32, shape (C,), optional
        How much an error in each output of the channel mix matters: the root mean square of its
        gate. 1 if left out.
    settings : PredictorSettings, optional
    progress : callable, optional
        Called while a network is trained, as ``progress(epochs_done, epochs)``.

    Returns
    -------
    Fit

    Raises
    ------
    ArgumentError
        A shape does not fit, or C is no multiple of 64.
    """
    settings = settings or PredictorSettings()
    _check_inputs(neurons, inputs)
    q, scale = inputs
    K, V = neurons.weights()  # (F, C), (C, F)

    # hidden = relu(K x)^2,  energy_f = hidden_f^2 |D V_f|^2
    weight = np.square(V if effects is None else V * effects[:, None]).sum(axis=0)  # (F,)
    x = q * scale[:, None]  # (n, C)
    keys = x @ K.T  # (n, F)
    hidden = np.square(np.maximum(keys, 0))
    energy = np.square(hidden) * weight
    fires = hidden > 0
    all_energy = float(energy.sum(dtype=np.float64)) / len(q)
    prices = _prices(all_energy)

    signs = fit_signs(K, q, scale)
    by_signs, level = _expect(scores(signs, q, scale), keys, weight, prices)
    network = by_network = None
    if settings.mlp:
        network = train(x, fires, settings.mlp, seed=settings.seed, progress=progress)
        by_network, network_level = _expect(network.scores(x), keys, weight, prices)
        level = np.maximum(level, network_level)

    chosen, firing, chosen_energy = _count_choices(level, fires, energy, len(prices))
    return Fit(
        neurons=neurons,
        signs=np.packbits(signs, axis=1, bitorder="little"),
        by_signs=by_signs,
        network=network,
        by_network=by_network,
        prices=prices,
        chosen=chosen,
        firing=firing,
        energy=chosen_energy,
        all_firing=float(np.count_nonzero(fires)) / len(q),
        all_energy=all_energy,
    )


def _check_inputs(neurons: AnyNeurons, inputs: Inputs) -> None:
    _, C = neurons.check()
    if C % 64:
        expected, fix = "a multiple of 64, which predictors work on", "use the exact form"
        sentence = f"sparse ffn: predictors need a width that is a multiple of 64, not {C}"
        raise ArgumentError("sparse ffn", "C", C, expected, fix, sentence)
    q, scale = inputs
    if q.shape[1:] != (C,) or scale.shape != (len(q),) or not len(q):
        fix = "give inputs of this key matrix"
        raise ArgumentError("sparse ffn", "inputs", q.shape, f"(n, {C})", fix)


def _prices(most: float) -> Array:
    """Return 0 and the powers of STEP up to the energy of a token."""
    last = int(np.ceil(np.log(max(most, 1e-30)) / np.log(STEP)))
    powers = np.arange(last + int(np.log(RANGE) / np.log(STEP)), last + 1)
    return np.concatenate([[0.0], STEP ** powers.astype(np.float64)])


def _expect(s: Array, keys: Array, weight: Array, prices: Array) -> tuple[Expectation, Array]:
    """Fit the energy to expect after scores; return it, and how many prices each score reaches.

    The levels are int16, (n, F), and at least 1: every score reaches the price 0.
    """
    expectation = fit_expectation(s, keys, weight)
    thresholds = expectation.thresholds(prices[:, None])  # (P, F), rising
    level = np.empty(s.shape, np.int16)
    for f in range(s.shape[1]):
        level[:, f] = np.searchsorted(thresholds[:, f], s[:, f], side="left")
    return expectation, level


def _count_choices(
    level: Array, fires: Array, energy: Array, prices: int
) -> tuple[Array, Array, Array]:
    """Count what each price chooses, as `Fit` has it: chosen (P, F), firing (P,), energy (P,)."""
    n, F = level.shape
    chosen = np.empty((prices, F), np.float32)
    firing, chosen_energy = np.zeros(prices), np.zeros(prices)
    for f in range(F):
        count = _sum_above(level[:, f], None, prices)
        fired = _sum_above(level[:, f], fires[:, f], prices)
        had = _sum_above(level[:, f], energy[:, f], prices)
        # A neuron that is always chosen counts as at the price 0, which every score reaches.
        always = count >= ALWAYS * n
        chosen[:, f] = np.where(always, 1, count / n)
        firing += np.where(always, fired[0], fired) / n
        chosen_energy += np.where(always, had[0], had) / n
    return chosen, firing, chosen_energy


def _sum_above(level: Array, weights: Array | None, prices: int) -> Array:
    """Return for each price the sum of the weights of what reaches it, float64, (P,)."""
    sums = np.bincount(level, weights, prices + 1)[1:]
    total: Array = np.cumsum(sums[::-1], dtype=np.float64)[::-1]
    return total


def find_prices(fits: Sequence[Fit], settings: PredictorSettings) -> list[float]:
    """Return the price of each layer that meets the settings after the calibration inputs.

    Parameters
    ----------
    fits : sequence of Fit
        Of all layers.
    settings : PredictorSettings

    Returns
    -------
    list of float
        For a share of the energy, the highest price in each layer that keeps it. For a fraction,
        the lowest price, the same for all layers, that does not exceed it.

    Raises
    ------
    ArgumentError
        A setting is out of range.
    """
    if settings.price is not None:
        _check("price", settings.price, np.inf)
        return [settings.price] * len(fits)
    if settings.energy is not None:
        _check("energy", settings.energy, 1)
        return [_price_for_energy(fit, settings.energy) for fit in fits]
    return [_price_for_fraction(fits, _check("fraction", settings.fraction, 1))] * len(fits)


def _price_for_energy(fit: Fit, share: float) -> float:
    enough = np.flatnonzero(fit.energy >= share * fit.energy[0])
    return float(fit.prices[enough[-1]])


def _price_for_fraction(fits: Sequence[Fit], most: float) -> float:
    prices = np.unique(np.concatenate([fit.prices for fit in fits]))
    low, high = 0, len(prices) - 1
    while low < high:
        middle = (low + high) // 2
        if _fraction(fits, float(prices[middle])) <= most:
            high = middle
        else:
            low = middle + 1
    return float(prices[low])


def _fraction(fits: Sequence[Fit], price: float) -> float:
    """Return the share of the neurons that a price chooses, on average over tokens and layers."""
    shares = [fit.chosen[fit.place(price)].mean(dtype=np.float64) for fit in fits]
    return float(np.mean(shares))


def _check(name: str, value: float | None, most: float) -> float:
    if value is None or not 0 < value <= most:
        expected = f"a number above 0, at most {most}"
        raise ArgumentError("sparse ffn", name, value, expected, "fraction 0.17 is usual")
    return value


def predicted(fit: Fit, price: float) -> tuple[Tensors, dict[str, Any]]:
    """Store the channel mix of one layer in bundles with its predictors.

    Parameters
    ----------
    fit : Fit
    price : float

    Returns
    -------
    tensors : dict of str to ndarray
        By the ends of their names, what follows ``blocks.N.ffn.``: they replace key and value.
        ``bundles`` must begin on a page of the file (``Writer.add(..., page_aligned=True)``).
    report : dict
        Plain JSON: ``neurons``, ``sparsity`` (share of the neurons that do not fire), ``fraction``
        (share chosen), ``recall`` (share of the firing neurons that are chosen), ``energy`` (share
        of the energy that they have), ``always`` (neurons that are chosen for every token),
        ``price``, ``bytes_before``, ``bytes_after`` (touched for a token, on average).
    """
    at = fit.place(price)
    order = order_at(fit, price)
    always = fit.chosen[at][order] == 1
    neurons = fit.neurons.ordered(order)
    signs = np.unpackbits(fit.signs[order], axis=1, bitorder="little")
    thresholds = fit.by_signs.thresholds(fit.prices[at])[order]
    tensors = {
        "predictor.signs": pack_codes(signs, 1),
        "predictor.threshold": np.where(always, np.float32(-np.inf), thresholds),
        **neurons.bundled(),
    }
    if fit.network is not None and fit.by_network is not None:
        fc1, fc1_scale, fc2, fc2_scale = fit.network
        tensors["predictor.fc1.weight"] = fc1
        tensors["predictor.fc1.weight.scale"] = fc1_scale
        tensors["predictor.fc2.weight"] = fc2[order]
        tensors["predictor.fc2.weight.scale"] = fc2_scale[order]
        tensors["predictor.mlp_threshold"] = fit.by_network.thresholds(fit.prices[at])[order]
    return tensors, _report(fit, at, int(np.count_nonzero(always)), tensors)


def order_at(fit: Fit, price: float) -> Array:
    """Return the order of the neurons at a price, the most used first: int64, (F,)."""
    return hot_first(fit.chosen[fit.place(price)])


def _report(fit: Fit, at: int, always: int, tensors: Tensors) -> dict[str, Any]:
    F = len(fit.neurons.key)
    chosen = float(fit.chosen[at].sum(dtype=np.float64))  # neurons, for a token
    read_whole = sum(array.nbytes for name, array in tensors.items() if name != "bundles")
    return {
        "neurons": F,
        "sparsity": 1 - fit.all_firing / F,
        "fraction": chosen / F,
        "recall": float(fit.firing[at]) / max(fit.all_firing, 1e-30),
        "energy": float(fit.energy[at]) / max(fit.all_energy, 1e-30),
        "always": always,
        "price": float(fit.prices[at]),
        "bytes_before": fit.neurons.nbytes,
        # The key of every chosen neuron, and the value of those that fire.
        "bytes_after": read_whole + fit.neurons.row_bytes * (chosen + float(fit.firing[at])),
    }
