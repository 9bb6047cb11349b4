"""Look up many bytes at once in a table of 16: each instruction set has its own way.

LLVM has no name of its own for this, so that the instruction of a target is called by name.
``kernels/simd.py`` calls the function that is defined here. ``tinyrwkv-build-kernels`` gives each
object the definition for its target.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from .llvm import I8, I16, I32, I64, Builder, Value, call, constant, load, splat, take, vector_of

ROWS = 64
"""Rows whose codes lie side by side, as ``kernels/abi.py`` has it in BLOCK."""

WIDE, NARROW = vector_of(I16, ROWS), vector_of(I8, ROWS)

NAME = "tinyrwkv_add_codes"

LANES = {
    "llvm.x86.avx512.pshuf.b.512": 64,
    "llvm.x86.avx2.pshuf.b": 32,
    "llvm.aarch64.neon.tbl1.v16i8": 16,
    "llvm.arm.neon.vtbl2": 8,
}
"""How many bytes an instruction looks up at once, by its name in LLVM."""


def define_add_codes(module: ir.Module, instruction: str) -> ir.Function:
    """Define how to add the sums that 64 rows have in 4 bytes of codes each.

    Row i has byte i of each 64 bytes of codes. Each half byte has a table of 32 bytes: the low 5
    bits of its 16 sums, then the high ones.

    Parameters
    ----------
    module : llvmlite.ir.Module
    instruction : str
        One of `LANES`, or "" where there is none. Without one, what each bit of the half byte
        brings is added one by one: the tables must be of sums over the bits of their places.

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
    for byte in range(4):
        both = load(builder, rows, I32(ROWS * byte), I8, ROWS)
        low_half = builder.and_(both, constant(NARROW, 15))
        high_half = builder.lshr(both, constant(NARROW, 4))
        for half, codes in enumerate((low_half, high_half)):
            table = builder.add(tables, I64(32 * (2 * byte + half)))
            if instruction:
                low = builder.add(low, _look_up(builder, instruction, table, codes))
                high_bits = builder.add(table, I64(16))
                high = builder.add(high, _look_up(builder, instruction, high_bits, codes))
            else:
                total = _add_bits(builder, total, table, codes)
    # Bytes have room for the sum of 8 numbers below 32.
    high = builder.shl(builder.zext(high, WIDE), constant(WIDE, 5))
    sums = builder.add(builder.zext(low, WIDE), high)
    builder.ret(builder.add(total, sums))
    return function


def _look_up(builder: Builder, instruction: str, at: Value, codes: Value) -> Value:
    """Return the bytes of a table of 16, at an address, that 64 codes below 16 stand for."""
    table, count = load(builder, at, I32(0), I8, 16), LANES[instruction]
    places: list[Sequence[int]]
    if count == 8:
        places = [range(8), range(8, 16)]  # the instruction takes the table in two halves
    else:
        places = [[i % 16 for i in range(count)]]  # the table again and again
    tables = [take(builder, table, part) for part in places]
    parts = []
    for i in range(0, ROWS, count):
        some = take(builder, codes, range(i, i + count))
        parts.append(call(builder, instruction, some.type, *tables, some))
    while len(parts) > 1:
        size = 2 * parts[0].type.count
        both = ir.Constant(vector_of(I32, size), [*range(size)])
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [builder.shuffle_vector(first, second, both) for first, second in pairs]
    return parts[0]


def _add_bits(builder: Builder, total: Value, table: Value, codes: Value) -> Value:
    """Return total + the entries of a table of sums, from those of place 0 and of each bit."""

    def entry(place: int) -> Value:
        low = builder.zext(load(builder, table, I32(place), I8, 1), I16)
        high = builder.zext(load(builder, table, I32(16 + place), I8, 1), I16)
        return builder.add(low, builder.shl(high, I16(5)))

    total = builder.add(total, splat(builder, entry(0), WIDE))
    for bit in range(4):
        wide = builder.zext(codes, WIDE)
        here = builder.and_(builder.lshr(wide, constant(WIDE, bit)), constant(WIDE, 1))
        brought = builder.sub(entry(1 << bit), entry(0))
        total = builder.add(total, builder.mul(here, splat(builder, brought, WIDE)))
    return total
