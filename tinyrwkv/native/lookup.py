"""The one thing that every instruction set has its own way for: many bytes at once from a table of 16.

LLVM has no name of its own for it, so that a target's instruction is called by name. ``kernels/simd.py`` calls the
function that is defined here; ``tinyrwkv-build-kernels`` gives each object the definition for its target.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from .llvm import I8, I16, I32, I64, call, constant, load, splat, take, vector_of

WIDE, NARROW = vector_of(I16, 64), vector_of(I8, 64)

NAME = "tinyrwkv_add_codes"

LANES = {
    "llvm.x86.avx512.pshuf.b.512": 64,
    "llvm.x86.avx2.pshuf.b": 32,
    "llvm.aarch64.neon.tbl1.v16i8": 16,
    "llvm.arm.neon.vtbl2": 8,
}
"""How many bytes an instruction takes at once, by its name in LLVM."""


def define_add_codes(module: ir.Module, instruction: str) -> ir.Function:
    """Define how to add the sums of 8 tables of 32 bytes that 64 rows, side by side, have in 4 bytes of codes each.

    Parameters
    ----------
    module : llvmlite.ir.Module
    instruction : str
        One of `LANES`; "" where there is none: then tables must be of sums over the bits of their places, and what each
        bit brings is added one by one.

    Returns
    -------
    llvmlite.ir.Function
        ``counts = add_codes(counts, codes, tables)``: 64 int16, two addresses.
    """
    function = ir.Function(module, ir.FunctionType(WIDE, [WIDE, I64, I64]), NAME)
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block())
    total, rows, tables = function.args
    low = high = constant(NARROW, 0)
    for row in range(4):
        both = load(builder, rows, I32(64 * row), I8, 64)
        halves = builder.and_(both, constant(NARROW, 15)), builder.lshr(both, constant(NARROW, 4))
        for half, codes in enumerate(halves):
            table = builder.add(tables, I64(32 * (2 * row + half)))
            if instruction:
                low = builder.add(low, _lookup(builder, instruction, table, codes))
                high = builder.add(
                    high, _lookup(builder, instruction, builder.add(table, I64(16)), codes)
                )
            else:
                total = _add_bits(builder, total, table, codes)
    # Bytes have room for the sum of 8 numbers below 32.
    high = builder.shl(builder.zext(high, WIDE), constant(WIDE, 5))
    builder.ret(builder.add(total, builder.add(builder.zext(low, WIDE), high)))
    return function


def _lookup(builder: ir.IRBuilder, instruction: str, at: Any, codes: Any) -> Any:
    """Return the bytes of a table, at an address, that codes below 16 stand for."""
    table, count = load(builder, at, I32(0), I8, 16), LANES[instruction]
    places = [range(8), range(8, 16)] if count == 8 else [[i % 16 for i in range(count)]]
    tables, parts = [take(builder, table, part) for part in places], []
    for i in range(0, 64, count):
        some = take(builder, codes, range(i, i + count))
        parts.append(call(builder, instruction, some.type, *tables, some))
    while len(parts) > 1:
        both = ir.Constant(
            vector_of(I32, 2 * parts[0].type.count), [*range(2 * parts[0].type.count)]
        )
        parts = [
            builder.shuffle_vector(a, b, both) for a, b in zip(parts[::2], parts[1::2], strict=True)
        ]
    return parts[0]


def _add_bits(builder: ir.IRBuilder, total: Any, table: Any, codes: Any) -> Any:
    """Return total + the entries of a table of sums, from those of place 0 and of each bit."""

    def entry(place: int) -> Any:
        low, high = (
            builder.zext(load(builder, table, I32(16 * i + place), I8, 1), I16) for i in (0, 1)
        )
        return builder.add(low, builder.shl(high, I16(5)))

    total = builder.add(total, splat(builder, entry(0), WIDE))
    for bit in range(4):
        here = builder.and_(
            builder.lshr(builder.zext(codes, WIDE), constant(WIDE, bit)), constant(WIDE, 1)
        )
        total = builder.add(
            total, builder.mul(here, splat(builder, builder.sub(entry(1 << bit), entry(0)), WIDE))
        )
    return total
