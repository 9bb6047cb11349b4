"""What scores say about the energy of neurons."""

from __future__ import annotations

import numpy as np
import pytest

from converters.techniques.expected_energy import Expectation, fit_expectation


def test_thresholds_are_where_the_expected_energy_meets_the_price() -> None:
    random = np.random.default_rng(2)
    slope, offset, noise = (
        np.array([2.0, 0.5, 1.0]),
        np.array([-1.0, 0.2, 0.0]),
        np.array([0.5, 1.0, 2.0]),
    )
    expectation = Expectation(slope, offset, noise, np.array([1.0, 3.0, 0.1]))
    for price in (0.1, 1.0, 50.0):
        s = expectation.thresholds(price)
        k = slope * s + offset + noise * random.standard_normal((400_000, 3))
        expected = (np.maximum(k, 0) ** 4).mean(axis=0) * expectation.weight
        np.testing.assert_allclose(expected, price, rtol=0.15)


def test_thresholds_rise_with_the_price_from_all_to_none() -> None:
    random = np.random.default_rng(3)
    s = random.standard_normal((500, 8)).astype(np.float32)
    expectation = fit_expectation(
        s, s * 2 + random.standard_normal((500, 8)).astype(np.float32), np.ones(8)
    )
    thresholds = expectation.thresholds(np.array([0, *np.geomspace(1e-9, 1e9, 50)])[:, None])
    assert thresholds.shape == (51, 8) and (thresholds[0] == -np.inf).all()
    assert (thresholds[1:] >= thresholds[:-1]).all()
    assert np.array_equal(thresholds[20], expectation.thresholds(np.geomspace(1e-9, 1e9, 50)[19]))


def test_neurons_without_weight_or_whose_scores_say_nothing() -> None:
    slope = np.array([1.0, 0.0, -1.0, 1.0])
    expectation = Expectation(slope, np.full(4, 2.0), np.ones(4), np.array([0.0, 1, 1, 1]))
    assert expectation.thresholds(1.0)[:3].tolist() == [np.inf, -np.inf, -np.inf]
    assert expectation.thresholds(1e9)[1:3].tolist() == [np.inf, np.inf]
    assert not np.isnan(expectation._replace(noise=np.zeros(4)).thresholds(1.0)).any()


def test_a_fit_finds_what_keys_were_made_of() -> None:
    random = np.random.default_rng(4)
    s = (random.standard_normal((20_000, 3)) * 5 + 100).astype(np.float32)
    k = s * [1, 2, 0.5] + [-90, 3, 0] + random.standard_normal((20_000, 3)) * [1, 2, 4]
    fit = fit_expectation(s, k.astype(np.float32), np.ones(3))
    np.testing.assert_allclose(fit.slope, [1, 2, 0.5], atol=0.03)
    np.testing.assert_allclose(fit.slope * 100 + fit.offset, [10, 203, 50], rtol=0.01)
    np.testing.assert_allclose(fit.noise, [1, 2, 4], rtol=0.03)


@pytest.mark.parametrize("n", (1, 2, 200))
def test_a_fit_of_scores_that_do_not_change(n: int) -> None:
    fit = fit_expectation(np.ones((n, 4), np.float32), np.full((n, 4), 2, np.float32), np.ones(4))
    assert fit.thresholds(1.0).tolist() == [-np.inf] * 4
    assert fit.thresholds(100.0).tolist() == [np.inf] * 4
