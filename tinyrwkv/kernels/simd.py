"""What the kernels need and Python cannot say: pointers, vector dot products, bit casts, atomics.

Each intrinsic emits LLVM code for no machine in particular, so that the same kernels compile for
every instruction set; ``PAIRS``, ``native/lookup.py`` and ``native/products.py`` are exceptions.
This code and not the machine fixes the order of floating point sums: 16 partial sums and one tree.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import config

from ..native.llvm import (
    F32,
    I8,
    I16,
    I32,
    I64,
    Builder,
    Value,
    Vector,
    apart,
    call,
    call_own,
    constant,
    emitter,
    load,
    loop,
    opaque,
    pointer,
    splat,
    take,
    vector_of,
)
from ..native.lookup import NAME, define_add_codes
from ..native.processor import byte_lookup, has_wide_registers, machine

_i32, _i64 = types.int32, types.int64

LANES = 16
"""Partial sums of a dot product."""

PAIRS = platform.machine().lower() in ("x86_64", "amd64", "i686", "i386")
"""Whether products are summed as even and odd ones, or by LLVM's reduction intrinsic.

LLVM turns the sum of even and odd products into pmaddwd or vpdpwssd on x86, and the reduction into
smlal or sdot on ARM. The other form of each is three times slower. Both give the same integers.
"""

SCALAR = False
"""Whether the processor has no vectors: ``tinyrwkv-build-kernels`` sets it for microcontrollers.

Vectors would become code for each of their numbers, 180 kB in all, and fill more registers than
there are. The results are the same: integers in any order, floats in the order of vectors.
"""

# The instruction of this machine that looks bytes up in a table, "" for none. It is used only if
# Numba compiles for all that the machine can.
_HERE = frozenset(name for name, there in binding.get_host_cpu_features().items() if there)
_ALL_USED = not config.CPU_NAME and not config.CPU_FEATURES and config.ENABLE_AVX
LOOKUP = byte_lookup(machine(), _HERE) if _ALL_USED else ""

WIDE = _ALL_USED and has_wide_registers(machine(), _HERE)
"""Whether there are 32 vector registers of 64 bytes: room for 16 sums of 16 lanes."""

BYTES = 0
"""How many bytes the instruction multiplies that adds up products of bytes; 0 without one.

``tinyrwkv-build-kernels`` sets it for a target. Numba's code does without.
"""

f32_at = pointer(types.float32, F32)
i64_at = pointer(types.int64, I64)
i32_at = pointer(types.int32, I32)
i16_at = pointer(types.int16, I16)
i8_at = pointer(types.int8, I8)
u16_at = pointer(types.uint16, I16)
u8_at = pointer(types.uint8, I8)

float_from_bits = emitter(types.float32, (types.int32,), lambda b, bits: b.bitcast(bits, F32))
bits_from_float = emitter(types.int32, (types.float32,), lambda b, x: b.bitcast(x, I32))

# Correctly rounded, an instruction everywhere; not a call of libm.
square_root = emitter(
    types.float32, (types.float32,), lambda b, x: call(b, "llvm.sqrt.f32", F32, x)
)

# For int32 in memory that threads share; the first returns what was there.
_SHARED = types.CPointer(types.int32)
atomic_add = emitter(
    types.int32, (_SHARED, types.int32), lambda b, at, n: b.atomic_rmw("add", at, n, "seq_cst")
)
atomic_load = emitter(
    types.int32, (_SHARED,), lambda b, at: b.load_atomic(at, "seq_cst", 4, typ=I32)
)
atomic_store = emitter(
    types.void, (_SHARED, types.int32), lambda b, at, n: b.store_atomic(n, at, "seq_cst", 4)
)


NEAR, NEAREST = 2, 3
"""Into which cache a line is fetched: the second, or the first."""


def fetch(builder: Builder, address: Value, cache: int = NEAR) -> None:
    """Begin to read the line of an address."""
    to_read, data = I32(0), I32(1)
    at = opaque(builder, address)
    call(builder, "llvm.prefetch.p0", ir.VoidType(), at, to_read, I32(cache), data)


prefetch = emitter(types.void, (types.int64,), fetch)


def _yield(builder: Builder) -> None:
    if platform.system() != "Windows":  # which has no sched_yield
        call(builder, "sched_yield", I32)


yield_processor = emitter(types.void, (), _yield)


def _shape(element: Any, like: Any) -> Any:
    """Return the type of one number, or of as many numbers as a vector type has."""
    return element if isinstance(like, ir.IntType) else vector_of(element, like.count)


def half_of(builder: Builder, bits: Value) -> Value:
    """Widen float16 bits to float32 with integer shifts: not every board has the instruction.

    One number, or a vector of them. A shift by 13 makes the exponent 112 too small. Between the
    sign and the exponent, it leaves copies of the sign.
    """

    def constant(element: Any, value: float) -> Value:
        shape = _shape(element, bits.type)
        return ir.Constant(shape, value if shape is element else [value] * bits.type.count)

    integers, floats = _shape(I32, bits.type), _shape(F32, bits.type)
    shifted = builder.shl(builder.sext(bits, integers), constant(I32, 13))
    signed = builder.and_(shifted, constant(I32, ~0x70000000))
    return builder.fmul(builder.bitcast(signed, floats), constant(F32, 2.0**112))


half = emitter(types.float32, (types.uint16,), half_of)


def add_pairs(builder: Builder, total: Value, product: Value) -> Value:
    """Add products to half as many sums, two to each; which two, the machine may choose."""
    lanes = total.type.count
    if PAIRS:
        even = take(builder, product, range(0, 2 * lanes, 2))
        odd = take(builder, product, range(1, 2 * lanes, 2))
        return builder.add(total, builder.add(even, odd))
    name = f"llvm.vector.partial.reduce.add.v{lanes}i32.v{2 * lanes}i32"
    return call(builder, name, total.type, total, product)


class _Integer:
    """Dot products of int8 rows with int16 activations, in int32."""

    per_lane = 2  # elements that one step adds to a partial sum
    total, weight, other = I32, I8, I16
    add = staticmethod(ir.IRBuilder.add)

    @staticmethod
    def widen(builder: Builder, w: Value, x: Value) -> tuple[Value, Value]:
        wide = _shape(I32, w.type)
        return builder.sext(w, wide), builder.sext(x, wide)

    @staticmethod
    def multiply_add(builder: Builder, total: Value, w: Value, x: Value) -> Value:
        product = builder.mul(w, x)
        if isinstance(product.type, ir.IntType):
            return builder.add(total, product)
        return add_pairs(builder, total, product)


class _Float:
    """Dot products of float32 rows with float32 activations."""

    per_lane = 1
    total, weight, other = F32, F32, F32
    add = staticmethod(ir.IRBuilder.fadd)

    @staticmethod
    def widen(builder: Builder, w: Value, x: Value) -> tuple[Value, Value]:
        return w, x

    @staticmethod
    def multiply_add(builder: Builder, total: Value, w: Value, x: Value) -> Value:
        return builder.fadd(total, builder.fmul(w, x))


class _Half(_Float):
    """Dot products of float16 rows with float32 activations."""

    weight = I16

    @staticmethod
    def widen(builder: Builder, w: Value, x: Value) -> tuple[Value, Value]:
        return half_of(builder, w), x


def _narrow(builder: Builder, kind: Any, total: Value, width: int) -> Value:
    """Add up halves of a sum, as a tree, until it has `width` lanes."""
    while total.type.count > width:
        middle = total.type.count // 2
        low = take(builder, total, range(middle))
        high = take(builder, total, range(middle, 2 * middle))
        total = kind.add(builder, low, high)
    return total


def _loop(
    builder: Builder,
    kind: Any,
    rows: tuple[list[Value], list[Value]],
    span: tuple[Value, Value],
    count: int,
    totals: list[Value],
) -> list[Value]:
    """Add the products of elements `span` of every pair of rows to its total, `count` at a time.

    `rows` are the addresses of rows of weights and of activations.
    """

    def add(j: Value, totals: list[Value]) -> list[Value]:
        ws = [load(builder, address, j, kind.weight, count) for address in rows[0]]
        xs = [load(builder, address, j, kind.other, count) for address in rows[1]]
        pairs = [kind.widen(builder, w, x) for w in ws for x in xs]
        return [
            kind.multiply_add(builder, total, w, x)
            for total, (w, x) in zip(totals, pairs, strict=True)
        ]

    return loop(builder, span, count, totals, add)


def _sums(
    builder: Builder,
    kind: Any,
    rows: tuple[list[Value], list[Value]],
    n: Value,
    widths: tuple[int, ...],
) -> list[Value]:
    """Return the dot product of every pair of rows, in partial sums as `_dots` says."""
    zeros = ir.Constant(vector_of(kind.total, widths[0]), None)
    done, totals = I32(0), [zeros] * (len(rows[0]) * len(rows[1]))
    for width in widths:
        step = kind.per_lane * width
        whole = builder.sub(n, builder.srem(n, I32(step)))
        totals = [_narrow(builder, kind, total, width) for total in totals]
        totals = _loop(builder, kind, rows, (done, whole), step, totals)
        done = whole
    sums = [builder.extract_element(_narrow(builder, kind, total, 1), I32(0)) for total in totals]
    return _loop(builder, kind, rows, (done, n), 1, sums)


def _scalar_sums(
    builder: Builder,
    kind: Any,
    rows: tuple[list[Value], list[Value]],
    n: Value,
    widths: tuple[int, ...],
) -> list[Value]:
    """Return the same with as few sums at a time as a processor without vectors has registers."""
    w_rows, x_rows = rows
    if kind is not _Integer:
        pairs = [([w], [x]) for w in w_rows for x in x_rows]
        return [_sums(builder, kind, pair, n, widths)[0] for pair in pairs]
    # Several rows with one token, or one row with several tokens.
    parts = [rows] if len(x_rows) == 1 else [([w], x_rows) for w in w_rows]
    sums = []
    for part in parts:
        zeros = [I32(0)] * (len(part[0]) * len(part[1]))
        sums += _loop(builder, kind, part, (I32(0), n), 1, zeros)
    return sums


def _dots(kind: Any, rows: int, tokens: int, *widths: int) -> Any:
    """Make the intrinsic that multiplies `rows` rows of weights with `tokens` vectors.

    ``dots(w, w_stride, x, x_stride, n, out, out_stride)``: addresses and strides in bytes, n
    elements. It gives sum_j w[r, j] * x[t, j] for every row r and token t, each in 16 partial sums
    over j, which a tree adds up, and then the rest of n. The results are `out_stride` apart. One of
    `rows` and `tokens` is 1.

    Parameters
    ----------
    kind : type
        The types of the numbers, and how they are multiplied.
    rows, tokens : int
    *widths : int
        Partial sums, fewer in each loop: the next one adds what the one before leaves of n.
    """

    def emit(builder: Builder, *given: Value) -> None:
        w, w_stride, x, x_stride, n, out, out_stride = given
        w_rows, x_rows = apart(builder, w, w_stride, rows), apart(builder, x, x_stride, tokens)
        _store_dots(builder, kind, (w_rows, x_rows), n, widths, (out, out_stride))

    return emitter(types.void, (_i64, _i64, _i64, _i64, _i32, _i64, _i64), emit)


def _store_dots(
    builder: Builder,
    kind: Any,
    rows: tuple[list[Value], list[Value]],
    n: Value,
    widths: tuple[int, ...],
    places: tuple[Value, Value],
) -> None:
    """Store the dot product of every pair of rows from an address on, so many bytes apart."""
    sums = (_scalar_sums if SCALAR else _sums)(builder, kind, rows, n, widths)
    for total, at in zip(sums, apart(builder, *places, len(sums)), strict=True):
        builder.store(total, opaque(builder, at), align=4)


dots_i8 = _dots(_Integer, 1, 1, LANES)
_FOUR_WIDTHS = (LANES, 4)  # little is left for the tail
dots_i8_four = _dots(_Integer, 4, 1, *_FOUR_WIDTHS)
dots_f32 = _dots(_Float, 1, 1, LANES)
dots_f32_block = _dots(_Float, 1, 4, LANES)
dots_f16 = _dots(_Half, 1, 1, LANES)
dots_f16_block = _dots(_Half, 1, 4, LANES)


def _rows(builder: Builder, *given: Value) -> None:
    """Multiply rows of each part with one token, a row of each part at once."""
    w, w_bytes, rows, between, x, n, out, out_apart = given
    parts, widths = (4, _FOUR_WIDTHS) if PAIRS else (2, (LANES,))

    def multiply(row: Value, carried: list[Value]) -> list[Value]:
        wide = builder.sext(row, I64)
        ws = apart(builder, builder.add(w, builder.mul(wide, w_bytes)), between, parts)
        y = builder.add(out, builder.mul(wide, I64(4)))
        _store_dots(builder, _Integer, (ws, [x]), n, widths, (y, out_apart))
        return []

    loop(builder, (I32(0), rows), 1, [], multiply)


def in_own_function(name: str, write: Callable[..., None]) -> Callable[..., None]:
    """Return ``emit(builder, *arguments)`` that calls a function of this name, written by `write`.

    So it has all vector registers for itself. Without vectors, its code is shorter in its callers.
    """

    def emit(builder: Builder, *arguments: Value) -> None:
        if SCALAR:
            write(builder, *arguments)
        else:
            call_own(builder, name, write, arguments)

    return emit


_ROWS = (_i64, _i64, _i32, _i64, _i64, _i32, _i64, _i64)
rows_i8 = emitter(types.void, _ROWS, in_own_function("tinyrwkv_rows_i8", _rows))
"""``rows_i8(w, w_bytes, rows, apart, x, n, out, out_apart)``: products of int8 rows, int32.

The first part has `rows` rows that follow each other from w on, and those of the next part begin
`apart` bytes later. There are four parts with PAIRS, else two. The results of a part follow each
other, and those of the parts lie `out_apart` bytes apart.
"""


def _load_and_store(kind: Vector) -> tuple[Any, Any]:
    """Make ``load(address)`` and ``store(address, v)`` for vectors of numbers of 4 bytes."""

    def load(builder: Builder, address: Value) -> Value:
        return builder.load(opaque(builder, address), align=4, typ=kind.shape)

    def store(builder: Builder, address: Value, v: Value) -> None:
        builder.store(v, opaque(builder, address), align=4)

    return emitter(kind, (types.int64,), load), emitter(types.void, (types.int64, kind), store)


def vectors(lanes: int) -> tuple[Any, Any, Any, Any]:
    """Make load, store, scale and add_scaled for vectors of `lanes` float32.

    ``load(address)``, ``store(address, v)``, ``scale(v, s)`` = v s, ``add_scaled(u, v, s)`` = u +
    v s.
    """
    kind = Vector(F32, lanes)

    def scale(builder: Builder, v: Value, s: Value) -> Value:
        return builder.fmul(v, splat(builder, s, kind.shape))

    def add_scaled(builder: Builder, u: Value, v: Value, s: Value) -> Value:
        return builder.fadd(u, scale(builder, v, s))

    return (
        *_load_and_store(kind),
        emitter(kind, (kind, types.float32), scale),
        emitter(kind, (kind, kind, types.float32), add_scaled),
    )


def store_past_caches(lanes: int) -> Any:
    """Make ``store(address, v)`` for `lanes` float32 that are not read again soon.

    The address must be a multiple of 16.
    """
    kind = Vector(F32, lanes)

    def store(builder: Builder, address: Value, v: Value) -> None:
        for i in range(0, lanes, 4):
            four = take(builder, v, range(i, i + 4))
            at = builder.add(address, I64(4 * i))
            stored = builder.store(four, opaque(builder, at), align=16)
            stored.set_metadata("nontemporal", builder.module.add_metadata([I32(1)]))

    return emitter(types.void, (types.int64, kind), store)


def integer_vectors(lanes: int) -> tuple[Any, Any, Any]:
    """Make load, store and add_row for vectors of `lanes` int32.

    ``load(address)``, ``store(address, v)``, ``add_row(v, address, q)`` = v + q w with int8 weights
    w at an address.
    """
    kind = Vector(I32, lanes)

    def add_row(builder: Builder, v: Value, address: Value, q: Value) -> Value:
        w = builder.load(opaque(builder, address), align=1, typ=vector_of(I8, lanes))
        wide = builder.sext(w, kind.shape)
        return builder.add(v, builder.mul(wide, splat(builder, q, kind.shape)))

    return (
        *_load_and_store(kind),
        emitter(kind, (kind, types.int64, types.int32), add_row),
    )


_COUNTS = Vector(I16, 64)
_SUMS = vector_of(I32, 64)


def code_table(bits: int) -> Any:
    """Make ``table(x, out)``: sum_j (2 c_j - (2^bits - 1)) u_j + 512 for the codes of half a byte.

    Code j, from the low bits on, multiplies u_j = round(x_j / 256) of the int16 x_j at an address;
    u_j must be so small that no sum is above 511. The low 5 bits of the 16 sums are stored first,
    then the high ones.
    """
    shape = vector_of(I16, 16)

    def table(builder: Builder, x: Value, out: Value) -> None:
        total = ir.Constant(shape, [512] * 16)
        for j in range(4 // bits):
            x_j = load(builder, x, I32(j), I16, 1)
            u = builder.ashr(builder.add(x_j, I16(128)), I16(8))
            codes = [half_byte >> bits * j & 2**bits - 1 for half_byte in range(16)]
            factors = ir.Constant(shape, [2 * code - (2**bits - 1) for code in codes])
            total = builder.add(total, builder.mul(splat(builder, u, shape), factors))
        low = builder.and_(total, constant(shape, 31))
        high = builder.lshr(total, constant(shape, 5))
        for i, bits_of_sums in enumerate((low, high)):
            at = builder.add(out, I64(16 * i))
            narrow = builder.trunc(bits_of_sums, vector_of(I8, 16))
            builder.store(narrow, opaque(builder, at), align=1)

    return emitter(types.void, (types.int64, types.int64), table)


def _add_codes(builder: Builder, total: Value, codes: Value, tables: Value) -> Value:
    """Add the sums that 64 rows have in 4 bytes of codes each, by 8 tables of 32 bytes."""
    function = builder.module.globals.get(NAME) or define_add_codes(builder.module, LOOKUP)
    return builder.call(function, [total, codes, tables])


def _add_counts(builder: Builder, out: Value, counts: Value) -> None:
    """Add counts, without a sign, to int32 at an address."""
    before = builder.load(opaque(builder, out), align=4, typ=_SUMS)
    after = builder.add(before, builder.zext(counts, _SUMS))
    builder.store(after, opaque(builder, out), align=4)


no_counts = emitter(_COUNTS, (types.int64,), lambda b, _: ir.Constant(_COUNTS.shape, None))
add_codes = emitter(_COUNTS, (_COUNTS, types.int64, types.int64), _add_codes)
add_counts = emitter(types.void, (types.int64, _COUNTS), _add_counts)
