"""Factors of matrices: what they keep, what they cost, and which ranks a budget buys."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.techniques.low_rank import (
    Metric,
    check_rank,
    choose_ranks,
    factored_bytes,
    highest_rank,
    round_factors,
    spectrum,
    uniform_rank,
)
from tinyrwkv.errors import ArgumentError

SHAPES = st.tuples(st.integers(6, 24), st.integers(6, 24))
SEEDS = st.integers(0, 2**32 - 1)


def sample(seed: int, shape: tuple[int, int], effects: bool = True) -> tuple[np.ndarray, Metric]:
    """Return a random matrix, and a metric of inputs that vary more in some directions."""
    random = np.random.default_rng(seed)
    rows, columns = shape
    x = random.standard_normal((4 * columns, columns)) * np.geomspace(1, 0.05, columns)
    x = x @ np.linalg.qr(random.standard_normal((columns, columns)))[0]
    d = np.exp(random.standard_normal(rows)) if effects else None
    return random.standard_normal(shape).astype(np.float32), Metric(x.T @ x / len(x), d)


@given(SEEDS, SHAPES, st.booleans())
def test_all_terms_together_are_the_matrix(seed, shape, whitened):
    weight, metric = sample(seed, shape)
    a, b = spectrum(weight, metric if whitened else None).factors(min(shape))
    np.testing.assert_allclose(b @ a, weight, atol=1e-4 * np.abs(weight).max())


@given(SEEDS, SHAPES, st.data())
def test_each_term_left_out_costs_its_square(seed, shape, data):
    weight, metric = sample(seed, shape)
    taken = spectrum(weight, metric)
    rank = data.draw(st.integers(1, min(shape) - 1))
    a, b = (factor.astype(np.float64) for factor in taken.factors(rank))
    left_out = np.square(taken.values[rank:]).sum()
    assert metric.error(weight, b @ a) == pytest.approx(
        left_out, rel=1e-3, abs=1e-6 * np.square(taken.values).sum()
    )


@given(SEEDS, SHAPES)
def test_the_error_is_what_outputs_differ_by(seed, shape):
    random = np.random.default_rng(seed)
    x = random.standard_normal((50, shape[1]))
    d = np.exp(random.standard_normal(shape[0]))
    one, other = random.standard_normal((2, *shape)).astype(np.float32)
    expected = np.square(d * (x @ (one - other).T)).sum(axis=1).mean()
    assert Metric(x.T @ x / 50, d).error(one, other) == pytest.approx(expected, rel=1e-5)


@given(SEEDS, SHAPES, st.booleans())
def test_whitened_is_never_worse_where_it_counts(seed, shape, effects):
    weight, metric = sample(seed, shape, effects)
    plain_terms, white_terms = spectrum(weight), spectrum(weight, metric)
    for rank in range(1, highest_rank(shape) + 1):
        plain, white = (b @ a for a, b in (plain_terms.factors(rank), white_terms.factors(rank)))
        assert metric.error(weight, white) <= metric.error(weight, plain) * (1 + 1e-4)


@given(SEEDS, SHAPES)
def test_rounded_factors_stay_near_the_best(seed, shape):
    weight, metric = sample(seed, shape)
    taken = spectrum(weight, metric)
    rank = max(1, min(shape) // 3)
    factors = round_factors(weight, taken, rank, metric)
    assert (factors.a.dtype, factors.b.dtype) == (np.int8, np.int8)
    assert (factors.a.shape, factors.b.shape) == ((rank, shape[1]), (shape[0], rank))
    best, whole = np.square(taken.values[rank:]).sum(), np.square(taken.values).sum()
    assert best * 0.999 <= metric.error(weight, factors.product()) <= best + 0.002 * whole


def test_a_singular_metric_is_no_trouble():
    weight, _ = sample(1, (12, 16))
    x = np.zeros((8, 16))
    x[:, :3] = np.random.default_rng(0).standard_normal((8, 3))
    metric = Metric(x.T @ x / 8)
    factors = round_factors(weight, spectrum(weight, metric), 3, metric)
    assert metric.error(weight, factors.product()) < 1e-3 * metric.error(
        weight, np.zeros_like(weight)
    )


@pytest.mark.parametrize("shape", [(384, 384), (100, 300), (8, 8)])
def test_a_rank_that_saves_nothing_is_refused(shape):
    most = (shape[0] * shape[1] - 1) // sum(shape)
    check_rank(shape, most)
    assert most * sum(shape) < shape[0] * shape[1] <= (most + 1) * sum(shape)
    for rank in (0, -1, most + 1):
        with pytest.raises(
            ArgumentError, match=f"rank of {rank} for a matrix of {shape[0]} x {shape[1]}"
        ):
            check_rank(shape, rank)


def test_uniform_ranks():
    assert uniform_rank((384, 384), 4) == 96
    assert uniform_rank((384, 384), 3) == 128
    for k in (2, 1, 0, -4):
        with pytest.raises(ArgumentError, match="low rank"):
            uniform_rank((384, 384), k)


@given(SEEDS, st.integers(1, 6), st.floats(0.1, 1.1))
def test_ranks_keep_the_budget_and_use_it(seed, count, share):
    random = np.random.default_rng(seed)
    shapes = {str(i): (64, 64) for i in range(count)}
    values = {
        name: np.sort(np.abs(random.standard_normal(64)) * random.uniform(0.1, 9))[::-1]
        for name in shapes
    }
    weights = {name: float(random.uniform(0.1, 3)) for name in shapes}
    dense = 64 * 68
    budget = int(share * count * dense)
    try:
        ranks = choose_ranks(shapes, values, weights, budget)
    except ArgumentError as error:
        assert budget < count * factored_bytes((64, 64), 8)
        assert "raise the budget" in str(error)
        return

    def size(rank: int) -> int:
        return factored_bytes((64, 64), rank) if rank else dense

    used = sum(map(size, ranks.values()))
    assert used <= budget
    for rank in ranks.values():  # nothing better fits into what is left
        larger = [
            r
            for r in (*range(8, 64, 8), 0)
            if size(rank) < size(r) <= min(dense, size(rank) + budget - used)
        ]
        assert not larger


def test_a_budget_goes_where_it_matters():
    shapes = {"flat": (64, 64), "steep": (64, 64)}
    values = {"flat": np.ones(64), "steep": 2.0 ** -np.arange(64)}
    ranks = choose_ranks(shapes, values, {"flat": 1.0, "steep": 1.0}, 5500)
    assert ranks["flat"] == 0 or ranks["flat"] > ranks["steep"] > 0, ranks


@pytest.mark.parametrize(
    "weight",
    [
        np.zeros(4, np.float32),
        np.zeros((0, 4), np.float32),
        np.full((4, 4), np.nan, np.float32),
        [[1.0]],
    ],
)
def test_what_is_no_matrix_is_refused(weight):
    with pytest.raises(ArgumentError, match="a matrix of finite numbers"):
        spectrum(weight)


def test_a_metric_of_another_shape_is_refused():
    weight = np.ones((4, 6), np.float32)
    for metric in (
        Metric(np.eye(4)),
        Metric(np.eye(6), np.ones(6)),
        Metric(np.eye(6), np.zeros(4)),
    ):
        with pytest.raises(ArgumentError, match="collect them for this matrix"):
            spectrum(weight, metric)
