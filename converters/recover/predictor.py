"""Model the neurons that a sparse channel mix leaves out, so that the student learns without them.

A predictor of one bit for each weight of a key sees the input first (`techniques.sign_predictor`).
Its score gives the mean and the spread of what the key would say, and from these follows how much
the neuron would add to the residual stream. Neurons that would add more than a price are kept. The
price is the same for all layers, as in `techniques.predict_ffn` for a share of the neurons::

    z_f ~ N(slope_f (b_f . x) + offset_f, sigma_f^2),  b of signs
    effect = E[relu(z_f)^4] |D v_f|^2,  D the gate of the channel mix

The converter fits its predictors anew, to the recovered checkpoint. It also keeps neurons always
that would be kept for nearly all tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from ..techniques.sign_predictor import correlated_signs
from .network import Network, Weights
from .scan import Tensor

FLIPS = 64
"""Signs of a neuron that are flipped, at most: more gain little."""

AT_ONCE = 4
"""Windows that are read at a time."""

PRICED = 16
"""The price is found after every so many tokens: those between are like them."""


class Predictor(NamedTuple):
    """What chooses the neurons of one channel mix.

    Attributes
    ----------
    signs : Tensor, shape (F, C)
        Of +1 and -1.
    slope, offset, sigma, size : Tensor, shape (F,)
        See above; `size` is |D v_f|.
    """

    signs: Tensor
    slope: Tensor
    offset: Tensor
    sigma: Tensor
    size: Tensor

    def effect(self, x: Tensor) -> Tensor:
        """Return what each neuron would add: (..., F), for the input x (..., C) of the keys."""
        mean = (x @ self.signs.T) * self.slope + self.offset
        return fourth_moment(mean, self.sigma) * self.size.square()


class Chooser(NamedTuple):
    """A predictor, and the price of a neuron."""

    predictor: Predictor
    price: Tensor

    def kept(self, x: Tensor) -> Tensor:
        """Return which neurons are kept: bool, (..., F), for the input x (..., C) of the keys."""
        return self.predictor.effect(x) >= self.price


def fourth_moment(mean: Tensor, sigma: Tensor) -> Tensor:
    """Return E[relu(z)^4] of a normal z.

    ::

        (m^4 + 6 m^2 s^2 + 3 s^4) P(m / s) + m s (m^2 + 5 s^2) p(m / s)

    where P is the distribution and p the density of the standard normal.
    """
    ratio = mean / sigma
    density = torch.exp(-0.5 * ratio.square()) / math.sqrt(2 * math.pi)
    below = 0.5 * torch.erfc(-ratio / math.sqrt(2))
    square, variance = mean.square(), sigma.square()
    whole = square.square() + 6 * square * variance + 3 * variance.square()
    return (whole * below + mean * sigma * (square + 5 * variance) * density).clamp(min=0)


def fit_choosers(
    network: Network, weights: Weights, windows: np.ndarray, keep: float
) -> dict[str, Chooser]:
    """Fit a predictor to each channel mix, and find the price that keeps a share of all neurons.

    Parameters
    ----------
    network : Network
        All of its neurons count.
    weights : mapping of str to Tensor
        Of the model as it will run.
    windows : ndarray, int32, shape (n, 512)
        To fit to.
    keep : float
        Share of the neurons to keep, on average over tokens and layers.

    Returns
    -------
    dict of str to Chooser
        By what the names of the channel mix's tensors begin with.
    """
    predictors = {
        ffn: _predictor_of(weights, ffn, sums)
        for ffn, sums in _sums(network, weights, windows).items()
    }
    effects: list[Tensor] = []

    def look(ffn: str, x: Tensor, gate: Tensor | None) -> None:
        effects.append(predictors[ffn].effect(x[:, PRICED // 2 :: PRICED]).flatten())

    _read(network, weights, windows, look)
    rising = torch.cat(effects).sort().values
    price = rising[min(len(rising) - 1, round((1 - keep) * len(rising)))]
    return {ffn: Chooser(one, price) for ffn, one in predictors.items()}


class Sums(NamedTuple):
    """Sums over tokens, in front of the keys of a channel mix."""

    tokens: int
    x: Tensor
    """(C,)"""

    xx: Tensor
    """Of the outer products, (C, C)."""

    gate: Tensor | None
    """Of the squares of the gate, (C,)."""

    def plus(self, more: Sums) -> Sums:
        """Return the sums over both."""
        gate = None if self.gate is None else self.gate + more.gate
        return Sums(self.tokens + more.tokens, self.x + more.x, self.xx + more.xx, gate)


def _sums(network: Network, weights: Weights, windows: np.ndarray) -> dict[str, Sums]:
    found: dict[str, Sums] = {}

    def look(ffn: str, x: Tensor, gate: Tensor | None) -> None:
        rows = x.flatten(0, 1)
        squares = None if gate is None else gate.square().flatten(0, 1).sum(0)
        new = Sums(len(rows), rows.sum(0), rows.T @ rows, squares)
        found[ffn] = found[ffn].plus(new) if ffn in found else new

    _read(network, weights, windows, look)
    return found


def _read(
    network: Network,
    weights: Weights,
    windows: np.ndarray,
    look: Callable[[str, Tensor, Tensor | None], None],
) -> None:
    """Read windows, and let `look` see what goes into the keys."""
    network.look = look
    device = weights["head.weight"].device
    with torch.no_grad():
        for start in range(0, len(windows), AT_ONCE):
            part = torch.from_numpy(windows[start : start + AT_ONCE]).long()
            network.forward(weights, part.to(device))
    network.look = None


def _predictor_of(weights: Weights, ffn: str, sums: Sums) -> Predictor:
    mean = sums.x / sums.tokens
    covariance = sums.xx / sums.tokens - torch.outer(mean, mean)
    V = weights[ffn + "value.weight"]  # (C, F)
    if sums.gate is not None:
        V = V * (sums.gate / sums.tokens).sqrt()[:, None]
    return fit_predictor(weights[ffn + "key.weight"], V.norm(dim=0), mean, covariance)


def fit_predictor(K: Tensor, size: Tensor, mean: Tensor, covariance: Tensor) -> Predictor:
    """Fit a predictor to keys K (F, C), by the mean and covariance of their inputs."""
    flipped = correlated_signs(K.cpu().numpy(), covariance.cpu().numpy(), FLIPS)
    signs = torch.from_numpy(np.where(flipped, np.float32(1), np.float32(-1))).to(K.device)
    # slope = b . G k / b . G b;  sigma^2 = k . G k - slope b . G k
    by_signs = signs @ covariance  # (F, C)
    together = (by_signs * K).sum(1)
    slope = together / (by_signs * signs).sum(1).clamp(min=1e-20)
    rest = ((K @ covariance) * K).sum(1) - slope * together
    offset = K @ mean - slope * (signs @ mean)
    sigma = rest.clamp(min=1e-12).sqrt()
    return Predictor(signs, slope, offset, sigma, size)
