"""One bit for each weight, chosen so that scores hang together with keys."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.techniques.sign_predictor import correlated_signs, fit_signs, scores


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
            assert (
                correlation(flipped, K, G) <= np.maximum(best, 0) + 1e-3
            ).all()  # below 0 all are as bad


def test_scores_are_sums_of_upper_bytes() -> None:
    random = np.random.default_rng(1)
    signs, q = (
        random.random((7, 64)) < 0.5,
        random.integers(-32512, 32513, (9, 64)).astype(np.int16),
    )
    scale = random.random(9).astype(np.float32)
    expected = [
        [
            sum((1 if b else -1) * ((int(v) + 128) >> 8) for b, v in zip(row, x, strict=True))
            for row in signs
        ]
        for x in q
    ]
    assert np.array_equal(
        scores(signs, q, scale), np.float32(expected) * (np.float32(256) * scale)[:, None]
    )


@pytest.mark.parametrize("n", (1, 2, 200))
def test_inputs_that_do_not_change_leave_the_signs_of_the_weights(n: int) -> None:
    random = np.random.default_rng(3)
    K = random.standard_normal((6, 64)).astype(np.float32)
    q = np.repeat(random.integers(-9999, 9999, (1, 64)), n, axis=0).astype(np.int16)
    assert np.array_equal(fit_signs(K, q, np.full(n, 1e-3, np.float32)), K >= 0)
