"""The small network that predicts which neurons fire."""

from __future__ import annotations

import numpy as np
import pytest

from converters.techniques.mlp_predictor import gradients, loss, train
from tests.helpers.channel_mixes import channel_mix


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    neurons, inputs = channel_mix(5, F=40, n=1500)
    x = inputs.q * inputs.scale[:, None]
    return x, x @ (neurons.key * neurons.key_scale[:, None]).T > 0


def test_gradients_are_the_slopes_of_the_loss(data) -> None:
    x, fires = data[0][:50].astype(np.float64), data[1][:50]
    random = np.random.default_rng(0)
    parts = [random.standard_normal((6, 64)) / 8, random.standard_normal((40, 6))]
    for which, gradient in enumerate(gradients(parts, x, fires, np.float32(3))):
        for _ in range(5):
            at = tuple(random.integers(0, n) for n in gradient.shape)
            low, high = ([part.copy() for part in parts] for _ in range(2))
            low[which][at] -= 1e-5
            high[which][at] += 1e-5
            slope = (
                loss(high, x, fires, np.float32(3)) - loss(low, x, fires, np.float32(3))
            ) / 2e-5
            np.testing.assert_allclose(gradient[at], slope, rtol=1e-3, atol=1e-8)


def test_a_network_predicts_inputs_it_has_not_seen_and_the_seed_reproduces_it(data) -> None:
    x, fires = data
    told: list[tuple[int, int]] = []
    network = train(x[:1200], fires[:1200], 16, seed=1, progress=lambda *step: told.append(step))
    assert told[-1][0] <= told[-1][1] == 20 and [step[0] for step in told] == list(
        range(1, len(told) + 1)
    )
    score, truth = network.scores(x[1200:]), fires[1200:]
    # the chance that a neuron that fires has a larger score than one that does not
    ranks = np.argsort(np.argsort(score.ravel())).astype(np.float64)
    positive, negative = truth.sum(), (~truth).sum()
    area = (ranks[truth.ravel()].sum() - positive * (positive - 1) / 2) / (positive * negative)
    assert area > 0.9
    again = train(x[:1200], fires[:1200], 16, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(network, again, strict=True))
    assert not np.array_equal(network.fc1, train(x[:1200], fires[:1200], 16, seed=2, epochs=1).fc1)


def test_training_ends_when_it_no_longer_helps() -> None:
    random = np.random.default_rng(0)
    told: list[int] = []
    x = random.standard_normal((300, 64)).astype(np.float32)
    fires = random.random((300, 8)) < 0.5
    train(x, fires, 32, epochs=200, progress=lambda done, _: told.append(done))
    assert told[-1] < 100


@pytest.mark.parametrize("share", (0.0, 1.0))
def test_neurons_that_never_or_always_fire(share: float) -> None:
    x = np.random.default_rng(0).standard_normal((60, 64)).astype(np.float32)
    network = train(x, np.full((60, 8), share > 0), 8, epochs=2)
    assert np.isfinite(network.scores(x)).all()
