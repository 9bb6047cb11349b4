"""Four int4 rows by one token, with the instruction of AVX-512 VNNI that multiplies bytes.

An activation, at most 127 * 256, is two bytes with sign, x = 256 h + l:

    sum_j q_j x_j = 256 sum_j q_j h_j + sum_j q_j l_j

So a weight need not become an int16: vpdpbusd adds up four products of q, a byte without sign, and
of l or h in each of 16 sums. They are the integers that ``nibbles`` has on other processors.
"""

from __future__ import annotations

from llvmlite import ir

from ..native.llvm import I8, I16, I32, Builder, Value, call, constant, joined, load, vector_of
from .common import i8, i32, i64, kernel
from .simd import i8_at, i16_at
from .types import Address, Int

TWO = 128
"""Columns of a span that two groups of 64 columns have: 64 bytes of halves."""

_BYTES, _SHORTS, _SUMS = vector_of(I8, 64), vector_of(I16, 32), vector_of(I32, 16)


@kernel
def split_bytes(x: Address, cols: Int, out: Address) -> None:
    """Write l and h of int16 activations: for each 128, two vectors of l, then two of h.

    The first of two is of the columns in the low halves of 64 bytes of a row, the second of those
    in the high ones. What is left of the columns has no place.
    """
    for start in range(0, i32(cols & i32(-TWO)), 32):
        part = i32(start >> 5 & 3)  # low and high halves of 32 bytes, then of 32 more
        place = out + 2 * i64(start & i32(-TWO)) + 64 * i64(part & 1) + 32 * i64(part >> 1)
        q, low, high = i16_at(x + 2 * i64(start)), i8_at(place), i8_at(place + TWO)
        for j in range(32):
            h = i32(i32(q[j]) + i32(128)) >> 8
            low[j], high[j] = i8(i32(q[j]) - (h << 8)), i8(h)


def totals(builder: Builder, rows: list[Value], x: Value) -> Value:
    """Return sum_j q_j x_j of a span of four groups: of group g of row i in lane 4 g + i.

    x is an address that `split_bytes` wrote to.
    """
    xs = [[load(builder, x, I32(start + 64 * i), I8, 64) for i in range(4)] for start in (0, 256)]
    a, b, c, d = (_sums_of_row(builder, row, xs) for row in rows)
    ab, cd = _sums_of_two(builder, a, b), _sums_of_two(builder, c, d)
    # Groups 0 and 1 of a lie before those of b, then 2 and 3 of both, and all of it again.
    lanes = [row + place for place in (0, 1, 4, 5) for row in (0, 2, 16, 18)]
    again = [lane + 8 for lane in lanes]
    return builder.add(joined(builder, ab, cd, lanes), joined(builder, ab, cd, again))


def _sums_of_row(builder: Builder, row: Value, xs: list[list[Value]]) -> list[Value]:
    """Return the sums of q l and of q h: group g has lanes 2 g, 2 g + 1 and those 8 lanes on."""
    fifteen = constant(_BYTES, 15)
    sums = [ir.Constant(_SUMS, None)] * 2
    for i, x in enumerate(xs):
        both = load(builder, row, I32(64 * i), I8, 64)
        moved = builder.lshr(builder.bitcast(both, _SHORTS), constant(_SHORTS, 4))
        low = builder.and_(both, fifteen)
        high = builder.and_(builder.bitcast(moved, _BYTES), fifteen)
        for k in range(2):
            for q, bytes_of_x in ((low, x[2 * k]), (high, x[2 * k + 1])):
                fours = [builder.bitcast(v, _SUMS) for v in (q, bytes_of_x)]
                sums[k] = call(builder, "llvm.x86.avx512.vpdpbusd.512", _SUMS, sums[k], *fours)
    return sums


def _sums_of_two(builder: Builder, a: list[Value], b: list[Value]) -> Value:
    """Return sum q l + 256 sum q h of two rows; neighbours are added up.

    A sum of 16 products, at most 16 * 15 * 128, is an int16.
    """
    total = ir.Constant(_SUMS, None)
    for first, second, factor in zip(a, b, (1, 256), strict=True):
        both = call(builder, "llvm.x86.avx512.packssdw.512", _SHORTS, first, second)
        pairs = [builder.bitcast(v, _SUMS) for v in (both, constant(_SHORTS, factor))]
        total = call(builder, "llvm.x86.avx512.vpdpwssd.512", _SUMS, total, *pairs)
    return total
