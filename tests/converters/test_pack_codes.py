"""Packed codes: nothing is lost."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from converters.techniques.pack_codes import pack_codes
from tinyrwkv.versions import reference


@given(st.sampled_from((1, 2, 4)), st.integers(1, 140), st.integers(1, 6), st.integers(0, 99))
def test_every_code_is_kept(bits: int, rows: int, size: int, seed: int) -> None:
    codes = (
        np.random.default_rng(seed).integers(0, 2**bits, (rows, size * 8 // bits)).astype(np.uint8)
    )
    packed = pack_codes(codes, bits)
    assert packed.shape == (-(-rows // 64), size, 64) and packed.dtype == np.uint8
    unpacked = reference.unpack(packed, bits)
    assert np.array_equal(unpacked[:rows], codes) and not unpacked[rows:].any()
