"""Kernels of matrices in int4: products, rows of an embedding, and sums of activations.

``file/int4.py`` describes the rows, and ``nibbles`` multiplies them.
"""

from __future__ import annotations

from . import nibbles, simd
from .common import f32, i32, i64, kernel
from .simd import f32_at, half, i32_at, u8_at, u16_at
from .tiles import DOTS_BYTES
from .types import Address, Inputs, Int, Ints, Offset


@kernel
def row_bytes(cols: Int) -> Offset:
    """Return the bytes of a row."""
    return (i64(cols >> 6) * 69 + 1) >> 1


@kernel
def one_of_each(w: Address, apart: Offset, inputs: Inputs, out: Address, out_apart: Offset) -> None:
    """Multiply a row of each of four parts with all tokens: four or two at once if they can be."""
    x_bytes, groups = inputs.x_bytes, i32(inputs.cols >> 6)
    t, left, sums_bytes = i32(0), inputs.tokens, i64(groups) * 4
    split = inputs.split
    while left > i32(0):
        xs, s = inputs.x + i64(t) * x_bytes, inputs.sums + i64(t) * sums_bytes
        ys = out + i64(t) * DOTS_BYTES
        if simd.WIDE and left >= i32(4):
            nibbles.dots_i4_tile(w, apart, xs, x_bytes, 0, s, sums_bytes, groups, ys, out_apart)
            t, left = i32(t + 4), i32(left - 4)
        elif simd.WIDE and left >= i32(2):
            two = nibbles.dots_i4_tile_of_two
            two(w, apart, xs, x_bytes, split, s, sums_bytes, groups, ys, out_apart)
            t, left = i32(t + 2), i32(left - 2)
        else:
            nibbles.dots_i4_rows(w, apart, xs, 0, split, s, 0, groups, ys, out_apart)
            t, left = i32(t + 1), i32(left - 1)


@kernel
def one_row(w: Address, inputs: Inputs, out: Address) -> None:
    """Multiply a row with four tokens at once, then with each token that is left."""
    x_bytes, groups = inputs.x_bytes, i32(inputs.cols >> 6)
    whole = i32(inputs.tokens & i32(-4))
    apart = i64(groups) * 4
    for t in range(0, whole, 4):
        xs, s = inputs.x + i64(t) * x_bytes, inputs.sums + i64(t) * apart
        ys = out + i64(t) * DOTS_BYTES
        nibbles.dots_i4_tokens(w, 0, xs, x_bytes, 0, s, apart, groups, ys, DOTS_BYTES)
    for t in range(whole, inputs.tokens):
        xs, s = inputs.x + i64(t) * x_bytes, inputs.sums + i64(t) * apart
        nibbles.dots_i4(w, 0, xs, 0, 0, s, 0, groups, out + i64(t) * DOTS_BYTES, 0)


@kernel
def weighted_rows_int4(
    rows: Ints, scales: Address, first: Int, last: Int, place: Offset, out: Address
) -> None:
    """out += sum_i q_i w_i for 64 columns of int4 rows, float32; they begin at a byte of each row.

    Rows `first` to last - 1 of a list of addresses are added one after the other. `scale_rows` has
    written their scales.
    """
    low, high = nibbles.load_columns(out), nibbles.load_columns(out + 4 * nibbles.PIECE)
    for i in range(first, last):
        factors = nibbles.load_four(scales + 32 * i64(i - first))
        zeros = nibbles.load_four(scales + 32 * i64(i - first) + 16)
        low = nibbles.add_low(low, rows[i] + place, factors, zeros)
        high = nibbles.add_high(high, rows[i] + place, factors, zeros)
    nibbles.store_columns(out, low)
    nibbles.store_columns(out + 4 * nibbles.PIECE, high)


@kernel
def scale_rows(
    rows: Ints, q: Ints, first: Int, last: Int, begin: Int, groups: Int, out: Address
) -> None:
    """Write of each row four scales s_g q and four zero points z_g, float32, for a span of groups.

    These are the groups of 32 columns that follow each other. Those of a smaller span come again.
    """
    count, span = groups_of_span(begin, groups), row_bytes(i32(begin << 6))
    for i in range(first, last):
        place, at = rows[i] + span + nibbles.PIECE * count, out + 32 * i64(i - first)
        if count == 4:
            nibbles.store_four(at, nibbles.four_scales(place, f32(q[i])))
            nibbles.store_four(at + 16, nibbles.four_zeros(place + 8))
        else:
            four = f32_at(at)
            for g in range(count):
                zeros = i32(u8_at(place + 2 * count)[g >> 1])
                four[g], four[g + 4] = half(u16_at(place)[g]) * f32(q[i]), f32(half_byte(zeros, g))
            for g in range(count, 4):
                four[g], four[g + 4] = four[g - count], four[g + 4 - count]


@kernel
def span_of(piece: Int, groups: Int) -> Int:
    """Return the first group of the span that has a piece of 64 columns."""
    if piece < i32(groups & i32(-4)):
        return i32(piece & i32(-4))
    if piece < i32(groups & i32(-2)):
        return i32(piece & i32(-2))
    return piece


@kernel
def group_sums(x: Address, cols: Int, sums: Address) -> None:
    """Add up the int16 activations of each group of columns."""
    total, groups = i32_at(sums), i32(cols >> 6)
    begin = i32(0)
    while begin < groups:
        count = groups_of_span(begin, groups)
        for g in range(count):
            first = x + 2 * i64(64 * begin + 8 * g)
            total[begin + g] = nibbles.sum_of_group(first, 16 * i64(count))
        begin = i32(begin + count)


@kernel
def weights_of_row(row: Address, cols: Int, first: Int, last: Int, out: Address) -> None:
    """out_j = s (q_j - z) for columns `first` to last - 1 of a row, float32."""
    y, groups = f32_at(out), i32(cols >> 6)
    for j in range(first, last):
        piece = i32(j >> 6)
        begin = span_of(piece, groups)
        count = groups_of_span(begin, groups)
        g = i32(begin + (j >> 3 & (count - i32(1))))
        place = row + row_bytes(i32(begin << 6))
        both = i32(u8_at(place)[i32(piece - begin) * 32 + (j & 31)])
        scale = half(u16_at(place + 32 * count)[i32(g - begin)])
        zeros = u8_at(place + 34 * count)
        level = half_byte(both, i32(j >> 5))
        zero = half_byte(i32(zeros[i32(g - begin) >> 1]), g)
        y[j] = f32(i32(level - zero)) * scale


@kernel
def groups_of_span(begin: Int, groups: Int) -> Int:
    """Return how many groups the span has that begins with a group."""
    left = i32(groups - begin)
    return i32(4) if left >= i32(4) else i32(2) if left >= i32(2) else i32(1)


@kernel
def half_byte(both: Int, i: Int) -> Int:
    """Return the low half of a byte if i is even, the high one if it is odd."""
    return i32(both >> i32((i & 1) << 2) & 15)
