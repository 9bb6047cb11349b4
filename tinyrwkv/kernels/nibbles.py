"""Dot products of int4 rows: intrinsics of LLVM code for no machine in particular.

``file/int4.py`` describes the rows. A vector of 32 columns holds 8 columns of each of four groups,
so sums of pairs of products stay in their group: lanes 4 g to 4 g + 3 of 16. They are whole numbers
and need no order. Floats are added only between spans, lane by lane, and then by one tree:

    y = (y_0 + y_2) + (y_1 + y_3),  y_g = sum over spans of s_g (sum_j q_j x_j - z_g sum_j x_j)
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..file import int4
from ..native.llvm import (
    F32,
    I8,
    I16,
    I32,
    I64,
    Builder,
    Value,
    Vector,
    call,
    constant,
    emitter,
    joined,
    loop,
    opaque,
    splat,
    take,
    vector_of,
)
from . import byte_products
from .common import LINE
from .simd import BYTES, PAIRS, WIDE, fetch, half_of, vectors
from .tiles import DOTS_BYTES

FOUR = 4
"""Groups of a span, and rows or tokens whose sums are made side by side."""

FAR = 1280
"""Bytes to read ahead in each stream of rows: long rows are half as fast without."""

PIECE = 32
"""Columns of a vector. Half a byte each, twice as many take as many bytes."""

_BYTES, _SHORTS, _WIDE = (vector_of(kind, PIECE) for kind in (I8, I16, I32))
_SUMS = vector_of(I32, PIECE // 2)


def _address(builder: Builder, base: Value, index: Value, step: int, offset: int = 0) -> Value:
    bytes_before = builder.mul(builder.sext(index, I64), I64(step))
    return builder.add(base, builder.add(bytes_before, I64(offset)))


def _load(builder: Builder, address: Value, shape: Any, align: int = 1) -> Value:
    return builder.load(opaque(builder, address), align=align, typ=shape)


def _all_four(builder: Builder, vectors: list[Value]) -> Value:
    """Put four vectors of four lanes one after the other."""
    a, b, c, d = vectors
    low, high = joined(builder, a, b, range(8)), joined(builder, c, d, range(8))
    return joined(builder, low, high, range(16))


def _weights(builder: Builder, address: Value) -> list[Value]:
    """Return q of 64 columns, int16: those of the low halves of 32 bytes, and of the high ones."""
    wide = builder.zext(_load(builder, address, _BYTES), _SHORTS)
    low = builder.and_(wide, constant(_SHORTS, 15))
    high = builder.lshr(wide, constant(_SHORTS, 4))
    return [low, high]


def _multiply_add(builder: Builder, total: Value, q: Value, x: Value) -> Value:
    """Add products of 32 columns to 16 sums; each sum gets two that lie in its group."""
    product = builder.mul(builder.sext(q, _WIDE), builder.sext(x, _WIDE))
    if PAIRS:
        even = take(builder, product, range(0, PIECE, 2))
        odd = take(builder, product, range(1, PIECE, 2))
        return builder.add(total, builder.add(even, odd))
    four = vector_of(I32, 4)
    parts = []
    for i in range(4):
        before = take(builder, total, range(4 * i, 4 * i + 4))
        products = take(builder, product, range(8 * i, 8 * i + 8))
        name = "llvm.vector.partial.reduce.add.v4i32.v8i32"
        parts.append(call(builder, name, four, before, products))
    return _all_four(builder, parts)


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
            inputs = [_load(builder, place, _SHORTS, 2) for place in places]
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
    """Add up the lanes of each group: of one vector as four sums, of four as sums 4 g + i."""
    if len(totals) == 1:
        (total,) = totals
        for width in (8, 4):
            even = take(builder, total, range(0, 2 * width, 2))
            total = builder.add(even, take(builder, total, range(1, 2 * width, 2)))
        return total
    while len(totals) > 1:
        totals = [_pairs(builder, *totals[i : i + 2]) for i in range(0, len(totals), 2)]
    return totals[0]


def _pairs(builder: Builder, a: Value, b: Value) -> Value:
    """Add neighbours in the four lanes of each group: two sums of a, then two of b."""
    even = [first + 4 * g + i for g in range(4) for first in (0, 16) for i in (0, 2)]
    odd = [lane + 1 for lane in even]
    return builder.add(joined(builder, a, b, even), joined(builder, a, b, odd))


def _spread(builder: Builder, vectors: list[Value], copies: int) -> Value:
    """Return number g of vector i in lane 4 g + i, or that of the only vector in all four lanes.

    With one copy, a single vector stays as it is.
    """
    if len(vectors) == 1:
        lanes = [g for g in range(FOUR) for _ in range(copies)]
        return take(builder, vectors[0], lanes)
    lanes = [4 * i + g for g in range(FOUR) for i in range(FOUR)]
    return take(builder, _all_four(builder, vectors), lanes)


def _padded(builder: Builder, vector: Value, groups: int) -> Value:
    """Make four numbers of fewer, with zeros behind them."""
    zeros = ir.Constant(vector.type, None)
    lanes = [*range(groups), *[groups] * (FOUR - groups)]
    return joined(builder, vector, zeros, lanes)


def _ends(builder: Builder, rows: list[Value], before: int) -> Value:
    """Load the last 16 bytes of a span of four groups of each of four rows, as int16.

    They begin so many bytes before the addresses. The scales are numbers 3 to 6 of eight, and the
    last has the zero points.
    """
    shape = vector_of(I16, 8)
    a, b, c, d = (_load(builder, builder.sub(row, I64(before)), shape) for row in rows)
    first, last = joined(builder, a, b, range(16)), joined(builder, c, d, range(16))
    return joined(builder, first, last, range(32))


def _scales(builder: Builder, rows: list[Value], groups: int, copies: int) -> Value:
    """Load the scales of a span of each row, float16."""
    if groups == FOUR and len(rows) == FOUR:
        lanes = [8 * i + 3 + g for g in range(FOUR) for i in range(FOUR)]
        return half_of(builder, take(builder, _ends(builder, rows, 6), lanes))
    shape = vector_of(I16, groups)
    found = [_padded(builder, _load(builder, row, shape), groups) for row in rows]
    return half_of(builder, _spread(builder, found, copies))


def _zero_points(builder: Builder, rows: list[Value], groups: int, copies: int) -> Value:
    """Load the zero points of a span of each row, half a byte each."""
    if groups == FOUR and len(rows) == FOUR:
        fours = take(builder, _ends(builder, rows, 14), [7, 15, 23, 31])
    else:
        fours = ir.Constant(vector_of(I16, len(rows)), ir.Undefined)
        for i, row in enumerate(rows):
            four = builder.zext(_load(builder, row, I16 if groups == FOUR else I8), I16)
            fours = builder.insert_element(fours, four, I32(i))
    count = max(len(rows), copies)
    lanes = [i % len(rows) for _ in range(FOUR) for i in range(count)]
    spread = take(builder, builder.zext(fours, vector_of(I32, len(rows))), lanes)
    places = ir.Constant(spread.type, [4 * g for g in range(FOUR) for _ in range(count)])
    return builder.and_(builder.lshr(spread, places), constant(spread.type, 15))


def _sums(builder: Builder, tokens: list[Value], groups: int, copies: int) -> Value:
    """Load the sums of the activations of each group of a span, int32, for each token."""
    shape = vector_of(I32, groups)
    found = [_padded(builder, _load(builder, token, shape, 4), groups) for token in tokens]
    return _spread(builder, found, copies)


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
    rows, tokens = len(here.rows), len(here.x)
    scales = [builder.add(row, I64(PIECE * groups)) for row in here.rows]
    zeros = [builder.add(row, I64((PIECE + 2) * groups)) for row in here.rows]
    vectors = [here.sums] if rows == 1 else [[sums] for sums in here.sums]
    if by_bytes:
        totals = [byte_products.totals(builder, here.rows, split) for split in here.split]
    else:
        single = _totals(builder, here.rows, here.x, groups)
        totals = [_side_by_side(builder, single[i :: len(vectors)]) for i in range(len(vectors))]
    points = _zero_points(builder, zeros, groups, tokens)
    factors = _scales(builder, scales, groups, tokens)
    terms = []
    for sums, dots in zip(vectors, totals, strict=True):
        offset = builder.mul(points, _sums(builder, sums, groups, rows))
        total = builder.sub(dots, offset)
        floats = builder.sitofp(total, vector_of(F32, total.type.count))
        terms.append(builder.fmul(floats, factors))
    return terms


def _fetch_ahead(builder: Builder, rows: list[Value]) -> None:
    """Begin to read what comes after a span of each row, some lines at a time."""
    for row in rows:
        for line in range(0, PIECE * FOUR, LINE):
            fetch(builder, builder.add(row, I64(FAR + line)))


def _dots(rows: int, tokens: int, listed: bool = False) -> Any:
    """Make the intrinsic that multiplies `rows` int4 rows with `tokens` vectors.

    ``dots(w, w_stride, x, x_stride, split, sums, sums_stride, groups, out, out_stride)``: addresses
    and strides in bytes; sums are those of the activations x of each group, int32. The results are
    float32, `out_stride` bytes apart. There are 1 or 4 rows. Of one row, there are 1 or 4 tokens.
    Of four, the results of a token follow DOTS_BYTES after those of the token before.

    The bytes of x, as ``byte_products`` has them, begin `split` bytes after x; 0 if there are none.
    Four tokens do without: more would be loaded for them than widening the weights once costs.

    With `listed`, w and out are the places of two lists of addresses instead: of the rows, and of
    their results.
    """
    count, vectors = (tokens, 1) if rows == 1 else (rows, tokens)
    knows_bytes = BYTES > 0 and rows == FOUR and tokens <= 2

    def add_span(builder: Builder, first: _Places, span: int, by_bytes: bool) -> Any:
        def add(i: Value, carried: list[Value]) -> list[Value]:
            here = first.after(builder, i, span)
            if count > 1 and span == FOUR and not listed:
                _fetch_ahead(builder, here.rows)
            terms = _terms(builder, here, span, by_bytes)
            return [builder.fadd(y, term) for y, term in zip(carried, terms, strict=True)]

        return add

    @intrinsic
    def dots(
        typingctx: Any,
        w: Any,
        w_stride: Any,
        x: Any,
        x_stride: Any,
        split: Any,
        sums: Any,
        sums_stride: Any,
        groups: Any,
        out: Any,
        out_stride: Any,
    ) -> Any:
        i64 = types.int64
        arguments = (i64, i64, i64, i64, i64, i64, i64, types.int32, i64, i64)
        return types.void(*arguments), codegen

    def codegen(context: Any, builder: Builder, signature: Any, args: Any) -> Any:
        w, w_stride, x, x_stride, split, sums, sums_stride, groups, out, out_stride = args

        def apart(base: Value, stride: Value, number: int) -> list[Value]:
            return [builder.add(base, builder.mul(stride, I64(i))) for i in range(number)]

        ws, ys = apart(w, w_stride, rows), apart(out, out_stride, count)
        if listed:  # the strides are those of the lists
            ws, ys = ([_load(builder, at, I64, 8) for at in places] for places in (ws, ys))
        xs = apart(x, x_stride, tokens)
        bytes_of_x = [builder.add(x, split) for x in xs]
        place = _Places(ws, xs, apart(sums, sums_stride, tokens), bytes_of_x)
        y = [ir.Constant(vector_of(F32, FOUR * count), None)] * vectors
        left = groups
        for span, by_bytes in [(4, True)] * knows_bytes + [(4, False), (2, False), (1, False)]:
            number = builder.lshr(left, I32(span // 2))
            if by_bytes:
                has_bytes = builder.icmp_signed("!=", split, I64(0))
                number = builder.select(has_bytes, number, I32(0))
            y = loop(builder, (I32(0), number), 1, y, add_span(builder, place, span, by_bytes))
            place = place.after(builder, number, span)
            left = builder.sub(left, builder.mul(number, I32(span)))
        for t, sums_of_token in enumerate(y):
            places = [builder.add(at, I64(DOTS_BYTES * t)) for at in ys]
            _store_sums(builder, sums_of_token, places)
        return context.get_dummy_value()

    return dots


def _store_sums(builder: Builder, y: Value, places: list[Value]) -> None:
    """Store (y_0 + y_2) + (y_1 + y_3) of each of those that lie side by side."""
    while y.type.count > len(places):
        middle = y.type.count // 2
        low = take(builder, y, range(middle))
        y = builder.fadd(low, take(builder, y, range(middle, 2 * middle)))
    for i, at in enumerate(places):
        builder.store(builder.extract_element(y, I32(i)), opaque(builder, at), align=4)


dots_i4 = _dots(1, 1)
dots_i4_rows = _dots(FOUR, 1)
dots_i4_listed = _dots(FOUR, 1, listed=True)
dots_i4_tokens = _dots(1, FOUR)
dots_i4_tile = _dots(FOUR, FOUR)
dots_i4_tile_of_two = _dots(FOUR, 2)


def _sum_of_group(builder: Builder, x: Value, step: Value) -> Value:
    """Return the sum of 8 runs of 8 int16, which begin so many bytes after each other."""
    total = ir.Constant(vector_of(I32, 8), None)
    for _ in range(8):
        run = _load(builder, x, vector_of(I16, 8), 2)
        total = builder.add(total, builder.sext(run, total.type))
        x = builder.add(x, step)
    return call(builder, "llvm.vector.reduce.add.v8i32", I32, total)


sum_of_group = emitter(types.int32, (types.int64, types.int64), _sum_of_group)
"""``sum_of_group(x, step)``: the sum of 8 runs of 8 int16, `step` bytes from one to the next."""


# Sums of rows, 64 columns at a time: these are of groups 0 to 3 in turn, 8 columns each, in a span
# of four groups, of two groups in a span of two, or all of one.

_FOUR_FLOATS = Vector(F32, FOUR)
_COLUMNS = Vector(F32, PIECE)


def _four_scales(builder: Builder, address: Value, q: Value) -> Value:
    s = _scales(builder, [address], FOUR, 1)
    return builder.fmul(s, splat(builder, q, s.type))


def _four_zeros(builder: Builder, address: Value) -> Value:
    return builder.sitofp(_zero_points(builder, [address], FOUR, 1), _FOUR_FLOATS.shape)


def add_row(high: bool) -> Any:
    """Make ``add(v, address, factors, zeros)`` = v + factor (q - zero) for 32 columns of a row.

    They are those of the low or of the high halves of 32 bytes at an address.
    """
    by_group = [column // 8 for column in range(PIECE)]

    def add(builder: Builder, v: Value, address: Value, factors: Value, zeros: Value) -> Value:
        q = builder.uitofp(_weights(builder, address)[high], _COLUMNS.shape)
        difference = builder.fsub(q, take(builder, zeros, by_group))
        return builder.fadd(v, builder.fmul(difference, take(builder, factors, by_group)))

    return emitter(_COLUMNS, (_COLUMNS, types.int64, _FOUR_FLOATS, _FOUR_FLOATS), add)


load_columns, store_columns, _, _ = vectors(PIECE)
load_four, store_four, _, _ = vectors(FOUR)

four_scales = emitter(_FOUR_FLOATS, (types.int64, types.float32), _four_scales)
"""``four_scales(address, q)``: the scales of a span of four groups, float16 there, times q."""

four_zeros = emitter(_FOUR_FLOATS, (types.int64,), _four_zeros)
"""``four_zeros(address)``: the zero points of a span of four groups, as floats."""

add_low, add_high = add_row(False), add_row(True)
