"""Groups whose weights are values of int4 already are recognised, exactly."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from converters.techniques.on_grid import exact_rows, find_grid
from tinyrwkv.file import int4

GROUP = int4.GROUP


def groups_of(q: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """Return weights of int4, one group a row, through the bytes of a file."""
    return int4.dequantize(int4.pack(q, scale[:, None], zero[:, None]))


@given(
    seed=st.integers(0, 2**32 - 1),
    exponent=st.integers(-14, 11),
    lowest=st.integers(0, 15),
    width=st.integers(0, 15),
)
def test_weights_of_int4_are_found_exactly(seed, exponent, lowest, width):
    random = np.random.default_rng(seed)
    scale = (random.uniform(1, 2, 5) * 2.0**exponent).astype(np.float16)
    zero = random.integers(0, 16, 5).astype(np.uint8)
    highest = min(15, lowest + width)
    q = random.integers(lowest, highest + 1, (5, GROUP)).astype(np.uint8)
    groups = groups_of(q, scale, zero)
    found_scale, found_zero, is_exact = find_grid(groups)
    assert is_exact.all()
    steps = np.rint(groups / np.where(found_scale, found_scale, 1).astype(np.float32)[:, None])
    found_q = steps + found_zero[:, None]
    assert found_q.min() >= 0 and found_q.max() <= 15
    again = groups_of(found_q.astype(np.uint8), found_scale, found_zero)
    np.testing.assert_array_equal(again, groups)


def test_weights_of_a_whole_range_keep_their_levels():
    random = np.random.default_rng(0)
    q = np.array([random.permutation(np.arange(GROUP) % 16) for _ in range(9)], np.uint8)
    scale = random.uniform(0.001, 0.1, 9).astype(np.float16)
    zero = random.integers(0, 16, 9).astype(np.uint8)
    found_scale, found_zero, is_exact = find_grid(groups_of(q, scale, zero))
    assert is_exact.all()
    assert (found_scale.tolist(), found_zero.tolist()) == (scale.tolist(), zero.tolist())


@given(seed=st.integers(0, 2**32 - 1))
def test_other_weights_are_not(seed):
    groups = np.random.default_rng(seed).standard_normal((4, GROUP)).astype(np.float32)
    groups[0] = 0
    assert find_grid(groups)[2].tolist() == [True, False, False, False]


def test_weights_that_need_more_than_16_values_are_not():
    groups = np.zeros((1, GROUP), np.float32)
    groups[0, :2] = -8, 8  # 17 values of scale 1; 3 of scale 8 would do, but for the next weight
    groups[0, 2] = 1
    assert not find_grid(groups)[2].any()
    assert not find_grid(np.full((1, GROUP), np.float32(2.0**17 + 1)))[2].any()


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 20), groups=st.integers(1, 7))
def test_a_matrix_of_int4_is_packed_exactly(seed, rows, groups):
    random = np.random.default_rng(seed)
    q = random.integers(0, 16, (rows, GROUP * groups)).astype(np.uint8)
    scale = random.uniform(1e-4, 0.1, (rows, groups)).astype(np.float16)
    zero = random.integers(0, 16, (rows, groups)).astype(np.uint8)
    matrix = int4.dequantize(int4.pack(q, scale, zero))
    packed = exact_rows(matrix)
    assert packed is not None
    np.testing.assert_array_equal(int4.dequantize(packed), matrix)
    matrix[-1, -1] += 0.01 * np.abs(matrix).max() + 1
    assert exact_rows(matrix) is None
    assert exact_rows(matrix[:, :-1]) is None
