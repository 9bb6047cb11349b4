"""Blocks of ggml, number for number what the package gguf makes of the same bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from converters.read import ggml, ggml_k

NAMES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "BF16")
# Where each type has its scales, which are float16.
SCALES = {
    **{"Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,)},
    **{"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)},
    "BF16": (),
}
SPECIAL = (0.0, -0.0, 1.0, -1.0, 6e-8, -6e-5, 65504.0, np.inf, -np.inf, np.nan)


def kind_of(name):
    return getattr(ggml_k if name.endswith("_K") else ggml, name)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_the_same_bits_as_the_package(name, data):
    gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
    kind = kind_of(name)
    raw = data.draw(arrays(np.uint8, (data.draw(st.integers(1, 5)), kind.nbytes)))
    for at in SCALES[name]:  # random bytes alone seldom have one of these
        for row in raw:
            if data.draw(st.booleans()):
                scale = np.array([data.draw(st.sampled_from(SPECIAL))], "<f2")
                row[at : at + 2] = scale.view(np.uint8)
    with np.errstate(all="ignore"):
        found = kind.decode(raw)
        expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[name])
    assert found.dtype == np.float32
    assert found.shape == expected.shape == (len(raw), kind.numbers)
    # Of numbers that are none, NaN, the bits are not defined.
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    usual = ~np.isnan(expected)
    np.testing.assert_array_equal(
        found[usual].view(np.uint32), expected[usual].astype(np.float32).view(np.uint32)
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_size_of_a_block(name):
    gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
    kind = kind_of(name)
    sizes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    assert (kind.numbers, kind.nbytes, kind.name) == (*sizes, name)


def test_a_block_by_hand():
    # d = 0.5; the bytes 0x80 give q = 0 for the first half, 8 for the rest.
    raw = np.concatenate([np.array([0.5], "<f2").view(np.uint8), np.full(16, 0x80, np.uint8)])
    w = ggml.Q4_0.decode(raw[None])
    assert w.tolist() == [[-4.0] * 16 + [0.0] * 16]
    # d = 2, scale 3 of the first group, q = 33 - 32: the nibble 1 and the high bits 2.
    raw = np.zeros(210, np.uint8)
    raw[0], raw[128], raw[192] = 1, 2, 3
    raw[208:] = np.array([2], "<f2").view(np.uint8)
    w = ggml_k.Q6_K.decode(raw[None])
    assert (w[0, 0], w[0, 1], w[0, 16]) == (6.0, -192.0, 0.0)
