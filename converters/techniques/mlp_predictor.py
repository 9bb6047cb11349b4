"""Predict which neurons fire by a small network, trained for one layer.

::

    p = sigmoid(fc2 relu(fc1 x))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tinyrwkv.file.quant import dequantize_rows, quantize_rows
from tinyrwkv.versions.reference import sigmoid

Array = np.ndarray
Progress = Callable[[int, int], None]

RATE, FIRST_DECAY, SECOND_DECAY = 0.005, 0.9, 0.999
"""Of Adam: learning rate, decays of the means of gradients and of their squares."""

BATCH = 512

HELD_OUT = 5
"""One in this number of inputs is held out, to see when to stop."""

PATIENCE = 3
"""Epochs in a row without a lower loss, after which training ends."""


class Network(NamedTuple):
    """The two matrices in int8, each with a scale for each row.

    Attributes
    ----------
    fc1 : ndarray, int8, shape (hidden, C)
    fc1_scale : ndarray, float32, shape (hidden,)
    fc2 : ndarray, int8, shape (F, hidden)
    fc2_scale : ndarray, float32, shape (F,)
    """

    fc1: Array
    fc1_scale: Array
    fc2: Array
    fc2_scale: Array

    def scores(self, x: Array) -> Array:
        """Return fc2 relu(fc1 x) of float32 inputs (n, C), float32, shape (n, F)."""
        low = np.maximum(x @ dequantize_rows(self.fc1, self.fc1_scale).T, 0)  # (n, hidden)
        y: Array = low @ dequantize_rows(self.fc2, self.fc2_scale).T
        return y


def train(
    x: Array,
    fires: Array,
    hidden: int = 64,
    epochs: int = 20,
    seed: int = 0,
    progress: Progress | None = None,
) -> Network:
    """Train a network by Adam on the cross entropy.

    All firing neurons together weigh as much as all that do not fire.

    Parameters
    ----------
    x : ndarray, float32, shape (n, C)
        Inputs of the key matrix.
    fires : ndarray, bool, shape (n, F)
    hidden : int, optional
        Width of the network.
    epochs : int, optional
        How often the inputs are read, at most. Training ends earlier if the held-out inputs are no
        longer predicted better.
    seed : int, optional
    progress : callable, optional
        Called as ``progress(epochs_done, epochs)``.

    Returns
    -------
    Network
        As it was when it predicted the held-out inputs best.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(x))
    held_out, used = order[: len(x) // HELD_OUT], order[len(x) // HELD_OUT :]
    # The network sees inputs of unit size; in the end fc1 is divided by their spread.
    spread = max(float(x[used].std()), 1e-30)
    positive = _weight_of_firing(fires[used])
    parts = [
        _uniform(random, hidden, x.shape[1]),
        _uniform(random, fires.shape[1], hidden),
    ]
    adam = _Adam(parts)
    best = [part.copy() for part in parts]
    best_loss = np.inf
    worse = 0
    for epoch in range(epochs):
        random.shuffle(used)
        for first in range(0, len(used), BATCH):
            rows = used[first : first + BATCH]
            adam.step(gradients(parts, x[rows] / spread, fires[rows], positive))
        if len(held_out):
            now = loss(parts, x[held_out] / spread, fires[held_out], positive)
        else:
            now = -float(epoch)  # too few inputs to judge by: the last network is taken
        if progress is not None:
            progress(epoch + 1, epochs)
        if now < best_loss:
            best = [part.copy() for part in parts]
            best_loss = now
            worse = 0
        else:
            worse += 1
        if worse == PATIENCE:
            break
    fc1, fc2 = best
    return Network(*quantize_rows(fc1 / np.float32(spread)), *quantize_rows(fc2))


class _Adam:
    """Steps down gradients by Adam (arXiv:1412.6980).

    ::

        m += (1 - d1) (gradient - m),  v += (1 - d2) (gradient^2 - v)
        part -= rate (m / (1 - d1^t)) / (sqrt(v / (1 - d2^t)) + 1e-8)
    """

    def __init__(self, parts: list[Array]) -> None:
        self._parts = parts
        self._moments = [(np.zeros_like(part), np.zeros_like(part)) for part in parts]
        self._steps = 0

    def step(self, gradients: tuple[Array, ...]) -> None:
        self._steps += 1
        first, second = 1 - FIRST_DECAY**self._steps, 1 - SECOND_DECAY**self._steps
        for part, gradient, (m, v) in zip(self._parts, gradients, self._moments, strict=True):
            m += (1 - FIRST_DECAY) * (gradient - m)
            v += (1 - SECOND_DECAY) * (np.square(gradient) - v)
            part -= RATE * (m / first) / (np.sqrt(v / second) + 1e-8)


def _weight_of_firing(fires: Array) -> np.float32:
    """Return the weight by which all firing neurons together weigh as much as the others."""
    share = min(max(float(fires.mean()), 1e-6), 1 - 1e-6)
    return np.float32((1 - share) / share)


def _uniform(random: np.random.Generator, rows: int, columns: int) -> Array:
    bound = np.sqrt(6 / (rows + columns))
    return random.uniform(-bound, bound, (rows, columns)).astype(np.float32)


def gradients(
    parts: list[Array], x: Array, fires: Array, positive: np.float32
) -> tuple[Array, Array]:
    """Return the gradients of the mean loss by fc1 and fc2.

    ::

        by the logit: p (1 - fires) - positive fires (1 - p)

    Parameters
    ----------
    parts : list of ndarray
        fc1 and fc2.
    x : ndarray, shape (B, C)
    fires : ndarray, bool, shape (B, F)
    positive : float32
        The weight of a firing neuron.

    Returns
    -------
    tuple of ndarray
    """
    fc1, fc2 = parts
    low = x @ fc1.T  # (B, hidden)
    active = np.maximum(low, 0)
    p = sigmoid(active @ fc2.T)  # (B, F)
    slope = np.where(fires, positive * (p - 1), p) / np.float32(p.size)
    return ((slope @ fc2) * (low > 0)).T @ x, slope.T @ active


def loss(parts: list[Array], x: Array, fires: Array, positive: np.float32) -> float:
    """Return the mean loss; the parameters are those of `gradients`.

    ::

        loss = -(positive fires log p + (1 - fires) log(1 - p)),  -log sigmoid(y) = log(1 + e^-y)
    """
    fc1, fc2 = parts
    y = np.maximum(x @ fc1.T, 0) @ fc2.T
    loss = np.where(fires, positive * np.logaddexp(0, -y), np.logaddexp(0, y))
    return float(loss.mean())
