"""GPTQ: never worse than rounding to nearest, and the same where inputs have nothing in common."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.techniques.gptq import gptq, gptq_rows, inverse_root, row_errors
from converters.techniques.round_int4 import round_int4
from tests.converters.test_round_int4 import representable
from tinyrwkv.errors import ArgumentError

SEEDS = st.integers(0, 2**32 - 1)
GROUPS = st.integers(1, 3)
FORMS = pytest.mark.parametrize("form", [gptq, gptq_rows], ids=["columns", "rows"])


def sample(seed: int, outputs: int, inputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a random matrix [out, in], and second moments of inputs that go together."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((3 * inputs, inputs)) * np.exp(random.standard_normal(inputs))
    x = x @ np.linalg.qr(random.standard_normal((inputs, inputs)))[0]
    weight = random.standard_normal((outputs, inputs)).astype(np.float32)
    return weight, x.T @ x / len(x)


def error(difference: np.ndarray, moments: np.ndarray) -> float:
    return float(np.trace(difference @ moments @ difference.T))


@FORMS
@settings(max_examples=20)
@given(seed=SEEDS, groups=GROUPS)
def test_it_is_better_than_rounding_to_nearest(form, seed, groups):
    inputs, outputs = (64 * groups, 64) if form is gptq else (48 * groups, 64)
    weight, moments = sample(seed, outputs, inputs)
    arranged = weight if form is gptq else np.ascontiguousarray(weight.T)
    fit = form(arranged, moments)
    whole = error(weight, moments)
    for rounded, told in ((fit.int4, fit.error), (round_int4(arranged), fit.rounded_error)):
        difference = arranged - rounded.weights()
        difference = difference if form is gptq else difference.T
        assert told == pytest.approx((error(difference, moments) / whole) ** 0.5, rel=1e-3)
    assert fit.error < 0.97 * fit.rounded_error


@FORMS
@settings(max_examples=20)
@given(seed=SEEDS)
def test_inputs_that_have_nothing_in_common_are_rounded_to_nearest(form, seed):
    random = np.random.default_rng(seed)
    weight = random.standard_normal((128, 128)).astype(np.float32)
    fit = form(weight, np.diag(np.exp(random.standard_normal(128))))
    for found, rounded in zip(fit.int4, round_int4(weight), strict=True):
        np.testing.assert_array_equal(found, rounded)


@FORMS
@settings(max_examples=20)
@given(seed=SEEDS)
def test_what_int4_can_hold_stays_as_it_is(form, seed):
    weight = representable(seed, (64, 128))
    fit = form(weight, sample(seed, 64, 128 if form is gptq else 64)[1])
    np.testing.assert_array_equal(fit.int4.weights(), weight)
    assert fit.error == fit.rounded_error == 0


@FORMS
def test_inputs_that_never_occur_are_rounded_to_nearest(form):
    weight, moments = sample(0, 64, 128)
    never = np.arange(128) >= 64 if form is gptq_rows else np.isin(np.arange(128), [3, 77])
    moments[never] = moments[:, never] = 0
    arranged = weight if form is gptq else np.ascontiguousarray(weight.T)
    found = form(arranged, moments).int4.weights()
    if form is gptq_rows:
        np.testing.assert_array_equal(found[never], round_int4(arranged).weights()[never])
    step = np.abs(arranged).max() / 7
    difference = np.abs(found - arranged)
    assert (difference[:, never] if form is gptq else difference[never]).max() < step


@FORMS
def test_without_any_input_it_is_rounding_to_nearest(form):
    weight = sample(1, 64, 64)[0]
    fit = form(weight, np.zeros((64, 64)))
    np.testing.assert_array_equal(fit.int4.weights(), round_int4(weight).weights())


def test_many_outputs_are_rounded_each_for_itself():
    weight, moments = sample(2, 2100, 64)
    whole = gptq(weight, moments).int4.weights()
    np.testing.assert_allclose(whole[:20], gptq(weight[:20], moments).int4.weights(), atol=1e-6)
    last = gptq(weight[2050:], moments).int4.weights()
    np.testing.assert_allclose(whole[2050:], last, atol=1e-6)


@given(SEEDS, st.integers(1, 40))
def test_the_root_of_the_inverse(seed, inputs):
    moments = sample(seed, 1, inputs)[1]
    U = inverse_root(moments, 0.01).astype(np.float64)
    damped = moments + 0.01 * np.trace(moments) / inputs * np.eye(inputs)
    np.testing.assert_array_equal(U, np.triu(U))
    np.testing.assert_allclose(U.T @ U @ damped, np.eye(inputs), atol=1e-3)


@given(SEEDS)
def test_row_errors_are_what_outputs_differ_by(seed):
    random = np.random.default_rng(seed)
    x = random.standard_normal((50, 16))
    difference = random.standard_normal((3, 16)).astype(np.float32)
    expected = np.square(difference @ x.T).mean(axis=1)
    np.testing.assert_allclose(row_errors(difference, x.T @ x / 50), expected, rtol=1e-4)


@FORMS
@pytest.mark.parametrize(
    ("moments", "found"),
    [
        (np.eye(63), "moments of a shape"),
        (np.full((64, 64), np.nan), "not finite"),
        (np.eye(64) - 2 * np.eye(64, k=1) - 2 * np.eye(64, k=-1), "negative mean square"),
    ],
    ids=["shape", "nan", "negative"],
)
def test_wrong_moments_are_refused(form, moments, found):
    with pytest.raises(ArgumentError, match=found):
        form(np.zeros((64, 64), np.float32), moments)


@FORMS
def test_what_int4_cannot_hold_is_refused(form):
    with pytest.raises(ArgumentError, match="int4 cannot hold this matrix"):
        form(np.full((64, 64), np.nan, np.float32), np.eye(64))
