"""Bytes of activations, for instructions that add up products of bytes.

An activation, at most 127 * 256, is two bytes with sign, x = 256 h + l:

    sum_j q_j x_j = 256 sum_j q_j h_j + sum_j q_j l_j

So a weight of int4 need not become an int16. The sums are the integers that ``nibbles`` has without
such an instruction. ``native/products.py`` has the code of each.
"""

from __future__ import annotations

from ..file import int4
from ..native.llvm import I32, Builder, Value, call, vector_of
from . import simd
from .abi import MAX_TOKENS
from .common import i8, i32, i64, kernel
from .simd import i8_at, i16_at
from .types import Address, Int, Offset

NAME = "tinyrwkv_byte_totals"


@kernel
def split_offset(cols: Int, tokens: Int) -> Offset:
    """Return where the bytes of a token begin after its int16, 0 if there are none.

    They lie in the places of tokens that a call does not have.
    """
    if simd.BYTES == 0 or tokens > i32(MAX_TOKENS // 2):
        return i64(0)
    return 2 * i64(cols) * tokens


@kernel
def split_bytes(x: Address, cols: Int, out: Address) -> None:
    """Write the bytes of the int16 activations of all spans of four groups.

    For each BYTES bytes of a row there are four times as many: l of the columns in the low halves,
    l of those in the high halves, then h of both.
    """
    size = simd.BYTES
    whole = i32(cols & i32(-int4.SPAN))
    for start in range(0, whole, 16):
        first = i32((start >> 6 << 5) + (start & 16))  # of 16 bytes of the row
        within = i32(first & i32(size - 1))
        is_high = i32(start >> 5 & 1)
        place = out + i64(4 * (first - within) + size * is_high + within)
        q = i16_at(x + 2 * i64(start))
        low = i8_at(place)
        high = i8_at(place + 2 * size)
        for j in range(16):
            low[j] = i8(q[j])  # what 256 h leaves is what the low byte means with a sign
            high[j] = i8((i32(q[j]) + i32(128)) >> 8)


def totals(builder: Builder, rows: list[Value], x: Value) -> Value:
    """Return sum_j q_j x_j of a span of four groups, in the lanes of ``int4_span``.

    There are four rows. x is an address that `split_bytes` wrote to. This calls a function that
    ``tinyrwkv-build-kernels`` makes of the instruction of a target.
    """
    return call(builder, NAME, vector_of(I32, 16), *rows, x)
