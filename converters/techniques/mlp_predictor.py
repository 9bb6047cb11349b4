"""Predict which neurons fire by a small network: p = sigmoid(fc2 relu(fc1 x)), trained for one layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tinyrwkv.file.quant import dequantize_rows, quantize_rows
from tinyrwkv.versions.reference import sigmoid

Array = np.ndarray
Progress = Callable[[int, int], None]

RATE, FIRST_DECAY, SECOND_DECAY = 0.005, 0.9, 0.999
BATCH = 512
HELD = 5  # one in so many inputs is held back to see when to stop
PATIENCE = 3


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
    """Train a network by Adam on the cross entropy, a firing neuron weighing as much as all that do not fire.

    Parameters
    ----------
    x : ndarray, float32, shape (n, C)
        Inputs of the key matrix.
    fires : ndarray, bool, shape (n, F)
    hidden : int, optional
        Width of the network.
    epochs : int, optional
        Times to read the inputs at most; it ends when those held back are no longer predicted better.
    seed : int, optional
    progress : callable, optional
        Called as ``progress(epochs_done, epochs)``.

    Returns
    -------
    Network
        As it predicted the inputs held back best.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(x))
    held, used = order[: len(x) // HELD], order[len(x) // HELD :]
    spread = max(
        float(x[used].std()), 1e-30
    )  # the network sees inputs of unit size; fc1 takes it in at the end
    parts = [_uniform(random, hidden, x.shape[1]), _uniform(random, fires.shape[1], hidden)]
    share = min(max(float(fires[used].mean()), 1e-6), 1 - 1e-6)
    positive = np.float32((1 - share) / share)
    moments = [(np.zeros_like(part), np.zeros_like(part)) for part in parts]
    best, best_loss, worse, step = [part.copy() for part in parts], np.inf, 0, 0
    for epoch in range(epochs):
        random.shuffle(used)
        for first in range(0, len(used), BATCH):
            rows = used[first : first + BATCH]
            step += 1
            gradients = _gradients(parts, x[rows] / spread, fires[rows], positive)
            for part, gradient, (m, v) in zip(parts, gradients, moments, strict=True):
                m += (1 - FIRST_DECAY) * (gradient - m)
                v += (1 - SECOND_DECAY) * (np.square(gradient) - v)
                part -= (
                    RATE
                    * (m / (1 - FIRST_DECAY**step))
                    / (np.sqrt(v / (1 - SECOND_DECAY**step)) + 1e-8)
                )
        loss = _loss(parts, x[held] / spread, fires[held], positive) if len(held) else -float(epoch)
        if progress is not None:
            progress(epoch + 1, epochs)
        worse = 0 if loss < best_loss else worse + 1
        if loss < best_loss:
            best, best_loss = [part.copy() for part in parts], loss
        if worse == PATIENCE:
            break
    return Network(*quantize_rows(best[0] / np.float32(spread)), *quantize_rows(best[1]))


def _uniform(random: np.random.Generator, rows: int, columns: int) -> Array:
    bound = np.sqrt(6 / (rows + columns))
    return random.uniform(-bound, bound, (rows, columns)).astype(np.float32)


def _gradients(
    parts: list[Array], x: Array, fires: Array, positive: np.float32
) -> tuple[Array, Array]:
    """Return the gradients of the mean loss by fc1 and fc2."""
    fc1, fc2 = parts
    low = x @ fc1.T  # (B, hidden)
    active = np.maximum(low, 0)
    p = sigmoid(active @ fc2.T)  # (B, F)
    # loss = -(positive fires log p + (1 - fires) log(1 - p)); by the logit: p (1 - fires) - positive fires (1 - p)
    slope = np.where(fires, positive * (p - 1), p) / np.float32(p.size)
    return ((slope @ fc2) * (low > 0)).T @ x, slope.T @ active


def _loss(parts: list[Array], x: Array, fires: Array, positive: np.float32) -> float:
    y = np.maximum(x @ parts[0].T, 0) @ parts[1].T
    # -log sigmoid(y) = log(1 + e^-y)
    loss = np.where(fires, positive * np.logaddexp(0, -y), np.logaddexp(0, y))
    return float(loss.mean())
