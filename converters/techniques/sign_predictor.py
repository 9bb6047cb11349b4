"""Estimate the keys of neurons from one bit for each weight: s = b . x, b of signs.

The best b is not sign(K_f), because inputs differ in variance and hang together: signs are flipped one by one as long
as the correlation of b . x with K_f . x grows.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


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
    return correlated_signs(K, x.T @ x / len(x))


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
        better = gain[here, j] * bottom[live] > np.square(np.maximum(top[live], 0)) * np.float32(
            1 + 1e-6
        )
        live, j, here = live[better], j[better], here[better]
        if not len(live):
            break
        top[live], bottom[live] = new_top[here, j], new_bottom[here, j]
        Gb[live] -= 2 * b[live, j][:, None] * G[j]
        b[live, j] *= -1
    return b > 0
