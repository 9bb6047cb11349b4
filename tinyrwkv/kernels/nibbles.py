"""Dot products of int4 rows: intrinsics of LLVM code for no machine in particular.

``file/int4.py`` describes the rows. A vector of 32 columns holds 8 columns of each of four groups,
so sums of pairs of products stay in their group: lanes 4 g to 4 g + 3 of 16. They are whole numbers
and need no order. Floats are added only between spans, lane by lane, and then by one tree:

    y = (y_0 + y_2) + (y_1 + y_3),  y_g = sum over spans of s_g (sum_j q_j x_j - z_g sum_j x_j)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    neighbours,
    opaque,
    take,
    vector_of,
)
from . import byte_products, int4_span
from .common import LINE
from .int4_span import FOUR, LANES, all_four
from .simd import BYTES, PAIRS, WIDE, add_pairs, fetch, in_own_function

_i32, _i64 = types.int32, types.int64

FAR = 1280
"""Bytes to read ahead in each stream of rows: long rows are half as fast without."""

PIECE = 32
"""Columns of a vector. Half a byte each, twice as many take as many bytes."""

_BYTES, _SHORTS, _WIDE = (vector_of(kind, PIECE) for kind in (I8, I16, I32))
_SUMS, _FLOATS = (vector_of(kind, FOUR * FOUR) for kind in (I32, F32))


_Places = tuple[list[Value], list[Value], list[Value]]
"""Where a span begins: addresses of its rows, of each token's x, and of the sums of that."""


def _address(builder: Builder, base: Value, index: Value, step: int, offset: int = 0) -> Value:
    bytes_before = builder.mul(builder.sext(index, I64), I64(step))
    return builder.add(base, builder.add(bytes_before, I64(offset)))


def _weights(builder: Builder, address: Value) -> list[Value]:
    """Return q of 64 columns, int16: those of the low halves of 32 bytes, and of the high ones."""
    wide = builder.zext(load_at(builder, address, _BYTES), _SHORTS)
    return [builder.and_(wide, constant(_SHORTS, 15)), builder.lshr(wide, constant(_SHORTS, 4))]


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
    """Add up the lanes of each group of four vectors, and put the sums into `LANES`."""
    if WIDE:
        a, b, c, d = totals
        return neighbours(builder, neighbours(builder, a, b), neighbours(builder, c, d))
    a, b, c, d = (_halved(builder, total) for total in totals)
    return joined(builder, neighbours(builder, a, b), neighbours(builder, c, d), range(16))


def _halved(builder: Builder, total: Value) -> Value:
    """Add neighbours: what has four lanes for each group then has two."""
    even, odd = (take(builder, total, range(i, total.type.count, 2)) for i in range(2))
    return builder.add(even, odd)


def _terms(builder: Builder, places: _Places, groups: int, split: Value | None) -> list[Value]:
    """Return s_g (sum_j q_j x_j - z_g sum_j x_j) for the groups of a span, side by side.

    There is a vector for all rows with each token; of one row, a vector for all tokens. With
    `split`, they are products of the bytes of x.
    """
    rows, xs, sums = places
    vectors = [sums] if len(rows) == 1 else [[each] for each in sums]
    if split is not None:
        totals = [byte_products.totals(builder, rows, builder.add(x, split)) for x in xs]
    else:
        single = _totals(builder, rows, xs, groups)
        totals = [_side_by_side(builder, single[i :: len(vectors)]) for i in range(len(vectors))]
    points = int4_span.zero_points(builder, rows, groups)
    factors = int4_span.scales(builder, rows, groups)
    terms = []
    for tokens, dots in zip(vectors, totals, strict=True):
        offset = builder.mul(points, int4_span.sums(builder, tokens, groups))
        floats = builder.sitofp(builder.sub(dots, offset), _FLOATS)
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
        xs, sums = apart(builder, x, x_stride, tokens), apart(builder, sums, sums_stride, tokens)
        by_row = [apart(builder, y, y_bytes, tokens) for y in ys]
        places = by_row if rows == 1 else zip(*by_row, strict=True)
        products = _products(builder, (ws, xs, sums), groups, split, not listed)
        for y, at in zip(products, places, strict=True):
            _store_sums(builder, y, at)

    return emitter(types.void, (*[_i64] * 7, _i32, *[_i64] * 3), emit)


def _products(
    builder: Builder, places: _Places, groups: Value, split: Value, fetches: bool
) -> list[Value]:
    """Add up the terms of all spans.

    There is a vector for all rows with each token; of one row, a vector for all tokens.
    """
    n, tokens = len(places[0]), len(places[1])
    vectors = 1 if n == 1 else tokens
    knows_bytes = BYTES > 0 and n == FOUR and vectors <= 2

    def adder(span: int, by_bytes: bool) -> Any:
        columns = int4.GROUP * span
        steps = [int4.row_bytes(columns)] * n + [2 * columns] * tokens + [4 * span] * tokens

        def add(_: Value, carried: list[Value]) -> list[Value]:
            ys, at = carried[:vectors], carried[vectors:]
            if span == FOUR and fetches:
                _fetch_ahead(builder, at[:n])
            here = at[:n], at[n:-tokens], at[-tokens:]
            terms = _terms(builder, here, span, split if by_bytes else None)
            added = [builder.fadd(y, term) for y, term in zip(ys, terms, strict=True)]
            return [*added, *map(builder.add, at, map(I64, steps))]

        return add

    # The loops carry addresses: LLVM would multiply to find them.
    carried = [ir.Constant(_FLOATS, None)] * vectors + [at for each in places for at in each]
    left = groups
    for span, by_bytes in [(4, True)] * knows_bytes + [(4, False), (2, False), (1, False)]:
        number = builder.lshr(left, I32(span // 2))
        if by_bytes:
            has_bytes = builder.icmp_signed("!=", split, I64(0))
            number = builder.select(has_bytes, number, I32(0))
        carried = loop(builder, (I32(0), number), 1, carried, adder(span, by_bytes))
        left = builder.sub(left, builder.mul(number, I32(span)))
    return carried[:vectors]


def _store_sums(builder: Builder, y: Value, places: Sequence[Value]) -> None:
    """Store (y_0 + y_2) + (y_1 + y_3) of each of those that lie side by side."""
    lanes = LANES
    for bit in (2, 1):  # of the numbers of groups
        low = [lane for lane, (g, _) in enumerate(lanes) if not g & bit]
        high = [lane for lane, (g, _) in enumerate(lanes) if g & bit]
        y = builder.fadd(take(builder, y, low), take(builder, y, high))
        lanes = [lanes[lane] for lane in low]
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
        (y,) = _products(builder, (ws, [x], [sums]), groups, split, True)
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
