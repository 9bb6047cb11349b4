"""Predict from one bit for each weight of a key matrix how much energy each neuron will have.

A neuron's key k = K_f . x is estimated from a score s = b . x, b of signs: over inputs k = a s + c + noise, with a
standard deviation of its own. The best b is not sign(K_f), because inputs differ in variance and hang together: signs
are flipped one by one as long as the score's correlation with k grows. What is expected of the energy after a score,
``E[relu(k)^4 | s] |V_f|^2``, gives each neuron its threshold.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Array = np.ndarray


class SignPredictor(NamedTuple):
    """Signs, and what the scores they give say about the neurons.

    Attributes
    ----------
    signs : ndarray, bool, shape (F, C)
        True for +1, False for -1.
    slope, offset, noise : ndarray, float64, shape (F,)
        k = slope * s + offset, up to noise of this standard deviation.
    weight : ndarray, float64, shape (F,)
        Energy of a neuron by hidden^2.
    """

    signs: Array
    slope: Array
    offset: Array
    noise: Array
    weight: Array

    def thresholds(self, price: float) -> Array:
        """Return the score of each neuron above which its expected energy exceeds a price, float32, (F,)."""
        with np.errstate(all="ignore"):
            # E[relu(k)^4] = noise^4 g(z), k = noise (z + normal)
            wanted = np.log(price / (self.weight * self.noise**4))
            z = np.interp(wanted, _LOG_G, _Z, left=-np.inf, right=np.inf)
            s = (self.noise * z - self.offset) / self.slope
        s = np.where(self.weight > 0, s, np.inf)
        # Of a neuron whose scores say nothing, all or none of the energy is expected.
        always = self.weight * (self.noise**2 + self.offset**2) ** 2 > price
        s = np.where(self.slope > 0, s, np.where(always, -np.inf, np.inf))
        return np.nan_to_num(s, nan=-np.inf, posinf=np.inf, neginf=-np.inf).astype(np.float32)


def _expected_fourth_power() -> tuple[Array, Array]:
    """Return z and log g(z), g(z) = E[relu(z + normal)^4], by adding up positive terms."""
    z, t = np.linspace(-10, 30, 801), np.linspace(0, 42, 4201)  # (Z,), (T,)
    normal = np.exp(-np.square(t - z[:, None]) / 2) / np.sqrt(2 * np.pi)  # (Z, T)
    return z, np.log(normal @ t**4 * (t[1] - t[0]))


_Z, _LOG_G = _expected_fourth_power()


def scores(signs: Array, q: Array, scale: Array) -> Array:
    """Return the scores that the kernels compute, bit for bit: sum_j sign_j round(q_j / 256), times 256 scale.

    Parameters
    ----------
    signs : ndarray, bool, shape (F, C)
    q : ndarray, int16, shape (n, C)
    scale : ndarray, float32, shape (n,)

    Returns
    -------
    ndarray, float32, shape (n, F)
    """
    b = np.where(signs, np.float32(1), np.float32(-1))  # (F, C)
    sums: Array = upper_bytes(q) @ b.T  # integers below 2^24: exact
    sums *= np.float32(256) * scale[:, None]
    return sums


def upper_bytes(q: Array) -> Array:
    """Return round(q / 256) as float32."""
    return ((q.astype(np.int32) + 128) >> 8).astype(np.float32)


def fit_signs(key: Array, key_scale: Array, q: Array, scale: Array, weight: Array) -> SignPredictor:
    """Fit signs and what their scores say to inputs.

    Parameters
    ----------
    key : ndarray, int8, shape (F, C)
    key_scale : ndarray, float32, shape (F,)
    q : ndarray, int16, shape (n, C)
    scale : ndarray, float32, shape (n,)
        Of the inputs.
    weight : ndarray, shape (F,)
        Energy of a neuron by hidden^2.

    Returns
    -------
    SignPredictor
    """
    K = (key * key_scale[:, None]).astype(np.float32)
    x = upper_bytes(q) * (np.float32(256) * scale[:, None])  # (n, C)
    mean = x.mean(axis=0)
    centred = x - mean
    signs = correlated_signs(K, centred.T @ centred / len(x))
    s, k = scores(signs, q, scale), (q * scale[:, None]).astype(np.float32) @ K.T  # (n, F)
    mean_s, mean_k = s.mean(axis=0, dtype=np.float64), k.mean(axis=0, dtype=np.float64)
    s -= mean_s.astype(np.float32)
    k -= mean_k.astype(np.float32)
    slope = np.einsum("nf,nf->f", s, k) / np.maximum(np.einsum("nf,nf->f", s, s), 1e-30)
    noise = np.sqrt(np.mean(np.square(k - slope * s), axis=0, dtype=np.float64))
    return SignPredictor(signs, slope.astype(np.float64), mean_k - slope * mean_s, noise, weight.astype(np.float64))


def correlated_signs(K: Array, G: Array, steps: int | None = None) -> Array:
    """Choose signs b so that b . x correlates with K_f . x as well as it can, from sign(K_f) by single flips.

    Parameters
    ----------
    K : ndarray, float32, shape (F, C)
    G : ndarray, float32, shape (C, C)
        Covariance of x.
    steps : int, optional
        At most so many flips in a row; C by default.

    Returns
    -------
    ndarray, bool, shape (F, C)
    """
    b = np.where(K >= 0, np.float32(1), np.float32(-1))  # (F, C)
    Gk, Gb = K @ G, b @ G
    # correlation^2 ~ (b . G k)^2 / (b . G b)
    top, bottom, own = (b * Gk).sum(axis=1), (b * Gb).sum(axis=1), np.diag(G)
    live = np.arange(len(K))
    for _ in range(K.shape[1] if steps is None else steps):
        signs = b[live]
        new_top = top[live, None] - 2 * signs * Gk[live]  # after a flip of each sign
        new_bottom = bottom[live, None] - 4 * signs * Gb[live] + 4 * own
        gain = np.square(np.maximum(new_top, 0)) / np.maximum(new_bottom, 1e-30)
        j = gain.argmax(axis=1)
        here = np.arange(len(live))
        better = gain[here, j] * bottom[live] > np.square(top[live]) * np.float32(1 + 1e-6)
        live, j, here = live[better], j[better], here[better]
        if not len(live):
            break
        top[live], bottom[live] = new_top[here, j], new_bottom[here, j]
        Gb[live] -= 2 * b[live, j][:, None] * G[j]
        b[live, j] *= -1
    return b > 0
