"""What a span of int4 has beside its levels: scales, zero points, and the sums of activations.

Each comes as a vector of 16, one number for each group and each row or token: `LANES` tells where.
There are four rows with one token, or one row with four tokens.
"""

from __future__ import annotations

from llvmlite import ir

from ..file import int4
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
from .simd import WIDE, half_of

FOUR = 4
"""Groups of a span, and rows or tokens whose sums are made side by side."""

_BY_GROUPS = [(g, i) for g in range(FOUR) for i in range(FOUR)]
_BY_PAIRS = [(g + k, i + j) for i in (0, 2) for g in (0, 2) for j in (0, 1) for k in (0, 1)]

LANES = _BY_GROUPS if WIDE else _BY_PAIRS
"""The group g and the row or token i of each lane.

Where a register does not hold all 16, sums stay where ``native/products.py`` adds up neighbours:
those of groups 0 and 1 of rows 0 and 1, of groups 2 and 3 of these, then of rows 2 and 3.
"""


_SCALES = int4.GROUP // 2
"""Bytes of levels for each group, before the scales."""


def all_four(builder: Builder, vectors: list[Value]) -> Value:
    """Put four vectors of four lanes one after the other."""
    a, b, c, d = vectors
    low, high = joined(builder, a, b, range(8)), joined(builder, c, d, range(8))
    return joined(builder, low, high, range(16))


def _spread(builder: Builder, vectors: list[Value]) -> Value:
    """Return number g of vector i in the lane of both; the only vector stands for all four."""
    if len(vectors) == 1:
        return take(builder, vectors[0], [g for g, _ in LANES])
    return take(builder, all_four(builder, vectors), [4 * i + g for g, i in LANES])


def _padded(builder: Builder, vector: Value, groups: int) -> Value:
    """Make four numbers of fewer, with zeros behind them."""
    lanes = [*range(groups), *[groups] * (FOUR - groups)]
    return joined(builder, vector, ir.Constant(vector.type, None), lanes)


def _loaded(builder: Builder, rows: list[Value], place: int, shape: ir.Type) -> list[Value]:
    """Load what lies so many bytes after each address."""
    return [load_at(builder, builder.add(row, I64(place)), shape) for row in rows]


def _ends(builder: Builder, rows: list[Value]) -> Value:
    """Load the last 16 bytes of a span of four groups of each of four rows, as int16.

    The scales are numbers 3 to 6 of eight, and the last has the zero points.
    """
    place = int4.row_bytes(int4.SPAN) - 16
    a, b, c, d = _loaded(builder, rows, place, vector_of(I16, 8))
    first = joined(builder, a, b, range(16))
    last = joined(builder, c, d, range(16))
    return joined(builder, first, last, range(32))


def scales(builder: Builder, rows: list[Value], groups: int) -> Value:
    """Load the scales of a span of each row, float16."""
    if WIDE and groups == FOUR and len(rows) == FOUR:
        lanes = [8 * i + 3 + g for g, i in LANES]
        return half_of(builder, take(builder, _ends(builder, rows), lanes))
    place = _SCALES * groups
    found = _loaded(builder, rows, place, vector_of(I16, groups))
    found = [_padded(builder, four, groups) for four in found]
    if WIDE or len(rows) == 1:
        return half_of(builder, _spread(builder, found))
    a, b, c, d = found
    lanes = [g + FOUR * i for g, i in LANES[:8]]
    ab = half_of(builder, joined(builder, a, b, lanes))
    cd = half_of(builder, joined(builder, c, d, lanes))
    return joined(builder, ab, cd, range(16))


def zero_points(builder: Builder, rows: list[Value], groups: int) -> Value:
    """Load the zero points of a span of each row, half a byte each."""
    if WIDE and groups == FOUR and len(rows) == FOUR:
        fours = take(builder, _ends(builder, rows), [7, 15, 23, 31])
    else:
        place, shape = (_SCALES + 2) * groups, I16 if groups == FOUR else I8
        fours = ir.Constant(vector_of(I16, len(rows)), ir.Undefined)
        for i, four in enumerate(_loaded(builder, rows, place, shape)):
            fours = builder.insert_element(fours, builder.zext(four, I16), I32(i))
    lanes = [i % len(rows) for _, i in LANES]
    spread = take(builder, builder.zext(fours, vector_of(I32, len(rows))), lanes)
    places = ir.Constant(spread.type, [4 * g for g, _ in LANES])
    return builder.and_(builder.lshr(spread, places), constant(spread.type, 15))


def sums(builder: Builder, tokens: list[Value], groups: int) -> Value:
    """Load the sums of the activations of each group of a span, int32, for each token."""
    shape = vector_of(I32, groups)
    found = [_padded(builder, load_at(builder, token, shape, 4), groups) for token in tokens]
    return _spread(builder, found)
