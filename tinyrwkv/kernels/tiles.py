"""Tiles of products: a few int8 rows with a few tokens, all sums in registers.

A weight is loaded and widened once for all tokens of a tile, an activation once for all rows. The
sums are whole numbers, so their order is free: each machine has the shape that fits its registers.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from ..native.llvm import (
    I8,
    I16,
    I32,
    I64,
    Builder,
    Value,
    apart,
    emitter,
    joined,
    load,
    loop,
    opaque,
    splat,
    take,
    vector_of,
)
from . import simd

LEAST = 32
"""Columns that rows must have."""

FAR = 512
"""Bytes to read ahead in each stream of rows: the processor alone does not keep up."""


def _rows_and_lanes(tokens: int) -> tuple[int, int]:
    """Return how many rows have sums at once, and lanes of each, so that all have registers."""
    if simd.WIDE:
        return 4, 16
    if simd.PAIRS and tokens == 2:
        return 4, 8
    return 2, 8


def _tile(tokens: int, far: int) -> Any:
    """Make the intrinsic that multiplies four rows, without PAIRS two, with `tokens` vectors.

    ``tile(w, w_stride, x, x_stride, n, out, out_stride, y_bytes)``: addresses and strides in bytes,
    n columns, at least `LEAST`. It gives out[r, t] = sum_j w[r, j] * x[t, j]: the results of a
    token follow `y_bytes` after those of the token before.
    """

    def emit(builder: Builder, *given: Value) -> None:
        w, w_stride, x, x_stride, n, out, out_stride, y_bytes = given
        rows, lanes = _rows_and_lanes(tokens)
        xs = apart(builder, x, x_stride, tokens)
        ws = apart(builder, w, w_stride, 4 if simd.PAIRS else 2)
        places = [
            place
            for row in apart(builder, out, out_stride, len(ws))
            for place in apart(builder, row, y_bytes, tokens)
        ]
        totals = [
            total
            for first in range(0, len(ws), rows)
            for total in _totals(builder, ws[first : first + rows], xs, n, lanes, far)
        ]
        for first in range(0, len(totals), lanes):
            sums, owners = _sums(builder, totals[first : first + lanes])
            for lane, i in enumerate(owners):
                one = builder.extract_element(sums, I32(lane))
                builder.store(one, opaque(builder, places[first + i]), align=4)

    i64 = types.int64
    return emitter(types.void, (i64, i64, i64, i64, types.int32, i64, i64, i64), emit)


def _totals(
    builder: Builder, ws: list[Value], xs: list[Value], n: Value, lanes: int, far: int
) -> list[Value]:
    """Return the partial sums of each row with each token."""
    step = 2 * lanes
    wide = vector_of(I32, step)
    rest = builder.srem(n, I32(step))

    def add(j: Value, weights: list[Value], totals: list[Value]) -> list[Value]:
        inputs = [builder.sext(load(builder, x, j, I16, step), wide) for x in xs]
        pairs = [(builder.sext(w, wide), x) for w in weights for x in inputs]
        return [
            simd.add_pairs(builder, total, builder.mul(w, x))
            for total, (w, x) in zip(totals, pairs, strict=True)
        ]

    def add_step(j: Value, totals: list[Value]) -> list[Value]:
        for w in ws if far else []:
            ahead = builder.add(builder.sext(j, I64), I64(far))
            simd.fetch(builder, builder.add(w, ahead), simd.NEAREST)
        return add(j, [load(builder, w, j, I8, step) for w in ws], totals)

    def add_rest(j: Value, totals: list[Value]) -> list[Value]:
        # A whole step that ends with the row; of what was added before, the weights count as zero.
        places = ir.Constant(vector_of(I8, step), list(range(step)))
        before = builder.trunc(builder.sub(I32(step), rest), I8)
        left = builder.icmp_signed(">=", places, splat(builder, before, places.type))
        weights = [load(builder, w, j, I8, step) for w in ws]
        zeros = ir.Constant(places.type, None)
        return add(j, [builder.select(left, w, zeros) for w in weights], totals)

    totals = [ir.Constant(vector_of(I32, lanes), None)] * (len(ws) * len(xs))
    totals = loop(builder, (I32(0), builder.sub(n, rest)), step, totals, add_step)
    is_whole = builder.icmp_signed("==", rest, I32(0))
    last = builder.select(is_whole, n, builder.sub(n, I32(step)))
    return loop(builder, (last, n), step, totals, add_rest)


def _sums(builder: Builder, totals: list[Value]) -> tuple[Value, list[int]]:
    """Add up the lanes of each total; return the sums in one vector, and whose each lane is."""
    while totals[0].type.count > len(totals):
        middle = totals[0].type.count // 2
        low = [take(builder, total, range(middle)) for total in totals]
        high = [take(builder, total, range(middle, 2 * middle)) for total in totals]
        totals = [builder.add(a, b) for a, b in zip(low, high, strict=True)]
    lanes = group = totals[0].type.count
    owners = [[i] * lanes for i in range(len(totals))]
    while len(totals) > 1:
        low, high = _halves(lanes, group)
        pairs = zip(totals[::2], totals[1::2], strict=True)
        totals = [
            builder.add(joined(builder, a, b, low), joined(builder, a, b, high)) for a, b in pairs
        ]
        both = zip(owners[::2], owners[1::2], strict=True)
        owners = [[(a + b)[lane] for lane in low] for a, b in both]
        group //= 2
    return totals[0], owners[0]


def _halves(lanes: int, group: int) -> tuple[list[int], list[int]]:
    """Return the lanes of the first and of the second half of each group of two vectors.

    They stand in an order that x86 and ARM have an instruction for: within 16 bytes, if they can.
    """
    block = lanes if group > 4 else 4
    starts = [
        place + i
        for begin in range(0, lanes, block)
        for place in (begin, lanes + begin)
        for i in range(0, block, group)
    ]
    low = [start + i for start in starts for i in range(group // 2)]
    return low, [lane + group // 2 for lane in low]


first_four = _tile(4, FAR)
four_tokens = _tile(4, 0)  # of rows that are near since the first four
two_tokens = _tile(2, FAR)
