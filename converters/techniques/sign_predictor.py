"""Estimate the keys of neurons from one bit for each weight: s = b . x, b of signs.

The best b is not sign(K_f), because inputs differ in variance and are correlated. So signs are
flipped one by one as long as the correlation of b . x with K_f . x grows.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray

_GAIN = np.float32(1 + 1e-6)
"""What a flip must multiply the squared correlation by: rounding errors alone are no gain."""


def fit_signs(K: Array, q: Array, scale: Array) -> Array:
    """Choose the signs of every neuron for inputs like these.

    Parameters
    ----------
    K : ndarray, float32, shape (F, C)
    q : ndarray, int16, shape (n, C)
    scale : ndarray, float32, shape (n,)
        Of the inputs.

    Returns
    -------
    ndarray, bool, shape (F, C)
        True for +1, False for -1.
    """
    x = upper_bytes(q)  # (n, C)
    x *= np.float32(256) * scale[:, None]
    x -= x.mean(axis=0, dtype=np.float64).astype(np.float32)
    covariance = x.T @ x / len(x)  # (C, C)
    return correlated_signs(K, covariance)


def scores(signs: Array, q: Array, scale: Array) -> Array:
    """Return the scores that the kernels compute, bit for bit.

    ::

        score = 256 scale sum_j sign_j round(q_j / 256)

    Parameters
    ----------
    signs : ndarray, bool, shape (F, C)
    q : ndarray, int16, shape (n, C)
    scale : ndarray, float32, shape (n,)

    Returns
    -------
    ndarray, float32, shape (n, F)
    """
    b = _plus_minus_one(signs)  # (F, C)
    sums: Array = upper_bytes(q) @ b.T  # integers below 2^24: exact
    sums *= np.float32(256) * scale[:, None]
    return sums


def upper_bytes(q: Array) -> Array:
    """Return round(q / 256) as float32."""
    return ((q.astype(np.int32) + 128) >> 8).astype(np.float32)


def correlated_signs(K: Array, G: Array, steps: int | None = None) -> Array:
    """Choose signs b so that b . x correlates with K_f . x as well as it can.

    The search begins with sign(K_f). Every step flips, for each neuron, the sign that helps most.

    ::

        correlation^2 ~ (b . G k)^2 / (b . G b)
        after a flip of b_j:  b . G k - 2 b_j (G k)_j  and  b . G b - 4 b_j (G b)_j + 4 G_jj

    Parameters
    ----------
    K : ndarray, float32, shape (F, C)
    G : ndarray, float32, shape (C, C)
        Covariance of x.
    steps : int, optional
        Flips of a neuron, at most; C by default.

    Returns
    -------
    ndarray, bool, shape (F, C)
    """
    b = _plus_minus_one(K >= 0)  # (F, C)
    Gk = K @ G  # (F, C)
    Gb = b @ G  # (F, C)
    diagonal = np.diag(G)
    bGk = (b * Gk).sum(axis=1)  # (F,)
    bGb = (b * Gb).sum(axis=1)  # (F,)
    live = np.arange(len(K))  # neurons that may still gain
    for _ in range(K.shape[1] if steps is None else steps):
        signs = b[live]
        flipped_bGk = bGk[live, None] - 2 * signs * Gk[live]  # (live, C)
        flipped_bGb = bGb[live, None] - 4 * signs * Gb[live] + 4 * diagonal
        square = np.square(np.maximum(flipped_bGk, 0)) / np.maximum(flipped_bGb, 1e-30)

        best = square.argmax(axis=1)
        place = np.arange(len(live))
        before = np.square(np.maximum(bGk[live], 0))
        gains = square[place, best] * bGb[live] > before * _GAIN
        live, best, place = live[gains], best[gains], place[gains]
        if not len(live):
            break

        bGk[live] = flipped_bGk[place, best]
        bGb[live] = flipped_bGb[place, best]
        Gb[live] -= 2 * b[live, best][:, None] * G[best]
        b[live, best] *= -1
    return b > 0


def _plus_minus_one(signs: Array) -> Array:
    return np.where(signs, np.float32(1), np.float32(-1))
