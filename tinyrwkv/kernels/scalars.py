"""Functions of one number."""

from __future__ import annotations

from .common import f32, i32, kernel
from .simd import bits_from_float, float_from_bits
from .types import Float

TO_NEAREST = 12582912.0
"""1.5 * 2^23: in the sum with a small float32, the lowest bits are the nearest integer."""


@kernel
def exp(x: Float) -> Float:
    """Return e^x to 2 units in the last place.

    The result saturates at 1e-38 and 3e38. NaN stays NaN.
    """
    # e^x = 2^n e^r with n = round(x / ln 2) and |r| <= ln 2 / 2
    x = f32(-87.0) if x < f32(-87.0) else f32(88.0) if x > f32(88.0) else x
    shifted = x * f32(1.4426950408889634) + f32(TO_NEAREST)
    bits = bits_from_float(shifted)  # n in the low ones
    n = shifted - f32(TO_NEAREST)
    # ln 2 in two parts, so that n times the first is exact.
    r = (x - n * f32(0.693359375)) + n * f32(2.1219444e-4)
    # e^r = 1 + r + r^2 p(r), with Horner's rule for the polynomial p
    p = f32(1.9875691500e-4)
    p = p * r + f32(1.3981999507e-3)
    p = p * r + f32(8.3334519073e-3)
    p = p * r + f32(4.1665795894e-2)
    p = p * r + f32(1.6666665459e-1)
    p = p * r + f32(5.0000001201e-1)
    power = p * r * r + r + f32(1)
    # The shift leaves the low 9 bits: the exponent of a float32.
    return power * float_from_bits(i32((bits + i32(127)) << i32(23)))


@kernel
def sigmoid(x: Float) -> Float:
    """Return 1 / (1 + e^-x)."""
    return f32(1) / (f32(1) + exp(-x))
