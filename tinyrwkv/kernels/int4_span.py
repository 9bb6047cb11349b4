"""What a span of int4 has beside its levels: scales, zero points, and the sums of activations.

Each comes as a vector of 16: for group g and row or token i in lane 4 g + i. There are four rows
with one token, or one row with four tokens.
"""

from __future__ import annotations

from llvmlite import ir

from ..native.llvm import (
    I8,
    I16,
    I32,
    I64,
    Builder,
    Value,
    constant,
    joined,
    load_at,
    take,
    vector_of,
)
from .simd import half_of

FOUR = 4
"""Groups of a span, and rows or tokens whose sums are made side by side."""


def all_four(builder: Builder, vectors: list[Value]) -> Value:
    """Put four vectors of four lanes one after the other."""
    a, b, c, d = vectors
    low, high = joined(builder, a, b, range(8)), joined(builder, c, d, range(8))
    return joined(builder, low, high, range(16))


def _spread(builder: Builder, vectors: list[Value]) -> Value:
    """Return number g of vector i in lane 4 g + i, or that of the only vector in all four lanes."""
    if len(vectors) == 1:
        return take(builder, vectors[0], [g for g in range(FOUR) for _ in range(FOUR)])
    lanes = [4 * i + g for g in range(FOUR) for i in range(FOUR)]
    return take(builder, all_four(builder, vectors), lanes)


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
    a, b, c, d = (load_at(builder, builder.sub(row, I64(before)), shape) for row in rows)
    first, last = joined(builder, a, b, range(16)), joined(builder, c, d, range(16))
    return joined(builder, first, last, range(32))


def scales(builder: Builder, rows: list[Value], groups: int) -> Value:
    """Load the scales of a span of each row, float16."""
    if groups == FOUR and len(rows) == FOUR:
        lanes = [8 * i + 3 + g for g in range(FOUR) for i in range(FOUR)]
        return half_of(builder, take(builder, _ends(builder, rows, 6), lanes))
    shape = vector_of(I16, groups)
    found = [_padded(builder, load_at(builder, row, shape), groups) for row in rows]
    return half_of(builder, _spread(builder, found))


def zero_points(builder: Builder, rows: list[Value], groups: int) -> Value:
    """Load the zero points of a span of each row, half a byte each."""
    if groups == FOUR and len(rows) == FOUR:
        fours = take(builder, _ends(builder, rows, 14), [7, 15, 23, 31])
    else:
        fours = ir.Constant(vector_of(I16, len(rows)), ir.Undefined)
        for i, row in enumerate(rows):
            four = builder.zext(load_at(builder, row, I16 if groups == FOUR else I8), I16)
            fours = builder.insert_element(fours, four, I32(i))
    lanes = [i % len(rows) for _ in range(FOUR) for i in range(FOUR)]
    spread = take(builder, builder.zext(fours, vector_of(I32, len(rows))), lanes)
    places = ir.Constant(spread.type, [4 * g for g in range(FOUR) for _ in range(FOUR)])
    return builder.and_(builder.lshr(spread, places), constant(spread.type, 15))


def sums(builder: Builder, tokens: list[Value], groups: int) -> Value:
    """Load the sums of the activations of each group of a span, int32, for each token."""
    shape = vector_of(I32, groups)
    found = [_padded(builder, load_at(builder, token, shape, 4), groups) for token in tokens]
    return _spread(builder, found)
