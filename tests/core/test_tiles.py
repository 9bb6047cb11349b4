"""Tiles of products: every shape that a machine may have gives exact sums, in their places."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tinyrwkv.program.builder import qmax

TOKENS = {"first_four": 4, "four_tokens": 4, "two_tokens": 2}

# Two products to a sum as on x86, or LLVM's reduction; 32 vector registers of 64 bytes, or fewer.
FORMS = {"avx512": (True, True), "avx2": (True, False), "arm": (False, False)}

ROWS = {form: dict.fromkeys(TOKENS, 4) for form in FORMS}
ROWS["arm"] = dict.fromkeys(TOKENS, 2)

CASES = list(itertools.product(FORMS, TOKENS))


@pytest.fixture(scope="module")
def tiles():
    """Return every tile in every form, compiled for this machine."""
    numba = pytest.importorskip("numba", reason="numba is not installed")
    from tinyrwkv.kernels import simd, tiles

    def compiled(name):
        intrinsic = getattr(tiles, name)

        @numba.njit("void(int64, int64, int64, int64, int32, int64, int64, int64)")
        def call(w, w_stride, x, x_stride, n, out, out_stride, y_bytes):
            intrinsic(w, w_stride, x, x_stride, n, out, out_stride, y_bytes)

        return call

    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for form, name in CASES:
            pairs, wide = FORMS[form]
            patch.setattr(simd, "PAIRS", pairs)
            patch.setattr(simd, "WIDE", wide)
            found[form, name] = compiled(name)
    return found


def products(tile, w: np.ndarray, x: np.ndarray, pad: int = 0) -> np.ndarray:
    """Return ``w @ x.T`` (rows, tokens) by a tile; rows lie `pad` elements apart."""
    (rows, n), tokens = w.shape, len(x)
    wide_w, wide_x = (np.full((len(m), n + pad), 77, m.dtype) for m in (w, x))
    wide_w[:, :n], wide_x[:, :n] = w, x
    out = np.full((rows, tokens, 1 + pad), 12345, np.int32)
    places = [place for m in (wide_w, wide_x) for place in (m.ctypes.data, m.strides[0])]
    tile(*places, n, out.ctypes.data, *out.strides[:2])
    assert (out[:, :, 1:] == 12345).all(), "wrote past its place"
    return out[:, :, 0]


@pytest.mark.parametrize(("form", "name"), CASES)
def test_tiles_are_exact_with_every_tail(tiles, form, name):
    rng = np.random.default_rng(0)
    for n in range(32, 140):
        w = rng.integers(-127, 128, (ROWS[form][name], n)).astype(np.int8)
        x = rng.integers(-qmax(n), qmax(n) + 1, (TOKENS[name], n)).astype(np.int16)
        expected = w.astype(np.int64) @ x.astype(np.int64).T
        assert (products(tiles[form, name], w, x, pad=n % 5) == expected).all(), n


@pytest.mark.parametrize(("form", "name"), CASES)
@pytest.mark.parametrize("n", [32, 33, 63, 768, 2688, 65536])
def test_the_largest_sums_fit(tiles, form, name, n):
    for sign in (1, -1):
        w = np.full((ROWS[form][name], n), 127 * sign, np.int8)
        x = np.full((TOKENS[name], n), qmax(n), np.int16)
        assert (products(tiles[form, name], w, x) == 127 * sign * qmax(n) * n).all()


@given(st.data())
@settings(max_examples=60)
def test_tiles_of_any_numbers(tiles, data):
    form, name = data.draw(st.sampled_from(CASES))
    n = data.draw(st.integers(32, 100))
    # -128 too, which a hostile file may hold; at worst a sum wraps around.
    w = data.draw(arrays(np.int8, (ROWS[form][name], n)))
    x = data.draw(arrays(np.int16, (TOKENS[name], n)))
    exact = w.astype(np.int64) @ x.astype(np.int64).T
    assert (products(tiles[form, name], w, x) == (exact + 2**31) % 2**32 - 2**31).all()
