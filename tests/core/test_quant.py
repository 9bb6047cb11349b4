"""int8 rows: the error bound, the edges of the range, and what is refused."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from tinyrwkv.errors import ArgumentError
from tinyrwkv.file.quant import dequantize_rows, quantize_rows

MATRICES = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=7),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@given(MATRICES)
def test_error_is_at_most_half_a_step(w):
    q, scale = quantize_rows(w)
    assert (q.dtype, q.shape, scale.dtype, scale.shape) == (
        np.int8,
        w.shape,
        np.float32,
        w.shape[:1],
    )
    error = np.abs(dequantize_rows(q, scale).astype(np.float64) - w)  # (out, in)
    # A float32 step of the largest product, 127 * scale, comes on top; and 1e-42, for a scale with
    # few digits left.
    assert np.all(error <= scale[:, None].astype(np.float64) * (0.5 + 127 * 2**-22) + 1e-42)


@given(MATRICES)
def test_range_is_symmetric_and_reached(w):
    q, scale = quantize_rows(w)
    q_minus, scale_minus = quantize_rows(-w)
    assert np.array_equal(q_minus, -q) and np.array_equal(scale_minus, scale)
    assert q.size == 0 or q.min() >= -127
    normal = scale >= np.finfo(np.float32).tiny
    if w.shape[1]:
        assert np.all(np.abs(q.astype(int)).max(axis=1)[normal] == 127)


@given(MATRICES)
def test_quantising_again_changes_nothing(w):
    w = np.where(np.abs(w) < 1e-30, 0, w).astype(np.float32)
    q, scale = quantize_rows(w)
    again, scale_again = quantize_rows(dequantize_rows(q, scale))
    assert np.array_equal(again, q)
    np.testing.assert_allclose(scale_again, scale, rtol=1e-6)


def test_known_values():
    w = np.array([[127, -127, 0.5, 1.5, 2.5, -0.5, -1.5], [0, 0, 0, 0, 0, 0, 0]], np.float32)
    q, scale = quantize_rows(w)
    assert q.tolist() == [[127, -127, 0, 2, 2, 0, -2], [0] * 7]  # half to even
    assert scale.tolist() == [1.0, 0.0] and not np.signbit(scale).any()


def test_scales_belong_to_rows():
    w = np.array([[1, 2], [100, 200]], np.float32)
    assert quantize_rows(w)[0].tolist() == [[64, 127], [64, 127]]
    assert quantize_rows(w.T.copy())[0].tolist() == [[1, 127], [1, 127]]


@pytest.mark.parametrize(
    ("tiny", "top"), [(1e-45, 0), (1.4e-43, 100), (2.6e-43, 127), (1e-39, 127), (1.2e-38, 127)]
)
def test_subnormal_rows_stay_in_range(tiny, top):
    w = np.array([[tiny, -tiny]], np.float32)
    q, scale = quantize_rows(w)
    assert q.tolist() == [[top, -top]]
    assert np.abs(dequantize_rows(q, scale) - w).max() < 1e-42


def test_the_largest_floats():
    top = np.finfo(np.float32).max
    q, scale = quantize_rows(np.array([[top, -top, top / 4]], np.float32))
    assert q.tolist() == [[127, -127, 32]] and np.isfinite(scale).all()


def test_blocks_do_not_change_the_result():
    w = (
        np.random.default_rng(0).standard_normal((9000, 60)).astype(np.float32)
    )  # 540,000 weights: three blocks
    q, scale = quantize_rows(w)
    for i in range(0, 9000, 7):
        q_row, scale_row = quantize_rows(w[i : i + 1])
        assert np.array_equal(q[i : i + 1], q_row) and scale[i] == scale_row[0]


def test_half_precision_and_strides():
    w = np.random.default_rng(0).standard_normal((6, 10)).astype(np.float16)
    q, scale = quantize_rows(w)
    q_wide, scale_wide = quantize_rows(w.astype(np.float32))
    assert np.array_equal(q, q_wide) and np.array_equal(scale, scale_wide)
    q_view, scale_view = quantize_rows(w[::2, ::-1])
    assert np.array_equal(q_view, q[::2, ::-1]) and np.array_equal(scale_view, scale[::2])


def test_the_input_is_left_alone():
    w = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    w.flags.writeable = False
    before = w.copy()
    quantize_rows(w)
    assert np.array_equal(w, before)


def test_temporaries_are_small():
    w = np.ones((1024, 8192), np.float32)  # 32 MB
    quantize_rows(w[:1])
    tracemalloc.start()
    quantize_rows(w)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < w.size + (8 << 20)  # q itself takes a byte a weight


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 4999])
def test_non_finite_weights_are_refused(value, row):
    w = np.ones((5000, 60), np.float32)
    w[row, 7] = value
    with pytest.raises(ArgumentError, match=rf"w\[{row}\] holds NaN or infinity"):
        quantize_rows(w)


@pytest.mark.parametrize(
    "w", [np.ones(3, np.float32), np.ones((2, 2)), np.ones((2, 2), np.int8), [[1.0]], None]
)
def test_other_than_float_matrices_are_refused(w):
    with pytest.raises(ArgumentError, match="float32 or float16 matrix"):
        quantize_rows(w)


@pytest.mark.parametrize(
    ("q", "scale"),
    [
        (np.ones((2, 3), np.int8), np.ones(3, np.float32)),
        (np.ones((2, 3), np.int8), np.ones(2, np.float64)),
        (np.ones((2, 3), np.uint8), np.ones(2, np.float32)),
        (np.ones(2, np.int8), np.ones(2, np.float32)),
        (np.ones((2, 3), np.int8), 1.0),
    ],
)
def test_scales_that_do_not_fit_are_refused(q, scale):
    with pytest.raises(ArgumentError, match="int8 \\(out, in\\) and float32 \\(out,\\)"):
        dequantize_rows(q, scale)
