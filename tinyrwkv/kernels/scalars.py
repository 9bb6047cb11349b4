"""Functions of one number."""

from __future__ import annotations

from typing import Any

from .common import f32, i32, kernel
from .simd import bits_from_float, float_from_bits


@kernel
def exp(x: Any) -> Any:
    """e^x to 2 units in the last place; saturates at 1e-38 and 3e38, and leaves NaN as it is.

    e^x = 2^n e^r with n = round(x / ln 2), |r| <= ln 2 / 2, and a polynomial for e^r.
    """
    x = f32(-87.0) if x < f32(-87.0) else f32(88.0) if x > f32(88.0) else x
    # Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the sum, of which those above 9 are shifted out.
    rounded = x * f32(1.4426950408889634) + f32(12582912.0)
    n, t = bits_from_float(rounded), rounded - f32(12582912.0)
    r = (x - t * f32(0.693359375)) + t * f32(2.1219444e-4)
    y = f32(1.9875691500e-4)
    y = y * r + f32(1.3981999507e-3)
    y = y * r + f32(8.3334519073e-3)
    y = y * r + f32(4.1665795894e-2)
    y = y * r + f32(1.6666665459e-1)
    y = y * r + f32(5.0000001201e-1)
    y = y * r * r + r + f32(1)
    return y * float_from_bits(i32((n + i32(127)) << i32(23)))


@kernel
def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x)."""
    return f32(1) / (f32(1) + exp(-x))
