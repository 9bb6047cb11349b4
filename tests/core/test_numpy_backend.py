"""The NumPy backend: each operation is its formula, and there is no float copy of the model."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import tinyrwkv
from tests.helpers.tiny_models import DTYPES, error, shape_of, write_model
from tinyrwkv.engine import numpy_call
from tinyrwkv.engine.numpy_backend import FORMS
from tinyrwkv.engine.numpy_matmul import ACTIVATIONS
from tinyrwkv.engine.numpy_pointwise import normalise, quantize
from tinyrwkv.kernels import abi as op
from tinyrwkv.versions import reference
from tinyrwkv.versions.layout import VERSIONS


def test_every_operation_is_there():
    assert FORMS.keys() == op.NAMES.keys()
    assert all(callable(form) for form in FORMS.values())


@given(arrays(np.float32, 20, elements=st.floats(-50, 50, width=32)))
def test_activations_are_their_formulas(x):
    wide = x.astype(np.float64)
    logistic = 1 / (1 + np.exp(-wide))
    expected = {
        op.IDENTITY: wide,
        op.SIGMOID: logistic,
        op.TANH: np.tanh(wide),
        op.SILU: wide * logistic,
        op.RELU: np.maximum(wide, 0),
        op.SQUARED_RELU: np.maximum(wide, 0) ** 2,
        op.DECAY_V6: np.exp(-np.exp(wide)),
        op.DECAY_V7: np.exp(-np.exp(-0.5) * logistic),
    }
    for activation, values in expected.items():
        with np.errstate(all="ignore"):
            y = ACTIVATIONS[activation](x.copy())
        assert y.dtype == np.float32
        np.testing.assert_allclose(y, values, rtol=2e-5, atol=2e-6)


@given(arrays(np.float32, (3, 24), elements=st.floats(-9, 9, width=32)))
def test_norm_is_that_of_the_reference(x):
    eps = np.float32(64e-5)
    for row, found in zip(x, normalise(x, eps), strict=True):
        expected = reference.layer_norm(row, np.float32(1), np.float32(0), 64e-5)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


class Call:
    """What QUANTIZE needs of a call."""

    def __init__(self, x: np.ndarray) -> None:
        self.x, self.q = x, np.full(x.shape, 77, np.int16)
        self.scale = np.full((len(x), 1), 7, np.float32)

    def shared(self, offset, width):
        return self.x

    def private(self, offset, width, dtype=np.float32):
        return self.q if dtype == np.int16 else self.scale


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 40)),
        elements=st.floats(-1e6, 1e6, width=32),
    ),
    st.sampled_from([1, 6290, 22016, 32512]),
)
def test_activations_are_rounded_to_the_nearest_step(x, qmax):
    call = Call(x)
    with np.errstate(all="ignore"):
        quantize(call, op.Fields[op.QUANTIZE](1, 0, x.shape[1], x.shape[1], 0, 0, op.NONE, qmax))
    assert np.abs(call.q.astype(int)).max() <= qmax
    scale = call.scale.astype(np.float64)
    largest = np.abs(x).max(axis=1, keepdims=True)
    np.testing.assert_allclose(scale, largest / qmax, rtol=1e-6)
    normal = (largest > 1e-30)[
        :, 0
    ]  # below that 1 / s overflows, and what is rounded away is nothing
    assert (np.abs(call.q * scale - x)[normal] <= (0.501 * scale + 1e-6 * largest)[normal]).all()
    assert not call.q[largest[:, 0] == 0].any()


@given(st.data())
@settings(max_examples=15)
def test_blocks_of_any_size_give_the_same(load, data):
    arch, dtype = data.draw(st.sampled_from(VERSIONS)), data.draw(st.sampled_from(DTYPES))
    model, tokens = (
        load("numpy", arch, dtype),
        data.draw(st.lists(st.integers(0, 299), min_size=1, max_size=5)),
    )
    expected, whole = model.forward(tokens, logits="all")
    before = numpy_call.BLOCK_WEIGHTS
    try:
        numpy_call.BLOCK_WEIGHTS = data.draw(st.integers(1, 5000))
        found, state = model.forward(tokens, logits="all")
    finally:
        numpy_call.BLOCK_WEIGHTS = before
    assert error(found, expected) < (1e-3 if dtype in ("int8", "int4") else 1e-5)
    assert np.abs(state.data - whole.data).max() < 1e-3


@pytest.mark.parametrize("dtype", ["int8", "f16"])
def test_no_float_copy_of_the_model(tmp_path, dtype):
    path = write_model(
        tmp_path / "a.trwkv", shape_of("v5.2", layers=1, width=256, vocab=16384, ffn=512), dtype
    )
    model = tinyrwkv.load(path, backend="numpy")
    model.forward([1])
    assert 16384 * 256 * 4 > 3 * 4 * numpy_call.BLOCK_WEIGHTS  # the head alone, as floats
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for token in range(5):
            model.forward([token])
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak < 4 * numpy_call.BLOCK_WEIGHTS


def test_numbers_that_overflow_make_no_warnings(tiny, load):
    state = load("numpy", "v7", "f32").new_state().copy()
    state.data[:] = np.float32(1e38)
    logits, after = load("numpy", "v7", "f32").forward([1, 2], state)
    assert logits.shape == (300,) and after.tokens == 2
