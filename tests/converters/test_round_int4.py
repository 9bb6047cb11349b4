"""Rounding to int4: exact where it can be, near elsewhere, and a clear rule for the rest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.techniques.round_int4 import LARGEST_SPAN, round_int4
from tinyrwkv.errors import ArgumentError
from tinyrwkv.file.int4 import dequantize, order, pack
from tinyrwkv.file.quant import dequantize_rows, quantize_rows

SEEDS = st.integers(0, 2**32 - 1)
SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 7).map(lambda groups: 64 * groups))


def representable(seed: int, shape: tuple[int, int]) -> np.ndarray:
    """Return weights s (q - z) of random s and z, with q that have both ends in each group."""
    random = np.random.default_rng(seed)
    rows, columns = shape
    q = random.integers(0, 16, (rows, columns // 64, 64))
    q[..., 5], q[..., 40] = 0, 15
    scale = np.exp(random.uniform(-9.5, 10, (rows, columns // 64, 1))).astype(np.float16)
    zero = random.integers(0, 16, scale.shape)
    weight = np.empty(shape, np.float32)
    groups = scale.astype(np.float32) * (q - zero).astype(np.float32)
    weight[:, order(columns)] = groups.reshape(shape)
    return weight


@given(SEEDS, SHAPES)
def test_what_int4_can_hold_comes_back_exactly(seed, shape):
    weight = representable(seed, shape)
    rounded = round_int4(weight)
    np.testing.assert_array_equal(rounded.weights(), weight)
    np.testing.assert_array_equal(dequantize(rounded.packed()), weight)


@given(SEEDS, SHAPES, st.integers(0, 15), st.integers(0, 15))
def test_what_int4_holds_already_stays(seed, shape, lowest, highest):
    """Also where no group has both ends, which a search from the span of its weights misses."""
    random = np.random.default_rng(seed)
    rows, columns = shape
    q = random.integers(min(lowest, highest), max(lowest, highest) + 1, shape).astype(np.uint8)
    scale = np.exp(random.uniform(-9.5, 10, (rows, columns // 64))).astype(np.float16)
    zero = random.integers(0, 16, scale.shape).astype(np.uint8)
    weight = dequantize(pack(q, scale, zero))
    np.testing.assert_array_equal(round_int4(weight).weights(), weight)


@given(SEEDS, st.integers(9, 15), st.integers(0, 15))
def test_int8_in_between_hardly_changes_what_int4_held(seed, steps, zero):
    random = np.random.default_rng(seed)
    first = random.integers(0, 16 - steps)
    q = random.integers(first, first + steps + 1, (3, 256)).astype(np.uint8)
    scale = random.uniform(0.01, 0.03, (3, 4)).astype(np.float16)
    weight = dequantize(pack(q, scale, np.full((3, 4), zero, np.uint8)))
    again = round_int4(dequantize_rows(*quantize_rows(weight))).weights()
    step = scale.astype(np.float32).mean()
    assert np.sqrt(np.square(again - weight).mean()) < 0.1 * step  # rounding anew: 0.29


@given(SEEDS, SHAPES, st.integers(-20, 12))
def test_weights_are_those_of_the_file_and_near(seed, shape, exponent):
    random = np.random.default_rng(seed)
    weight = (random.standard_normal(shape) * 2.0**exponent).astype(np.float32)
    rounded = round_int4(weight)
    found = dequantize(rounded.packed())
    np.testing.assert_array_equal(rounded.weights(), found)
    groups = weight[:, order(shape[1])].reshape(-1, 64)
    span = np.maximum(groups.max(axis=1), 0) - np.minimum(groups.min(axis=1), 0)
    errors = (found - weight)[:, order(shape[1])].reshape(-1, 64)
    # The plain way without clipping: an even error within a step, and float16 for its size. The
    # zero point is rounded too, so a step at an end may be half a step further away.
    step = span / 15 * (1 + 2**-10) + 2.0**-14
    assert (np.square(errors).mean(axis=1) <= np.square(step)).all()


@given(SEEDS)
def test_each_weight_has_the_nearest_value_of_its_group(seed):
    weight = np.random.default_rng(seed).standard_normal((2, 128)).astype(np.float32)
    _, scale, zero = round_int4(weight)
    values = scale.astype(float)[..., None] * (np.arange(16) - zero[..., None].astype(float))
    groups = weight[:, order(128)].reshape(2, 2, 64)
    nearest = np.abs(groups[..., None] - values[:, :, None]).min(axis=-1)
    found = np.abs(round_int4(weight).weights() - weight)[:, order(128)].reshape(2, 2, 64)
    np.testing.assert_allclose(found, nearest, atol=1e-6)


def test_clipping_the_largest_weights_pays():
    groups = np.random.default_rng(0).standard_normal((500, 64)).astype(np.float32)
    low, high = groups.min(axis=1, keepdims=True), groups.max(axis=1, keepdims=True)
    step = (high - low) / 15
    zero = np.rint(-low / step)
    plain = step * (np.clip(np.rint(groups / step) + zero, 0, 15) - zero)
    error = np.square(round_int4(groups).weights() - groups).sum()
    assert error < 0.92 * np.square(plain - groups).sum()


def test_zeros_stay_zeros():
    rounded = round_int4(np.zeros((3, 128), np.float32))
    assert not rounded.weights().any()
    assert not rounded.scale.any()


@pytest.mark.parametrize("size", [1e-45, 1e-20, 1e-9])
def test_what_is_under_float16_becomes_0(size):
    weight = np.full((1, 64), size, np.float32)
    weight[0, ::2] *= -1
    assert not round_int4(weight).weights().any()


def test_the_largest_span_fits():
    weight = np.zeros((1, 64), np.float32)
    weight[0, 0], weight[0, 1] = LARGEST_SPAN - 5 * 65504, -5 * 65504
    np.testing.assert_array_equal(round_int4(weight).weights(), weight)


@pytest.mark.parametrize(
    ("weight", "found"),
    [
        (np.full((1, 64), LARGEST_SPAN * 1.01, np.float32), "apart"),
        (np.full((1, 64), 3e38, np.float32) * np.tile([1, -1], 32), "apart"),
        (np.full((1, 64), np.nan, np.float32), "NaN or infinity"),
        (np.full((1, 64), np.inf, np.float32), "NaN or infinity"),
        (np.zeros((1, 65), np.float32), "a shape of"),
        (np.zeros(64, np.float32), "a shape of"),
    ],
    ids=["huge", "huge both ways", "nan", "inf", "columns", "vector"],
)
def test_what_int4_cannot_hold_is_refused(weight, found):
    with pytest.raises(ArgumentError, match="int4 cannot hold this matrix") as refused:
        round_int4(weight)
    assert found in refused.value.found
