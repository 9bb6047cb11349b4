"""What the kernels need and Python cannot say: pointers, vector dot products, bit casts, atomics.

Each intrinsic emits target-neutral LLVM code, so the same kernels compile for every instruction set; but see
``PAIRS`` and ``native/lookup.py``. The order of floating point sums is fixed by this code and not by the machine: 16
partial sums and one tree.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import config
from numba.extending import intrinsic

from ..native.llvm import (
    F32,
    I8,
    I16,
    I32,
    I64,
    Vector,
    call,
    emitter,
    load,
    opaque,
    pointer,
    splat,
    take,
    vector_of,
)
from ..native.lookup import NAME, define_add_codes
from ..native.targets import byte_lookup, machine

LANES = 16

# LLVM turns the sum of even and odd products into pmaddwd or vpdpwssd on x86, and the reduction intrinsic into
# smlal or sdot on ARM; the other form of each is three times slower. Both give the same integers.
PAIRS = platform.machine().lower() in ("x86_64", "amd64", "i686", "i386")


# The instruction of this machine for bytes from a table, if Numba compiles for all that the machine can.
_HERE = frozenset(name for name, there in binding.get_host_cpu_features().items() if there)
_ALL_USED = not config.CPU_NAME and not config.CPU_FEATURES and config.ENABLE_AVX
LOOKUP = byte_lookup(machine(), _HERE) if _ALL_USED else ""


f32_at, i64_at = pointer(types.float32, F32), pointer(types.int64, I64)
i32_at, i16_at, i8_at = (
    pointer(types.int32, I32),
    pointer(types.int16, I16),
    pointer(types.int8, I8),
)
u16_at, u8_at = pointer(types.uint16, I16), pointer(types.uint8, I8)

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


def _prefetch(builder: Any, address: Any) -> None:
    call(
        builder, "llvm.prefetch.p0", ir.VoidType(), opaque(builder, address), I32(0), I32(2), I32(1)
    )


prefetch = emitter(types.void, (types.int64,), _prefetch)


def _yield(builder: Any) -> None:
    if platform.system() != "Windows":  # which has no sched_yield
        call(builder, "sched_yield", I32)


yield_processor = emitter(types.void, (), _yield)


def _half(builder: Any, bits: Any) -> Any:
    """Widen float16 bits to float32 with integer shifts: not every board has the instruction."""
    shape = (
        (lambda t: t)
        if isinstance(bits.type, ir.IntType)
        else (lambda t: vector_of(t, bits.type.count))
    )

    def constant(element: Any, value: Any) -> Any:
        return ir.Constant(
            shape(element), value if shape(element) is element else [value] * bits.type.count
        )

    wide = builder.zext(bits, shape(I32))
    magnitude = builder.shl(builder.and_(wide, constant(I32, 0x7FFF)), constant(I32, 13))
    sign = builder.shl(builder.and_(wide, constant(I32, 0x8000)), constant(I32, 16))
    scaled = builder.fmul(builder.bitcast(magnitude, shape(F32)), constant(F32, 2.0**112))
    return builder.bitcast(builder.or_(builder.bitcast(scaled, shape(I32)), sign), shape(F32))


half = emitter(types.float32, (types.uint16,), _half)


class _Integer:
    """Dot products of int8 rows with int16 activations, in int32."""

    per_lane, total, weight, other, add = 2, I32, I8, I16, staticmethod(ir.IRBuilder.add)

    @staticmethod
    def widen(builder: Any, w: Any, x: Any) -> tuple[Any, Any]:
        wide = I32 if isinstance(w.type, ir.IntType) else vector_of(I32, w.type.count)
        return builder.sext(w, wide), builder.sext(x, wide)

    @staticmethod
    def multiply_add(builder: Any, total: Any, w: Any, x: Any) -> Any:
        product = builder.mul(w, x)
        if isinstance(product.type, ir.IntType):
            return builder.add(total, product)
        lanes = total.type.count
        if PAIRS:
            even, odd = (take(builder, product, range(i, 2 * lanes, 2)) for i in (0, 1))
            return builder.add(total, builder.add(even, odd))
        name = f"llvm.vector.partial.reduce.add.v{lanes}i32.v{2 * lanes}i32"
        return call(builder, name, total.type, total, product)


class _Float:
    """Dot products of float32 rows with float32 activations."""

    per_lane, total, weight, other, add = 1, F32, F32, F32, staticmethod(ir.IRBuilder.fadd)

    widen = staticmethod(lambda builder, w, x: (w, x))
    multiply_add = staticmethod(
        lambda builder, total, w, x: builder.fadd(total, builder.fmul(w, x))
    )


class _Half(_Float):
    """Dot products of float16 rows with float32 activations."""

    weight, widen = I16, staticmethod(lambda builder, w, x: (_half(builder, w), x))


def _dots(kind: Any, rows: int, tokens: int, *widths: int) -> Any:
    """Make the intrinsic that multiplies `rows` rows of weights with `tokens` vectors of activations.

    ``dots(w, w_stride, x, x_stride, n, out, out_stride)``: addresses and strides in bytes, n elements;
    out[t, r] = sum_j w[r, j] * x[t, j], each in 16 partial sums over j, one tree, then the tail of n.
    The results of a token follow each other, `out_stride` after those of the token before; with one token, it is the
    results of rows that are so far apart.
    """

    @intrinsic
    def dots(
        typingctx: Any,
        w: Any,
        w_stride: Any,
        x: Any,
        x_stride: Any,
        n: Any,
        out: Any,
        out_stride: Any,
    ) -> Any:
        i64 = types.int64
        return types.void(i64, i64, i64, i64, types.int32, i64, i64), codegen

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        w, w_stride, x, x_stride, n, out, out_stride = args
        w_rows = [builder.add(w, builder.mul(w_stride, I64(r))) for r in range(rows)]
        x_rows = [builder.add(x, builder.mul(x_stride, I64(t))) for t in range(tokens)]

        def loop(start: Any, stop: Any, count: int, totals: list[Any]) -> list[Any]:
            """Add `count` elements at a time to the totals; a loop of LLVM blocks around phi nodes."""
            before = builder.block
            head, body, after = (
                builder.append_basic_block(name) for name in ("head", "body", "after")
            )
            builder.branch(head)
            builder.position_at_end(head)
            j = builder.phi(I32)
            j.add_incoming(start, before)
            carried = [builder.phi(total.type) for total in totals]
            for phi, total in zip(carried, totals, strict=True):
                phi.add_incoming(total, before)
            builder.cbranch(builder.icmp_signed("<", j, stop), body, after)
            builder.position_at_end(body)
            ws = [load(builder, address, j, kind.weight, count) for address in w_rows]
            xs = [load(builder, address, j, kind.other, count) for address in x_rows]
            pairs = [kind.widen(builder, a, b) for a in ws for b in xs]
            added = [
                kind.multiply_add(builder, c, a, b)
                for c, (a, b) in zip(carried, pairs, strict=True)
            ]
            j.add_incoming(builder.add(j, I32(count)), builder.block)
            for phi, total in zip(carried, added, strict=True):
                phi.add_incoming(total, builder.block)
            builder.branch(head)
            builder.position_at_end(after)
            return carried

        def narrow(total: Any, width: int) -> Any:
            """Add up halves of a sum as a tree until it has so many lanes."""
            while total.type.count > width:
                half = total.type.count // 2
                total = kind.add(
                    builder,
                    take(builder, total, range(half)),
                    take(builder, total, range(half, 2 * half)),
                )
            return total

        done, totals = (
            I32(0),
            [ir.Constant(vector_of(kind.total, widths[0]), None)] * (rows * tokens),
        )
        for width in widths:
            step = kind.per_lane * width
            whole = builder.sub(n, builder.srem(n, I32(step)))
            totals = loop(done, whole, step, [narrow(total, width) for total in totals])
            done = whole
        sums = [builder.extract_element(narrow(total, 1), I32(0)) for total in totals]
        for i, total in enumerate(loop(done, n, 1, sums)):
            row, token = divmod(i, tokens)
            apart, near = (token, 4 * row) if tokens > 1 else (row, 0)
            offset = builder.add(builder.mul(out_stride, I64(apart)), I64(near))
            pointer = builder.inttoptr(builder.add(out, offset), ir.PointerType())
            builder.store(total, pointer, align=4)
        return context.get_dummy_value()

    return dots


dots_i8 = _dots(_Integer, 1, 1, LANES)
dots_i8_pair = _dots(_Integer, 2, 1, LANES)
dots_i8_four = _dots(_Integer, 4, 1, LANES, 4)  # little is left for the tail
dots_i8_block = _dots(_Integer, 2, 4, 8)  # sums that fit in 16 vector registers
dots_f32 = _dots(_Float, 1, 1, LANES)
dots_f32_block = _dots(_Float, 1, 4, LANES)
dots_f16 = _dots(_Half, 1, 1, LANES)
dots_f16_block = _dots(_Half, 1, 4, LANES)


def vectors(lanes: int) -> tuple[Any, Any, Any, Any]:
    """Make load, store, scale and add_scaled for vectors of so many float32.

    ``load(address)``, ``store(address, v)``, ``scale(v, s)`` = v s, ``add_scaled(u, v, s)`` = u + v s.
    """
    kind = Vector(F32, lanes)

    def scale(builder: Any, v: Any, s: Any) -> Any:
        return builder.fmul(v, splat(builder, s, kind.shape))

    return (
        emitter(kind, (types.int64,), lambda b, at: b.load(opaque(b, at), align=4, typ=kind.shape)),
        emitter(
            types.void, (types.int64, kind), lambda b, at, v: b.store(v, opaque(b, at), align=4)
        ),
        emitter(kind, (kind, types.float32), scale),
        emitter(kind, (kind, kind, types.float32), lambda b, u, v, s: b.fadd(u, scale(b, v, s))),
    )


def store_past_caches(lanes: int) -> Any:
    """Make ``store(address, v)`` for so many float32 that are not read again soon; the address a multiple of 16."""
    kind = Vector(F32, lanes)

    def store(builder: Any, address: Any, v: Any) -> None:
        for i in range(0, lanes, 4):
            part, at = take(builder, v, range(i, i + 4)), builder.add(address, I64(4 * i))
            stored = builder.store(part, opaque(builder, at), align=16)
            stored.set_metadata("nontemporal", builder.module.add_metadata([I32(1)]))

    return emitter(types.void, (types.int64, kind), store)


def integer_vectors(lanes: int) -> tuple[Any, Any, Any]:
    """Make load, store and add_row for vectors of so many int32.

    ``load(address)``, ``store(address, v)``, ``add_row(v, address, q)`` = v + q w with int8 weights w at an address.
    """
    kind = Vector(I32, lanes)

    def add_row(builder: Any, v: Any, address: Any, q: Any) -> Any:
        w = builder.load(opaque(builder, address), align=1, typ=vector_of(I8, lanes))
        return builder.add(
            v, builder.mul(builder.sext(w, kind.shape), splat(builder, q, kind.shape))
        )

    return (
        emitter(kind, (types.int64,), lambda b, at: b.load(opaque(b, at), align=4, typ=kind.shape)),
        emitter(
            types.void, (types.int64, kind), lambda b, at, v: b.store(v, opaque(b, at), align=4)
        ),
        emitter(kind, (kind, types.int64, types.int32), add_row),
    )


_COUNTS = Vector(I16, 64)
_SUMS = vector_of(I32, 64)


def code_table(bits: int) -> Any:
    """Make ``table(x, out)``: the 16 sums of (2 c_j - (2^bits - 1)) u_j + 512 over the codes of half a byte.

    Code j, from the low bits on, multiplies u_j = round(x_j / 256) of the int16 x_j at an address; u_j must be so small
    that no sum is above 511. The low 5 bits of all sums are stored first, then the high ones.
    """
    shape = vector_of(I16, 16)

    def table(builder: Any, x: Any, out: Any) -> None:
        total = ir.Constant(shape, [512] * 16)
        for j in range(4 // bits):
            u = builder.ashr(builder.add(load(builder, x, I32(j), I16, 1), I16(128)), I16(8))
            factors = [2 * (place >> bits * j & 2**bits - 1) - (2**bits - 1) for place in range(16)]
            total = builder.add(
                total, builder.mul(splat(builder, u, shape), ir.Constant(shape, factors))
            )
        five, ones = (ir.Constant(shape, [value] * 16) for value in (5, 31))
        for i, part in enumerate((builder.and_(total, ones), builder.lshr(total, five))):
            at = builder.add(out, I64(16 * i))
            builder.store(builder.trunc(part, vector_of(I8, 16)), opaque(builder, at), align=1)

    return emitter(types.void, (types.int64, types.int64), table)


def _add_codes(builder: Any, total: Any, codes: Any, tables: Any) -> Any:
    """Add the sums of 8 tables of 32 bytes that 64 rows, side by side, have in 4 bytes of codes each."""
    function = builder.module.globals.get(NAME) or define_add_codes(builder.module, LOOKUP)
    return builder.call(function, [total, codes, tables])


def _add_counts(builder: Any, out: Any, counts: Any) -> None:
    """Add counts, without a sign, to int32 at an address."""
    before = builder.load(opaque(builder, out), align=4, typ=_SUMS)
    builder.store(builder.add(before, builder.zext(counts, _SUMS)), opaque(builder, out), align=4)


no_counts = emitter(_COUNTS, (types.int64,), lambda b, _: ir.Constant(_COUNTS.shape, None))
add_codes = emitter(_COUNTS, (_COUNTS, types.int64, types.int64), _add_codes)
add_counts = emitter(types.void, (types.int64, _COUNTS), _add_counts)
