"""Build the code for AVX-512 with VNNI so that a processor with AVX2 runs it.

    python -m tests.helpers.wide_code OUTPUT

Each instruction that this processor may lack becomes a function that does the same. The rest is
what ships: which lanes hold what, and in which order sums are added up. Numba reads its settings
once, so this needs a process that begins with `NUMBA_SETTINGS` in its environment.
"""

from __future__ import annotations

import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from tinyrwkv.native.build import compile_object, emit_ir, with_lookups, with_products
from tinyrwkv.native.link import link
from tinyrwkv.native.llvm import (
    I8,
    I16,
    I32,
    Builder,
    Value,
    call,
    constant,
    joined,
    take,
    vector_of,
)
from tinyrwkv.native.recipes import RECIPES

BYTES, SHORTS, NUMBERS = vector_of(I8, 64), vector_of(I16, 32), vector_of(I32, 16)
INSTRUCTION = re.compile(r'@"?(llvm\.x86\.avx512\.[\w.]+)"?(?=\()')


def add_products_of_bytes(builder: Builder, total: Value, a: Value, b: Value) -> Value:
    """vpdpbusd: add to each number four products, of bytes without sign and bytes with it."""
    wide = vector_of(I32, 64)
    a = builder.zext(builder.bitcast(a, BYTES), wide)
    b = builder.sext(builder.bitcast(b, BYTES), wide)
    return _plus_sums(builder, total, builder.mul(a, b), 4)


def add_products_of_shorts(builder: Builder, total: Value, a: Value, b: Value) -> Value:
    """vpdpwssd: add to each number two products of shorts."""
    wide = vector_of(I32, 32)
    a = builder.sext(builder.bitcast(a, SHORTS), wide)
    b = builder.sext(builder.bitcast(b, SHORTS), wide)
    return _plus_sums(builder, total, builder.mul(a, b), 2)


def _plus_sums(builder: Builder, total: Value, products: Value, count: int) -> Value:
    """Add to each number so many products that follow each other."""
    for first in range(count):
        lanes = range(first, products.type.count, count)
        total = builder.add(total, take(builder, products, lanes))
    return total


def pack(builder: Builder, a: Value, b: Value) -> Value:
    """vpackssdw: narrow numbers to shorts; 16 bytes have four of a, then four of b."""
    shorts = []
    for numbers in (a, b):
        most, least = constant(NUMBERS, 32767), constant(NUMBERS, -32768)
        numbers = call(builder, "llvm.smin.v16i32", NUMBERS, numbers, most)
        numbers = call(builder, "llvm.smax.v16i32", NUMBERS, numbers, least)
        shorts.append(builder.trunc(numbers, vector_of(I16, 16)))
    lanes = [
        16 * which + four + i for four in range(0, 16, 4) for which in (0, 1) for i in range(4)
    ]
    return joined(builder, *shorts, lanes)


def look_up(builder: Builder, table: Value, places: Value) -> Value:
    """vpshufb: look bytes up within 16 bytes, in halves that AVX2 knows."""
    half = vector_of(I8, 32)
    found = []
    for lanes in (range(32), range(32, 64)):
        inputs = take(builder, table, lanes), take(builder, places, lanes)
        found.append(call(builder, "llvm.x86.avx2.pshuf.b", half, *inputs))
    return joined(builder, *found, range(64))


FUNCTIONS: dict[str, tuple[Callable[..., Value], Any, Sequence[Any]]] = {
    "llvm.x86.avx512.vpdpbusd.512": (add_products_of_bytes, NUMBERS, [NUMBERS] * 3),
    "llvm.x86.avx512.vpdpwssd.512": (add_products_of_shorts, NUMBERS, [NUMBERS] * 3),
    "llvm.x86.avx512.packssdw.512": (pack, SHORTS, [NUMBERS] * 2),
    "llvm.x86.avx512.pshuf.b.512": (look_up, BYTES, [BYTES] * 2),
}
"""What stands for each instruction: its code, its result, and its operands."""


def definitions(names: Sequence[str]) -> str:
    """Return functions that stand for instructions, as LLVM code; their names begin with one."""
    module = ir.Module()
    for name in names:
        emit, result, operands = FUNCTIONS[name]
        function = ir.Function(module, ir.FunctionType(result, operands), _stand_in(name))
        builder = ir.IRBuilder(function.append_basic_block())
        builder.ret(emit(builder, *function.args))
    return "\n".join(str(each) for each in module.globals.values())


def _stand_in(name: str) -> str:
    return "instead_of_" + name


def without_instructions(code: str) -> str:
    """Return LLVM code that calls functions where it called instructions of AVX-512."""
    lines = code.splitlines()
    defined = [line for line in lines if not (line.startswith("declare") and "avx512" in line)]
    replaced = INSTRUCTION.sub(lambda found: f'@"{_stand_in(found[1])}"', "\n".join(defined))
    return replaced + "\n" + definitions(sorted({*INSTRUCTION.findall(code)}))


def main() -> None:
    """Write the shared object."""
    wide, here = RECIPES["x86-64-vnni"], RECIPES["x86-64-v3"]
    code = emit_ir(True, wide=True, product_bytes=64)
    code = with_products(with_lookups(code, wide.lookup), wide.products)
    built = compile_object(without_instructions(code), here)
    pathlib.Path(sys.argv[1]).write_bytes(link(built, here))


if __name__ == "__main__":
    main()
