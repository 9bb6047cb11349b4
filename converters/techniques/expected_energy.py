"""What a score says about the energy of neurons.

The energy of neuron f is what it costs to leave the neuron out. With key k = K_f . x it is::

    energy = weight_f relu(k)^4

After a score s, k is taken as normal around ``slope s + offset``, with a standard deviation of its
own for each neuron, the noise. So the energy to expect is::

    E[energy | s] = weight noise^4 g(z),  z = (slope s + offset) / noise,
    g(z) = E[relu(z + n)^4],  n normal with variance 1
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Array = np.ndarray


class Expectation(NamedTuple):
    """What the scores of each of F neurons say.

    Attributes
    ----------
    slope, offset, noise : ndarray, float64, shape (F,)
        k = slope * s + offset, up to noise of this standard deviation.
    weight : ndarray, float64, shape (F,)
        Energy by relu(k)^4.
    """

    slope: Array
    offset: Array
    noise: Array
    weight: Array

    def thresholds(self, price: Array | float) -> Array:
        """Return the score of each neuron above which its expected energy exceeds a price.

        ::

            weight noise^4 g(z) = price  =>  s = (noise z - offset) / slope

        Parameters
        ----------
        price : float or ndarray, shape (P, 1)

        Returns
        -------
        ndarray, float32, shape (F,) or (P, F)
            Minus infinity for a neuron that is chosen after any score, infinity for one that never
            is.
        """
        with np.errstate(all="ignore"):
            log_g = np.log(price / (self.weight * self.noise**4))
            z = np.interp(log_g, _LOG_G, _Z, left=-np.inf, right=np.inf)
            s = (self.noise * z - self.offset) / self.slope
        s = np.where(self.weight > 0, s, np.inf)
        s = np.where(self.slope > 0, s, self._for_any_score(price))
        return np.nan_to_num(s, nan=-np.inf, posinf=np.inf, neginf=-np.inf).astype(np.float32)

    def _for_any_score(self, price: Array | float) -> Array:
        """Return the thresholds of neurons whose scores say nothing: always, or never.

        About the same is expected of such a neuron after any score.
        """
        expected = self.weight * (self.noise**2 + self.offset**2) ** 2
        return np.where(expected > price, -np.inf, np.inf)


def fit_expectation(scores: Array, keys: Array, weight: Array) -> Expectation:
    """Fit k = slope s + offset for each neuron by least squares.

    ::

        slope = cov(s, k) / var(s),  offset = mean(k) - slope mean(s)
        noise^2 = mean of (k - slope s - offset)^2

    Parameters
    ----------
    scores, keys : ndarray, float32, shape (n, F)
        s and k after the same inputs.
    weight : ndarray, shape (F,)

    Returns
    -------
    Expectation
    """
    mean_s = scores.mean(axis=0, dtype=np.float64)
    mean_k = keys.mean(axis=0, dtype=np.float64)
    s = scores - mean_s.astype(np.float32)
    k = keys - mean_k.astype(np.float32)
    covariance = np.einsum("nf,nf->f", s, k)
    variance = np.einsum("nf,nf->f", s, s)
    slope = covariance / np.maximum(variance, 1e-30)

    # In place: these are the largest arrays of a fit.
    s *= slope
    k -= s
    noise = np.sqrt(np.mean(np.square(k, out=k), axis=0, dtype=np.float64))

    slope = slope.astype(np.float64)
    offset = mean_k - slope * mean_s
    return Expectation(slope, offset, noise, weight.astype(np.float64))


def _expected_fourth_power() -> tuple[Array, Array]:
    """Return z and log g(z).

    ::

        g(z) = sum over t > 0 of t^4 exp(-(t - z)^2 / 2) / sqrt(2 pi) dt

    All terms are positive, so nothing cancels if g is tiny.
    """
    z = np.linspace(-10, 30, 801)  # (Z,)
    t = np.linspace(0, 42, 4201)  # (T,)
    density = np.exp(-np.square(t - z[:, None]) / 2) / np.sqrt(2 * np.pi)  # (Z, T)
    dt = t[1] - t[0]
    return z, np.log(density @ t**4 * dt)


_Z, _LOG_G = _expected_fourth_power()
