"""Dot products of int4 rows: intrinsics of LLVM code for no machine in particular.

``file/int4.py`` describes the rows. A vector of 32 columns holds 8 columns of each of four groups,
so sums of pairs of products stay in their group: lanes 4 g to 4 g + 3 of 16. They are whole numbers
and need no order. Floats are added only between spans, lane by lane, and then by one tree:

    y = (y_0 + y_2) + (y_1 + y_3),  y_g = sum over spans of s_g (sum_j q_j x_j - z_g sum_j x_j)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types

from ..file import int4
from ..native.llvm import (
    F32,
    I8,
    I16,
    I32,
    I64,
    Builder,
    Value,
    apart,
    call,
    constant,
    emitter,
    joined,
    load_at,
    loop,
    opaque,
    take,
    vector_of,
)
from . import byte_products, int4_span
from .common import LINE
from .int4_span import FOUR, all_four
from .simd import BYTES, PAIRS, WIDE, add_pairs, fetch, in_own_function

_i32, _i64 = types.int32, types.int64

FAR = 1280
"""Bytes to read ahead in each stream of rows: long rows are half as fast without."""

PIECE = 32
"""Columns of a vector. Half a byte each, twice as many take as many bytes."""

_BYTES, _SHORTS, _WIDE = (vector_of(kind, PIECE) for kind in (I8, I16, I32))
_SUMS, _FLOATS = (vector_of(kind, FOUR * FOUR) for kind in (I32, F32))


def _address(builder: Builder, base: Value, index: Value, step: int, offset: int = 0) -> Value:
    bytes_before = builder.mul(builder.sext(index, I64), I64(step))
    return builder.add(base, builder.add(bytes_before, I64(offset)))


def _weights(builder: Builder, address: Value) -> list[Value]:
    """Return q of 64 columns, int16: those of the low halves of 32 bytes, and of the high ones."""
    wide = builder.zext(load_at(builder, address, _BYTES), _SHORTS)
    low = builder.and_(wide, constant(_SHORTS, 15))
    high = builder.lshr(wide, constant(_SHORTS, 4))
    return [low, high]


def _multiply_add(builder: Builder, total: Value, q: Value, x: Value) -> Value:
    """Add products of 32 columns to 16 sums; each sum gets two that lie in its group."""
    product = builder.mul(builder.sext(q, _WIDE), builder.sext(x, _WIDE))
    if PAIRS:
        return add_pairs(builder, total, product)
    parts = []
    for i in range(4):  # of other sums than these the machine might make more
        before = take(builder, total, range(4 * i, 4 * i + 4))
        products = take(builder, product, range(8 * i, 8 * i + 8))
        parts.append(add_pairs(builder, before, products))
    return all_four(builder, parts)


def _totals(builder: Builder, ws: list[Value], xs: list[Value], groups: int) -> list[Value]:
    """Return the sums of a span for every pair of a row and a token: lanes 4 g to 4 g + 3."""
    count = len(ws) * len(xs)
    # Where registers are left, the two halves of the bytes have sums of their own: with one sum for
    # both, LLVM adds up their products by more instructions.
    chains = 2 if WIDE and count <= FOUR else 1

    def add(piece: Value, totals: list[Value]) -> list[Value]:
        weights = [_weights(builder, _address(builder, w, piece, PIECE)) for w in ws]
        sums = list(totals)
        for half in range(2):
            places = [_address(builder, x, piece, 4 * PIECE, 2 * PIECE * half) for x in xs]
            inputs = [load_at(builder, place, _SHORTS, 2) for place in places]
            pairs = [(q[half], x) for q in weights for x in inputs]
            for i, (q, x) in enumerate(pairs, count * (half % chains)):
                sums[i] = _multiply_add(builder, sums[i], q, x)
        return sums

    zeros = ir.Constant(_SUMS, None)
    totals = loop(builder, (I32(0), I32(groups)), 1, [zeros] * (count * chains), add)
    if chains == 2:
        halves = zip(totals[:count], totals[count:], strict=True)
        totals = [builder.add(low, high) for low, high in halves]
    for width in (8, 4)[: (4 // groups) // 2]:
        # Fewer than four groups come again in the upper lanes.
        folded = [
            builder.add(total, joined(builder, total, zeros, range(width, width + 16)))
            for total in totals
        ]
        lanes = [*range(width), *range(16, 32 - width)]
        totals = [joined(builder, total, zeros, lanes) for total in folded]
    return totals


def _side_by_side(builder: Builder, totals: list[Value]) -> Value:
    """Add up the lanes of each group of four vectors, as sums 4 g + i."""
    while len(totals) > 1:
        totals = [_pairs(builder, *totals[i : i + 2]) for i in range(0, len(totals), 2)]
    return totals[0]


def _pairs(builder: Builder, a: Value, b: Value) -> Value:
    """Add neighbours in the four lanes of each group: two sums of a, then two of b."""
    even = [first + 4 * g + i for g in range(4) for first in (0, 16) for i in (0, 2)]
    odd = [lane + 1 for lane in even]
    return builder.add(joined(builder, a, b, even), joined(builder, a, b, odd))


class _Places(NamedTuple):
    """Where a span begins: its rows of int4; x, the sums of x and its bytes, of each token."""

    rows: list[Value]
    x: list[Value]
    sums: list[Value]
    split: list[Value]

    def after(self, builder: Builder, spans: Value, groups: int) -> _Places:
        """Return where the next span begins after some spans of so many groups."""

        def moved(addresses: list[Value], step: int) -> list[Value]:
            return [_address(builder, address, spans, step) for address in addresses]

        rows = moved(self.rows, int4.row_bytes(int4.GROUP * groups))
        x_bytes = 2 * int4.GROUP * groups
        x, split = moved(self.x, x_bytes), moved(self.split, x_bytes)
        return _Places(rows, x, moved(self.sums, 4 * groups), split)


def _terms(builder: Builder, here: _Places, groups: int, by_bytes: bool) -> list[Value]:
    """Return s_g (sum_j q_j x_j - z_g sum_j x_j) for the groups of a span, side by side.

    There is a vector for all rows with each token; of one row, a vector for all tokens. `by_bytes`
    tells whether they are products of the bytes of x.
    """
    scales = [builder.add(row, I64(PIECE * groups)) for row in here.rows]
    zeros = [builder.add(row, I64((PIECE + 2) * groups)) for row in here.rows]
    vectors = [here.sums] if len(here.rows) == 1 else [[sums] for sums in here.sums]
    if by_bytes:
        totals = [byte_products.totals(builder, here.rows, split) for split in here.split]
    else:
        single = _totals(builder, here.rows, here.x, groups)
        totals = [_side_by_side(builder, single[i :: len(vectors)]) for i in range(len(vectors))]
    points, factors = (
        int4_span.zero_points(builder, zeros, groups),
        int4_span.scales(builder, scales, groups),
    )
    terms = []
    for sums, dots in zip(vectors, totals, strict=True):
        offset = builder.mul(points, int4_span.sums(builder, sums, groups))
        total = builder.sub(dots, offset)
        floats = builder.sitofp(total, _FLOATS)
        terms.append(builder.fmul(floats, factors))
    return terms


def _fetch_ahead(builder: Builder, rows: list[Value]) -> None:
    """Begin to read what comes after a span of each row, some lines at a time."""
    for row in rows:
        for line in range(0, PIECE * FOUR, LINE):
            fetch(builder, builder.add(row, I64(FAR + line)))


def _dots(rows: int, tokens: int, listed: bool = False) -> Any:
    """Make the intrinsic that multiplies `rows` int4 rows with `tokens` vectors.

    ``dots(w, w_stride, x, x_stride, split, sums, sums_stride, groups, out, out_stride, y_bytes)``:
    addresses and strides in bytes; sums are those of the activations x of each group, int32. The
    results are float32. They lie `out_stride` bytes from row to row and `y_bytes` from token to
    token. There is one row with four tokens, or there are four rows.

    The bytes of x, as ``byte_products`` has them, begin `split` bytes after x; 0 if there are none.
    Four tokens do without: more would be loaded for them than widening the weights once costs.

    With `listed`, w and out are the places of two lists of addresses instead: of the rows, and of
    their results.
    """

    def emit(builder: Builder, *given: Value) -> None:
        w, w_stride, x, x_stride, split, sums, sums_stride, groups, out, out_stride, y_bytes = given
        ws, ys = apart(builder, w, w_stride, rows), apart(builder, out, out_stride, rows)
        if listed:  # the strides are those of the lists
            ws, ys = ([load_at(builder, at, I64, 8) for at in places] for places in (ws, ys))
        xs = apart(builder, x, x_stride, tokens)
        bytes_of_x = [builder.add(x, split) for x in xs]
        place = _Places(ws, xs, apart(builder, sums, sums_stride, tokens), bytes_of_x)
        by_row = [apart(builder, y, y_bytes, tokens) for y in ys]
        places = by_row if rows == 1 else zip(*by_row, strict=True)
        products = _products(builder, place, split, groups, not listed)
        for y, at in zip(products, places, strict=True):
            _store_sums(builder, y, at)

    return emitter(types.void, (*[_i64] * 7, _i32, *[_i64] * 3), emit)


def _products(
    builder: Builder, place: _Places, split: Value, groups: Value, fetches: bool
) -> list[Value]:
    """Add up the terms of all spans.

    There is a vector for all rows with each token; of one row, a vector for all tokens.
    """
    vectors = 1 if len(place.rows) == 1 else len(place.x)
    knows_bytes = BYTES > 0 and len(place.rows) == FOUR and vectors <= 2

    def add_span(first: _Places, span: int, by_bytes: bool) -> Any:
        def add(i: Value, carried: list[Value]) -> list[Value]:
            here = first.after(builder, i, span)
            if span == FOUR and fetches:
                _fetch_ahead(builder, here.rows)
            terms = _terms(builder, here, span, by_bytes)
            return [builder.fadd(y, term) for y, term in zip(carried, terms, strict=True)]

        return add

    y = [ir.Constant(_FLOATS, None)] * vectors
    left = groups
    for span, by_bytes in [(4, True)] * knows_bytes + [(4, False), (2, False), (1, False)]:
        number = builder.lshr(left, I32(span // 2))
        if by_bytes:
            has_bytes = builder.icmp_signed("!=", split, I64(0))
            number = builder.select(has_bytes, number, I32(0))
        y = loop(builder, (I32(0), number), 1, y, add_span(place, span, by_bytes))
        place = place.after(builder, number, span)
        left = builder.sub(left, builder.mul(number, I32(span)))
    return y


def _store_sums(builder: Builder, y: Value, places: Sequence[Value]) -> None:
    """Store (y_0 + y_2) + (y_1 + y_3) of each of those that lie side by side."""
    while y.type.count > len(places):
        middle = y.type.count // 2
        low = take(builder, y, range(middle))
        y = builder.fadd(low, take(builder, y, range(middle, 2 * middle)))
    for i, at in enumerate(places):
        builder.store(builder.extract_element(y, I32(i)), opaque(builder, at), align=4)


dots_i4_listed = _dots(FOUR, 1, listed=True)
dots_i4_tokens = _dots(1, FOUR)
dots_i4_tile = _dots(FOUR, FOUR)
dots_i4_tile_of_two = _dots(FOUR, 2)


def _rows(builder: Builder, *given: Value) -> None:
    """Multiply rows of each of four parts with one token, a row of each part at once."""
    w, w_bytes, rows, between, x, split, sums, groups, out, out_apart = given

    def multiply(row: Value, carried: list[Value]) -> list[Value]:
        first = builder.add(w, builder.mul(builder.sext(row, I64), w_bytes))
        ws = apart(builder, first, between, FOUR)
        place = _Places(ws, [x], [sums], [builder.add(x, split)])
        (y,) = _products(builder, place, split, groups, True)
        _store_sums(builder, y, apart(builder, _address(builder, out, row, 4), out_apart, FOUR))
        return []

    loop(builder, (I32(0), rows), 1, [], multiply)


_ROWS = (_i64, _i64, _i32, _i64, _i64, _i64, _i64, _i32, _i64, _i64)
rows_i4 = emitter(types.void, _ROWS, in_own_function("tinyrwkv_rows_i4", _rows))
"""``rows_i4(w, w_bytes, rows, apart, x, split, sums, groups, out, out_apart)``.

The first part has `rows` rows that follow each other from w on, and those of the next part begin
`apart` bytes later. Their results are float32 that follow each other, and those of the parts lie
`out_apart` bytes apart. The others are as `_dots` has them.
"""


def _sum_of_group(builder: Builder, x: Value, step: Value) -> Value:
    """Return the sum of 8 runs of 8 int16, which begin so many bytes after each other."""
    total = ir.Constant(vector_of(I32, 8), None)
    for _ in range(8):
        run = load_at(builder, x, vector_of(I16, 8), 2)
        total = builder.add(total, builder.sext(run, total.type))
        x = builder.add(x, step)
    return call(builder, "llvm.vector.reduce.add.v8i32", I32, total)


sum_of_group = emitter(types.int32, (types.int64, types.int64), _sum_of_group)
"""``sum_of_group(x, step)``: the sum of 8 runs of 8 int16, `step` bytes from one to the next."""
