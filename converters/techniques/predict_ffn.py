"""Choose the neurons of a channel mix that matter by scores that cost few bytes.

The energy of neuron f is ``(hidden_f |D V_f|)^2``, D the gate of the channel mix: what leaving it out changes in the
residual stream. A neuron is chosen where the energy expected after its score exceeds a price, the same for all layers:
the residual stream is the sum of what all of them add. Fitting a layer counts what each of many prices would choose
after the calibration inputs, and so any share of the neurons or of the energy finds its price.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tinyrwkv.errors import ArgumentError
from tinyrwkv.file.quant import dequantize_rows

from .expected_energy import Expectation, fit_expectation
from .mlp_predictor import Network, Progress, train
from .pack_codes import pack_codes
from .sign_predictor import fit_signs, scores
from .sparse_ffn import Neurons, Tensors, bundle, hot_first

Array = np.ndarray

STEP = 1.1  # between two prices, all of them powers of it
RANGE = 1e-11  # the lowest price that is tried, by the highest
ALWAYS = 0.95  # a neuron that is chosen this often is not worth predicting


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
    """How much predictors leave out, and what they are; of the first three the first that is not None counts.

    Attributes
    ----------
    price : float, optional
        Energy that must be expected of a neuron, in the residual stream.
    energy : float, optional
        Share of the energy of all neurons that the chosen ones must have after the calibration inputs, in each layer.
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
    neurons : Neurons
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

    neurons: Neurons
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
    neurons: Neurons,
    inputs: Inputs,
    effects: Array | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Fit:
    """Fit predictors to calibration inputs.

    Parameters
    ----------
    neurons : Neurons
    inputs : Inputs
        Of the key matrix, of the model as it will run; 8,192 tokens are enough.
    effects : ndarray, float32, shape (C,), optional
        How much an error in each output of the channel mix matters, the root mean square of its gate; 1 if left out.
    settings : Settings, optional
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
    settings, (F, C), (q, scale) = settings or Settings(), neurons.check(), inputs
    if C % 64:
        raise ArgumentError(
            "sparse ffn", "C", C, "a multiple of 64, which predictors work on", "use the exact form"
        )
    if q.shape[1:] != (C,) or scale.shape != (len(q),) or not len(q):
        raise ArgumentError(
            "sparse ffn", "inputs", q.shape, f"(n, {C})", "give inputs of this key matrix"
        )
    K, V = (
        dequantize_rows(neurons.key, neurons.key_scale),
        dequantize_rows(neurons.value, neurons.value_scale),
    )
    weight = np.square(V if effects is None else V * effects[:, None]).sum(axis=0)  # (F,)
    x = q * scale[:, None]  # (n, C)
    keys = x @ K.T  # (n, F)
    hidden = np.square(np.maximum(keys, 0))
    energy, fires = np.square(hidden) * weight, hidden > 0
    all_energy = float(energy.sum(dtype=np.float64)) / len(q)
    prices = _prices(all_energy)
    signs = fit_signs(K, q, scale)
    s = scores(signs, q, scale)
    by_signs = fit_expectation(s, keys, weight)
    level = _levels(s, by_signs, prices)
    network, by_network = None, None
    if settings.mlp:
        network = train(x, fires, settings.mlp, seed=settings.seed, progress=progress)
        s = network.scores(x)
        by_network = fit_expectation(s, keys, weight)
        level = np.maximum(level, _levels(s, by_network, prices))
    chosen, firing, kept = (
        np.empty((len(prices), F), np.float32),
        np.zeros(len(prices)),
        np.zeros(len(prices)),
    )
    for f in range(F):
        counts, fired, had = (
            _above(level[:, f], which, len(prices)) for which in (None, fires[:, f], energy[:, f])
        )
        always = counts >= ALWAYS * len(q)  # fired[0] is of all tokens, as all reach the price 0
        chosen[:, f] = np.where(always, 1, counts / len(q))
        firing += np.where(always, fired[0], fired) / len(q)
        kept += np.where(always, had[0], had) / len(q)
    packed = np.packbits(signs, axis=1, bitorder="little")
    all_firing = float(np.count_nonzero(fires)) / len(q)
    return Fit(
        neurons, packed, by_signs, network, by_network, prices, chosen, firing, kept, all_firing, all_energy
    )  # fmt: skip


def _prices(most: float) -> Array:
    """Return 0 and the powers of STEP up to the energy of a token."""
    last = int(np.ceil(np.log(max(most, 1e-30)) / np.log(STEP)))
    powers = np.arange(last + int(np.log(RANGE) / np.log(STEP)), last + 1)
    return np.concatenate([[0.0], STEP ** powers.astype(np.float64)])


def _levels(s: Array, expectation: Expectation, prices: Array) -> Array:
    """Return for each score how many prices it reaches, at least 1, int16, (n, F)."""
    thresholds = expectation.thresholds(prices[:, None])  # (P, F), rising
    level = np.empty(s.shape, np.int16)
    for f in range(s.shape[1]):
        level[:, f] = np.searchsorted(
            thresholds[:, f], s[:, f], side="left"
        )  # how many thresholds are below it
    return level


def _above(level: Array, weights: Array | None, prices: int) -> Array:
    """Return for each price the sum of the weights of what reaches it, float64, (P,)."""
    sums = np.bincount(level, weights, prices + 1)[1:]
    total: Array = np.cumsum(sums[::-1], dtype=np.float64)[::-1]
    return total


def find_prices(fits: Sequence[Fit], settings: Settings) -> list[float]:
    """Return the price of each layer that meets the settings after the calibration inputs.

    Parameters
    ----------
    fits : sequence of Fit
        Of all layers.
    settings : Settings

    Returns
    -------
    list of float
        The highest price that keeps the energy in the layer, or the lowest for all layers that does not exceed the
        fraction.

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
        reached = [np.flatnonzero(fit.energy >= settings.energy * fit.energy[0]) for fit in fits]
        return [float(fit.prices[places[-1]]) for fit, places in zip(fits, reached, strict=True)]
    target = _check("fraction", settings.fraction, 1)
    prices = np.unique(np.concatenate([fit.prices for fit in fits]))
    low, high = 0, len(prices) - 1
    while low < high:
        middle = (low + high) // 2
        price = float(prices[middle])
        found = float(
            np.mean([fit.chosen[fit.place(price)].mean(dtype=np.float64) for fit in fits])
        )
        low, high = (low, middle) if found <= target else (middle + 1, high)
    return [float(prices[low])] * len(fits)


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
        By the ends of their names, what follows ``blocks.N.ffn.``: they replace key and value. ``bundles`` must begin
        on a page of the file (``Writer.add(..., page_aligned=True)``).
    report : dict
        Plain JSON: ``neurons``, ``sparsity`` (share of the neurons that do not fire), ``fraction`` (share chosen),
        ``recall`` (share of the firing neurons that are chosen), ``energy`` (share of the energy that they have),
        ``always`` (neurons that are chosen for every token), ``price``, ``bytes_before``, ``bytes_after`` (touched for
        a token, on average).
    """
    at, (F, C) = fit.place(price), fit.neurons.check()
    order = hot_first(fit.chosen[at])
    kept, always = fit.neurons.ordered(order), fit.chosen[at][order] == 1
    tensors = {
        "predictor.signs": pack_codes(
            np.unpackbits(fit.signs[order], axis=1, bitorder="little"), 1
        ),
        "predictor.threshold": np.where(
            always, np.float32(-np.inf), fit.by_signs.thresholds(fit.prices[at])[order]
        ),
        "bundles": bundle(kept.key, kept.value),
        "bundles.key_scale": kept.key_scale,
        "bundles.value_scale": kept.value_scale,
    }
    size = tensors["predictor.signs"].nbytes + 4 * F + 4 * (F + C)
    if fit.network is not None and fit.by_network is not None:
        fc1, fc1_scale, fc2, fc2_scale = fit.network
        tensors |= {"predictor.fc1.weight": fc1, "predictor.fc1.weight.scale": fc1_scale}
        tensors |= {
            "predictor.fc2.weight": fc2[order],
            "predictor.fc2.weight.scale": fc2_scale[order],
        }
        tensors["predictor.mlp_threshold"] = fit.by_network.thresholds(fit.prices[at])[order]
        size += fc1.nbytes + fc1_scale.nbytes + fc2.nbytes + fc2_scale.nbytes + 4 * F
    chosen = float(fit.chosen[at].sum(dtype=np.float64))
    report = {
        "neurons": F,
        "sparsity": 1 - fit.all_firing / F,
        "fraction": chosen / F,
        "recall": float(fit.firing[at]) / max(fit.all_firing, 1e-30),
        "energy": float(fit.energy[at]) / max(fit.all_energy, 1e-30),
        "always": int(np.count_nonzero(always)),
        "price": float(fit.prices[at]),
        "bytes_before": 2 * F * C + 4 * (F + C),
        "bytes_after": size + C * (chosen + float(fit.firing[at])),
    }
    return tensors, report
