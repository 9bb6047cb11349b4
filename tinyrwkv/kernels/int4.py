"""Kernels of matrices in int4: products, rows of an embedding, and sums of activations.

``file/int4.py`` describes the rows, ``nibbles`` multiplies them, and ``nibble_rows`` adds them up.
"""

from __future__ import annotations

from . import nibble_rows, nibbles, simd
from .common import f32, i32, i64, kernel
from .simd import f32_at, half, i32_at, i64_at, u8_at, u16_at
from .types import Address, Inputs, Int, Ints, Offset


@kernel
def row_bytes(cols: Int) -> Offset:
    """Return the bytes of a row."""
    return (i64(cols >> 6) * 69 + 1) >> 1


@kernel
def rows_of_each(
    w: Address, apart: Offset, rows: Int, inputs: Inputs, out: Address, out_apart: Offset
) -> None:
    """Multiply rows of each of four parts with one token, or one row with several tokens.

    Four or two tokens are multiplied at once if they can be.
    """
    x_bytes, y_bytes, split = inputs.x_bytes, inputs.y_bytes, inputs.split
    t, left, groups = i32(0), inputs.tokens, i32(inputs.cols >> 6)
    sums_bytes = i64(groups) * 4
    while left > i32(0):
        xs, s = inputs.x + i64(t) * x_bytes, inputs.sums + i64(t) * sums_bytes
        ys = out + i64(t) * y_bytes
        if simd.WIDE and left >= i32(4):
            four = nibbles.dots_i4_tile
            four(w, apart, xs, x_bytes, 0, s, sums_bytes, groups, ys, out_apart, y_bytes)
            t, left = i32(t + 4), i32(left - 4)
        elif simd.WIDE and left >= i32(2):
            two = nibbles.dots_i4_tile_of_two
            two(w, apart, xs, x_bytes, split, s, sums_bytes, groups, ys, out_apart, y_bytes)
            t, left = i32(t + 2), i32(left - 2)
        else:
            w_bytes = row_bytes(inputs.cols)
            nibbles.rows_i4(w, w_bytes, rows, apart, xs, split, s, groups, ys, out_apart)
            t, left = i32(t + 1), i32(left - 1)


@kernel
def one_row(w: Address, inputs: Inputs, out: Address) -> None:
    """Multiply a row with four tokens at once; of fewer than four, with the same one four times."""
    x_bytes, y_bytes, groups = inputs.x_bytes, inputs.y_bytes, i32(inputs.cols >> 6)
    sums_bytes, apart = i64(groups) * 4, i64(inputs.tokens >= i32(4))
    t = i32(0)
    while t < inputs.tokens:
        first = i64(min(t, inputs.tokens - 4) if apart else t)  # the last four may come again
        x, sums = inputs.x + first * x_bytes, inputs.sums + first * sums_bytes
        steps = apart * x_bytes, apart * sums_bytes, apart * y_bytes
        y = out + first * y_bytes
        nibbles.dots_i4_tokens(w, 0, x, steps[0], 0, sums, steps[1], groups, y, 0, steps[2])
        t = i32(t + (4 if apart else 1))


@kernel
def one_of_four(at: Address, i: Int, n: Int, w: Address, out: Address, inputs: Inputs) -> None:
    """Multiply the last four of n rows that lie apart with one token, where row i completes them.

    `at` has room for their addresses, and for those of their products.
    """
    places, groups = i64_at(at), i32(inputs.cols >> 6)
    for j in range(i & 3, 4):  # the last row stands for those that are missing
        places[j], places[j + 4] = w, out
    if (i & 3) == 3 or i + 1 == n:
        x, split, sums = inputs.x, inputs.split, inputs.sums
        nibbles.dots_i4_listed(at, 8, x, 0, split, sums, 0, groups, at + 32, 8, 0)


@kernel
def weighted_rows_int4(
    rows: Ints, scales: Address, first: Int, last: Int, place: Offset, out: Address
) -> None:
    """out += sum_i q_i w_i for 64 columns of int4 rows, float32; they begin at a byte of each row.

    Rows `first` to last - 1 of a list of addresses are added one after the other. `scale_rows` has
    written their scales.
    """
    low, high = nibble_rows.load_columns(out), nibble_rows.load_columns(out + 4 * nibble_rows.PIECE)
    for i in range(first, last):
        factors = nibble_rows.load_four(scales + 32 * i64(i - first))
        zeros = nibble_rows.load_four(scales + 32 * i64(i - first) + 16)
        low = nibble_rows.add_low(low, rows[i] + place, factors, zeros)
        high = nibble_rows.add_high(high, rows[i] + place, factors, zeros)
    nibble_rows.store_columns(out, low)
    nibble_rows.store_columns(out + 4 * nibble_rows.PIECE, high)


@kernel
def scale_rows(
    rows: Ints, q: Ints, first: Int, last: Int, begin: Int, groups: Int, out: Address
) -> None:
    """Write of each row four s_g q and four LEVELS + z_g, float32, for a span of groups.

    These are the groups of 32 columns that follow each other. Those of a smaller span come again.
    """
    count, span = groups_of_span(begin, groups), row_bytes(i32(begin << 6))
    for i in range(first, last):
        place, at = rows[i] + span + nibble_rows.PIECE * count, out + 32 * i64(i - first)
        if count == 4:
            nibble_rows.store_four(at, nibble_rows.four_factors(place, f32(q[i])))
            nibble_rows.store_four(at + 16, nibble_rows.four_zeros(place + 8))
        else:
            four = f32_at(at)
            for g in range(count):
                zeros = i32(u8_at(place + 2 * count)[g >> 1])
                zero = f32(nibble_rows.LEVELS) + f32(half_byte(zeros, g))
                four[g], four[g + 4] = half(u16_at(place)[g]) * f32(q[i]), zero
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
