"""Add up products of bytes: each instruction set has its own way.

LLVM has no name of its own for this, so the instruction of a target is called by name.
``kernels/byte_products.py`` calls the function that is defined here: ``tinyrwkv-build-kernels``
adds it to the code of each target that has such an instruction. vpdpbusd and sdot add four
products that follow each other to an int32. vpmaddubsw adds two, and gives an int16. On x86 each
lane of a span is 16 * 15 * 128 at most, so that it fits in an int16.
"""

from __future__ import annotations

from typing import NamedTuple

from llvmlite import ir

from ..file import int4
from .llvm import (
    I8,
    I16,
    I32,
    I64,
    Builder,
    Value,
    call,
    constant,
    joined,
    load,
    loop,
    neighbours,
    vector_of,
)
from .processor import PRODUCT_BYTES

SIXTEEN = vector_of(I32, 16)

PAIRS = "llvm.x86.avx2.pmadd.wd"
TOTAL_AND_PAIRS = "llvm.x86.avx512.vpdpwssd.512"
PACK = "llvm.x86.avx512.packssdw.512"


class Sums(NamedTuple):
    """The sums of q l and of q h of a row: one vector of 16 lanes each, or two of four int32."""

    low: list[Value]
    high: list[Value]


def define_totals(module: ir.Module, name: str, instruction: str) -> ir.Function:
    """Define how to multiply a span of four rows of int4 with the bytes of activations.

    Parameters
    ----------
    module : llvmlite.ir.Module
    name : str
        Of the function.
    instruction : str
        What `byte_products` returned, not "".

    Returns
    -------
    llvmlite.ir.Function
        ``totals(a, b, c, d, x)``: five addresses; 16 int32, as ``kernels/byte_products.py`` says.
    """
    function = ir.Function(module, ir.FunctionType(SIXTEEN, [I64] * 5), name)
    function.attributes.add("alwaysinline")
    builder = ir.IRBuilder(function.append_basic_block())
    *rows, x = function.args
    sums = _sums(instruction, builder, rows, x)
    if PRODUCT_BYTES[instruction] == 64:
        total = _totals_of_pairs(builder, sums)
    else:
        total = _totals_of_rows(builder, sums)
    builder.ret(total)
    return function


def _sums(instruction: str, builder: Builder, rows: list[Value], x: Value) -> list[Sums]:
    """Return the sums of each row."""
    size = PRODUCT_BYTES[instruction]
    shape = vector_of(I16, 16) if size == 32 else vector_of(I32, size // 4)
    count = 2 if size == 16 else 1  # a vector of 16 bytes has columns of two groups only

    def add(byte: Value, totals: list[Value]) -> list[Value]:
        added: list[Value] = []
        for n in range(count):
            at = builder.add(byte, I32(size * n))
            place = builder.mul(at, I32(4))
            places = [builder.add(place, I32(size * i)) for i in range(4)]
            inputs = [load(builder, x, each, I8, size) for each in places]
            for row in rows:
                low, high = _halves(builder, load(builder, row, at, I8, size))
                for x_low, x_high in (inputs[:2], inputs[2:]):
                    total = totals[len(added)]
                    total = _add_products(instruction, builder, total, low, x_low)
                    total = _add_products(instruction, builder, total, high, x_high)
                    added.append(total)
        return added

    zeros = [ir.Constant(shape, None)] * (2 * count * len(rows))
    whole = (I32(0), I32(int4.SPAN // 2))
    totals = loop(builder, whole, size * count, zeros, add)
    apart = 2 * len(rows)
    return [Sums(totals[i::apart], totals[i + 1 :: apart]) for i in range(0, apart, 2)]


def _halves(builder: Builder, both: Value) -> tuple[Value, Value]:
    """Return the low and the high halves of bytes."""
    shorts = vector_of(I16, both.type.count // 2)
    fifteen = constant(both.type, 15)
    moved = builder.lshr(builder.bitcast(both, shorts), constant(shorts, 4))
    return builder.and_(both, fifteen), builder.and_(builder.bitcast(moved, both.type), fifteen)


def _add_products(instruction: str, builder: Builder, total: Value, q: Value, x: Value) -> Value:
    """Return total + the sums of neighbouring products."""
    shape = total.type
    if shape.element == I16:
        return builder.add(total, call(builder, instruction, shape, q, x))
    if shape.count == 16:  # x86 has the bytes as int32
        q, x = builder.bitcast(q, shape), builder.bitcast(x, shape)
    return call(builder, instruction, shape, total, q, x)


def _totals_of_rows(builder: Builder, sums: list[Sums]) -> Value:
    """Return sum q x of four rows whose sums are one vector of int16, or two of four int32."""
    a, b, c, d = (_total_of_row(builder, each) for each in sums)
    ab, cd = neighbours(builder, a, b), neighbours(builder, c, d)
    return joined(builder, ab, cd, range(16))


def _total_of_row(builder: Builder, sums: Sums) -> Value:
    """Return sum q x of a row: group g has lanes 2 g and 2 g + 1 of 8."""
    eight = vector_of(I32, 8)
    if len(sums.low) == 1:
        (low,), (high,) = sums
        ones, factors = constant(low.type, 1), constant(high.type, 256)
        low = call(builder, PAIRS, eight, low, ones)
        high = call(builder, PAIRS, eight, high, factors)
        return builder.add(low, high)
    low, high = (joined(builder, first, last, range(8)) for first, last in sums)
    return builder.add(low, builder.shl(high, constant(eight, 8)))


def _totals_of_pairs(builder: Builder, sums: list[Sums]) -> Value:
    """Return sum q x of four rows whose sums are one vector of 16 int32."""
    a, b, c, d = sums
    ab, cd = _total_of_pair(builder, a, b), _total_of_pair(builder, c, d)
    # Groups 0 and 1 of a lie before those of b, then 2 and 3 of both; then all of it again.
    lanes = [row + place for place in (0, 1, 4, 5) for row in (0, 2, 16, 18)]
    again = [lane + 8 for lane in lanes]
    return builder.add(joined(builder, ab, cd, lanes), joined(builder, ab, cd, again))


def _total_of_pair(builder: Builder, a: Sums, b: Sums) -> Value:
    """Return sum q x of two rows; neighbouring lanes are added up, which fit in int16."""
    total = ir.Constant(SIXTEEN, None)
    shorts = vector_of(I16, 32)
    for (first,), (second,), factor in ((a.low, b.low, 1), (a.high, b.high, 256)):
        both = call(builder, PACK, shorts, first, second)
        factors = builder.bitcast(constant(shorts, factor), SIXTEEN)
        total = call(
            builder, TOTAL_AND_PAIRS, SIXTEEN, total, builder.bitcast(both, SIXTEEN), factors
        )
    return total
