"""One bit for each weight, and what is expected after its score."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.sign_predictor import SignPredictor, correlated_signs, fit_signs, scores
from tinyrwkv.quant import quantize_rows


def correlation(b: np.ndarray, K: np.ndarray, G: np.ndarray) -> np.ndarray:
    b = np.where(b, 1.0, -1.0)
    with_key, own, of_key = ((x @ G * y).sum(axis=1) for x, y in ((b, K), (b, b), (K, K)))
    return with_key / np.sqrt(own * of_key)


@given(st.integers(0, 999), st.integers(2, 20))
def test_flips_correlate_better_than_signs_and_end_where_no_flip_helps(seed: int, C: int) -> None:
    random = np.random.default_rng(seed)
    K = random.standard_normal((5, C)).astype(np.float32)
    mixing = random.standard_normal((C, C)) * random.uniform(0.1, 2, C)
    G = (mixing @ mixing.T + 0.1 * np.eye(C)).astype(np.float32)
    b = correlated_signs(K, G)
    best = correlation(b, K, G)
    assert (best >= correlation(K >= 0, K, G) - 1e-6).all()
    if correlated_signs(K, G, steps=C - 1).tolist() == b.tolist():  # it ended by itself
        for j in range(C):
            flipped = b.copy()
            flipped[:, j] ^= True
            assert (correlation(flipped, K, G) <= best + 1e-3).all()


def test_scores_are_sums_of_upper_bytes() -> None:
    random = np.random.default_rng(1)
    signs, q = random.random((7, 64)) < 0.5, random.integers(-32512, 32513, (9, 64)).astype(np.int16)
    scale = random.random(9).astype(np.float32)
    expected = [
        [sum((1 if b else -1) * ((int(v) + 128) >> 8) for b, v in zip(row, x, strict=True)) for row in signs] for x in q
    ]
    assert np.array_equal(scores(signs, q, scale), np.float32(expected) * (np.float32(256) * scale)[:, None])


def test_thresholds_are_where_the_expected_energy_meets_the_price() -> None:
    random = np.random.default_rng(2)
    slope, offset, noise = np.array([2.0, 0.5, 1.0]), np.array([-1.0, 0.2, 0.0]), np.array([0.5, 1.0, 2.0])
    predictor = SignPredictor(np.ones((3, 64), bool), slope, offset, noise, np.array([1.0, 3.0, 0.1]))
    for price in (0.1, 1.0, 50.0):
        s = predictor.thresholds(price)
        k = slope * s + offset + noise * random.standard_normal((400_000, 3))
        expected = (np.maximum(k, 0) ** 4).mean(axis=0) * predictor.weight
        np.testing.assert_allclose(expected, price, rtol=0.15)


def test_neurons_without_weight_or_whose_scores_say_nothing() -> None:
    same = np.array([1.0, 0.0, -1.0, 1.0])
    predictor = SignPredictor(np.ones((4, 64), bool), same, np.full(4, 2.0), np.ones(4), np.array([0.0, 1, 1, 1]))
    assert predictor.thresholds(1.0)[:3].tolist() == [np.inf, -np.inf, -np.inf]
    assert predictor.thresholds(1e9)[1:3].tolist() == [np.inf, np.inf]
    without_noise = predictor._replace(noise=np.zeros(4))
    assert not np.isnan(without_noise.thresholds(1.0)).any()


@pytest.mark.parametrize("n", (1, 2, 200))
def test_fit_of_few_inputs_and_of_inputs_that_do_not_change(n: int) -> None:
    random = np.random.default_rng(3)
    key, scale = quantize_rows(random.standard_normal((6, 64)).astype(np.float32))
    q = np.repeat(random.integers(-9999, 9999, (1, 64)), n, axis=0).astype(np.int16)
    predictor = fit_signs(key, scale, q, np.full(n, 1e-3, np.float32), np.ones(6))
    assert not np.isnan(predictor.thresholds(1e-3)).any()
