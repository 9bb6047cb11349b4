"""Sums of int4 rows, 64 columns at a time: intrinsics of LLVM code for no machine in particular.

``file/int4.py`` describes the rows. 64 columns are of groups 0 to 3 in turn, 8 columns each, in a
span of four groups, of two groups in a span of two, or all of one. For row i, with factor f_i:

    v = v + f_i s_g (q_j - z_g)

A number from 0 to 15 in the lowest bits of LEVELS is LEVELS plus the number. So levels q and zero
points z become floats by one OR, and their difference is exact.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from ..native.llvm import (
    F32,
    I8,
    I16,
    I32,
    Builder,
    Value,
    Vector,
    constant,
    emitter,
    load_at,
    splat,
    take,
    vector_of,
)
from .int4_span import FOUR
from .simd import half_of, vectors

PIECE = 32
"""Columns of a vector: those of the low halves of as many bytes, or of the high ones."""

LEVELS = 2.0**23

_LEVEL_BITS = 0x4B000000

_FOUR = Vector(F32, FOUR)
_COLUMNS = Vector(F32, PIECE)


def _raised(builder: Builder, q: Value) -> Value:
    """Return LEVELS + q of int32 from 0 to 15, as floats."""
    bits = builder.or_(q, constant(q.type, _LEVEL_BITS))
    return builder.bitcast(bits, vector_of(F32, q.type.count))


def _four_factors(builder: Builder, address: Value, f: Value) -> Value:
    scales = load_at(builder, address, vector_of(I16, FOUR))
    return builder.fmul(half_of(builder, scales), splat(builder, f, _FOUR.shape))


def _four_zeros(builder: Builder, address: Value) -> Value:
    together = load_at(builder, address, I16)
    shape = vector_of(I32, FOUR)
    spread = splat(builder, builder.zext(together, I32), shape)
    places = ir.Constant(shape, [0, 4, 8, 12])
    return _raised(builder, builder.and_(builder.lshr(spread, places), constant(shape, 15)))


def _add(high: bool) -> Any:
    """Make ``add(v, address, factors, zeros)`` = v + factor (q - zero) for 32 columns of a row.

    They are those of the low or of the high halves of 32 bytes at an address. `zeros` are LEVELS
    too large.
    """
    by_group = [column // 8 for column in range(PIECE)]
    wide = vector_of(I32, PIECE)

    def add(builder: Builder, v: Value, address: Value, factors: Value, zeros: Value) -> Value:
        both = load_at(builder, address, vector_of(I8, PIECE))
        q = builder.zext(both, wide)
        if high:
            q = builder.lshr(q, constant(wide, 4))
        else:
            q = builder.and_(q, constant(wide, 15))
        difference = builder.fsub(_raised(builder, q), take(builder, zeros, by_group))
        return builder.fadd(v, builder.fmul(difference, take(builder, factors, by_group)))

    return emitter(_COLUMNS, (_COLUMNS, types.int64, _FOUR, _FOUR), add)


load_columns, store_columns, _, _ = vectors(PIECE)
load_four, store_four, _, _ = vectors(FOUR)
add_low, add_high = _add(False), _add(True)

four_factors = emitter(_FOUR, (types.int64, types.float32), _four_factors)
"""``four_factors(address, f)``: f times the scales of a span of four groups, float16 there."""

four_zeros = emitter(_FOUR, (types.int64,), _four_zeros)
"""``four_zeros(address)``: LEVELS + the zero points of a span of four groups."""
