"""What a score says about the energy of neurons.

The energy of neuron f is ``weight_f hidden_f^2`` with hidden = relu(k)^2, k = K_f . x, and what it costs to leave it
out. After a score s, k is taken as normal around ``slope s + offset``, with a standard deviation of its own for each
neuron; so ``E[energy | s] = weight noise^4 g(z)``, ``g(z) = E[relu(z + normal)^4]``, ``noise z = slope s + offset``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Array = np.ndarray


class Expectation(NamedTuple):
    """For each of F neurons what its scores say.

    Attributes
    ----------
    slope, offset, noise : ndarray, float64, shape (F,)
        k = slope * s + offset, up to noise of this standard deviation.
    weight : ndarray, float64, shape (F,)
        Energy by hidden^2.
    """

    slope: Array
    offset: Array
    noise: Array
    weight: Array

    def thresholds(self, price: Array | float) -> Array:
        """Return the score of each neuron above which its expected energy exceeds a price, float32.

        Parameters
        ----------
        price : float or ndarray, shape (P, 1)

        Returns
        -------
        ndarray, float32, shape (F,) or (P, F)
            Minus infinity for a neuron that is chosen after any score, infinity for one that never is.
        """
        with np.errstate(all="ignore"):
            wanted = np.log(price / (self.weight * self.noise**4))
            z = np.interp(wanted, _LOG_G, _Z, left=-np.inf, right=np.inf)
            s = (self.noise * z - self.offset) / self.slope
        s = np.where(self.weight > 0, s, np.inf)
        # Of a neuron whose scores say nothing, all or none of the energy is expected.
        always = self.weight * (self.noise**2 + self.offset**2) ** 2 > price
        s = np.where(self.slope > 0, s, np.where(always, -np.inf, np.inf))
        return np.nan_to_num(s, nan=-np.inf, posinf=np.inf, neginf=-np.inf).astype(np.float32)


def fit_expectation(scores: Array, keys: Array, weight: Array) -> Expectation:
    """Fit k = slope s + offset for each neuron by least squares.

    Parameters
    ----------
    scores, keys : ndarray, float32, shape (n, F)
        s and k after the same inputs.
    weight : ndarray, shape (F,)

    Returns
    -------
    Expectation
    """
    mean_s, mean_k = scores.mean(axis=0, dtype=np.float64), keys.mean(axis=0, dtype=np.float64)
    s, k = scores - mean_s.astype(np.float32), keys - mean_k.astype(np.float32)
    slope = np.einsum("nf,nf->f", s, k) / np.maximum(np.einsum("nf,nf->f", s, s), 1e-30)
    s *= slope
    k -= s
    noise = np.sqrt(np.mean(np.square(k, out=k), axis=0, dtype=np.float64))
    slope = slope.astype(np.float64)
    return Expectation(slope, mean_k - slope * mean_s, noise, weight.astype(np.float64))


def _expected_fourth_power() -> tuple[Array, Array]:
    """Return z and log g(z), by adding up positive terms."""
    z, t = np.linspace(-10, 30, 801), np.linspace(0, 42, 4201)  # (Z,), (T,)
    normal = np.exp(-np.square(t - z[:, None]) / 2) / np.sqrt(2 * np.pi)  # (Z, T)
    return z, np.log(normal @ t**4 * (t[1] - t[0]))


_Z, _LOG_G = _expected_fourth_power()
