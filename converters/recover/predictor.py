"""Model the neurons that a sparse channel mix leaves out, so that the student learns without them.

A predictor of one bit for each weight of a key sees the input first (`techniques.sign_predictor`).
Here its score gives the mean and the spread of what the key would say, and from these follows how
much the neuron would add. The neurons that would add most are kept::

    z_f ~ N(slope_f (b_f . x) + offset_f, sigma_f^2),  b of signs
    effect = E[relu(z_f)^4] |v_f|^2

Misses are as frequent as in a compressed file, though not the same: the converter fits its
predictors to the recovered checkpoint.
"""

from __future__ import annotations

import math
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


class Predictor(NamedTuple):
    """What chooses the neurons of one channel mix.

    Attributes
    ----------
    signs : Tensor, shape (F, C)
        Of +1 and -1.
    slope, offset, sigma, size : Tensor, shape (F,)
        See above; `size` is |v_f|.
    kept : int
        Neurons to keep for a token.
    """

    signs: Tensor
    slope: Tensor
    offset: Tensor
    sigma: Tensor
    size: Tensor
    kept: int

    def chosen(self, x: Tensor) -> Tensor:
        """Return which neurons are kept: bool, (..., F), for the input x (..., C) of the keys."""
        mean = (x @ self.signs.T) * self.slope + self.offset
        effect = fourth_moment(mean, self.sigma) * self.size.square()
        least = effect.topk(self.kept, dim=-1).values[..., -1:]
        return effect >= least


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


def fit_predictors(
    network: Network, weights: Weights, windows: np.ndarray, keep: float
) -> dict[str, Predictor]:
    """Fit a predictor to each channel mix.

    Parameters
    ----------
    network : Network
        Of the teacher.
    weights : mapping of str to Tensor
    windows : ndarray, int32, shape (n, 512)
        To fit to.
    keep : float
        Share of the neurons to keep.

    Returns
    -------
    dict of str to Predictor
        By what the names of the channel mix's tensors begin with.
    """
    moments = _moments(network, weights, windows)
    found = {}
    for ffn, (mean, covariance) in moments.items():
        K = weights[ffn + "key.weight"]
        size = weights[ffn + "value.weight"].norm(dim=0)
        count = max(1, round(keep * len(K)))
        found[ffn] = fit_predictor(K, size, mean, covariance, count)
    return found


def fit_predictor(
    K: Tensor, size: Tensor, mean: Tensor, covariance: Tensor, count: int
) -> Predictor:
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
    return Predictor(signs, slope, offset, sigma, size, count)


def _moments(
    network: Network, weights: Weights, windows: np.ndarray
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the mean and covariance of what goes into the keys of each channel mix."""
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    count = 0

    def look(ffn: str, x: Tensor) -> None:
        rows = x.flatten(0, 1)
        first, second = sums.get(ffn, (0, 0))
        sums[ffn] = first + rows.sum(0), second + rows.T @ rows

    network.look = look
    with torch.no_grad():
        for start in range(0, len(windows), AT_ONCE):
            part = torch.from_numpy(windows[start : start + AT_ONCE]).long()
            network.forward(weights, part.to(weights["head.weight"].device))
            count += part.numel()
    network.look = None
    found = {}
    for ffn, (first, second) in sums.items():
        mean = first / count
        found[ffn] = mean, second / count - torch.outer(mean, mean)
    return found
