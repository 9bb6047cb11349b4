"""What the kernels need and Python cannot say: pointers, vector dot products, bit casts, atomics.

Each intrinsic emits target-neutral LLVM code, so the same kernels compile for every instruction set. The order of
floating point sums is fixed by this code and not by the machine: 16 partial sums and one tree.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

I8, I16, I32, I64, F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
LANES = 16

# LLVM turns the sum of even and odd products into pmaddwd or vpdpwssd on x86, and the reduction intrinsic into
# smlal or sdot on ARM; the other form of each is three times slower. Both give the same integers.
PAIRS = platform.machine().lower() in ("x86_64", "amd64", "i686", "i386")


def _emitter(result: types.Type, arguments: tuple[types.Type, ...], emit: Any) -> Any:
    """Make an intrinsic of up to three arguments from ``emit(builder, *arguments)``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = emit(builder, *args)
        return context.get_dummy_value() if result is types.void else value

    typed = result(*arguments), codegen
    takes: tuple[Any, ...] = (lambda c: typed, lambda c, x: typed, lambda c, x, y: typed, lambda c, x, y, z: typed)
    return intrinsic(takes[len(arguments)])


def _call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    """Call a function of LLVM, or of the C library."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _opaque(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, ir.PointerType())


def _pointer(element: types.Type, code: Any) -> Any:
    """Make the intrinsic that turns an address into a typed pointer."""
    return _emitter(types.CPointer(element), (types.int64,), lambda b, at: b.inttoptr(at, code.as_pointer()))


f32_at, i64_at = _pointer(types.float32, F32), _pointer(types.int64, I64)
i32_at, i16_at, i8_at = _pointer(types.int32, I32), _pointer(types.int16, I16), _pointer(types.int8, I8)
u16_at, u8_at = _pointer(types.uint16, I16), _pointer(types.uint8, I8)

float_from_bits = _emitter(types.float32, (types.int32,), lambda b, bits: b.bitcast(bits, F32))
bits_from_float = _emitter(types.int32, (types.float32,), lambda b, x: b.bitcast(x, I32))

# Correctly rounded, an instruction everywhere; not a call of libm.
square_root = _emitter(types.float32, (types.float32,), lambda b, x: _call(b, "llvm.sqrt.f32", F32, x))

# For int32 in memory that threads share; the first returns what was there.
_SHARED = types.CPointer(types.int32)
atomic_add = _emitter(types.int32, (_SHARED, types.int32), lambda b, at, n: b.atomic_rmw("add", at, n, "seq_cst"))
atomic_load = _emitter(types.int32, (_SHARED,), lambda b, at: b.load_atomic(at, "seq_cst", 4, typ=I32))
atomic_store = _emitter(types.void, (_SHARED, types.int32), lambda b, at, n: b.store_atomic(n, at, "seq_cst", 4))


def _yield(builder: Any) -> None:
    if platform.system() != "Windows":  # which has no sched_yield
        _call(builder, "sched_yield", I32)


yield_processor = _emitter(types.void, (), _yield)


def _lanes(element: Any, count: int = LANES) -> ir.VectorType:
    return ir.VectorType(element, count)


def _take(builder: Any, vector: Any, indices: range) -> Any:
    """Return the given lanes of a vector."""
    mask = ir.Constant(_lanes(I32, len(indices)), list(indices))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


def _load(builder: Any, address: Any, index: Any, element: Any, count: int) -> Any:
    size = {I8: 1, I16: 2, I32: 4, F32: 4}[element]
    offset = builder.mul(builder.sext(index, I64), I64(size))
    pointer = builder.inttoptr(builder.add(address, offset), ir.PointerType())
    return builder.load(pointer, align=size, typ=element if count == 1 else _lanes(element, count))


def _half(builder: Any, bits: Any) -> Any:
    """Widen float16 bits to float32 with integer shifts: not every board has the instruction."""
    shape = (lambda t: t) if isinstance(bits.type, ir.IntType) else (lambda t: _lanes(t, bits.type.count))

    def constant(element: Any, value: Any) -> Any:
        return ir.Constant(shape(element), value if shape(element) is element else [value] * bits.type.count)

    wide = builder.zext(bits, shape(I32))
    magnitude = builder.shl(builder.and_(wide, constant(I32, 0x7FFF)), constant(I32, 13))
    sign = builder.shl(builder.and_(wide, constant(I32, 0x8000)), constant(I32, 16))
    scaled = builder.fmul(builder.bitcast(magnitude, shape(F32)), constant(F32, 2.0**112))
    return builder.bitcast(builder.or_(builder.bitcast(scaled, shape(I32)), sign), shape(F32))


class _Integer:
    """Dot products of int8 rows with int16 activations, in int32."""

    per_lane, total, weight, other = 2, I32, I8, I16

    @staticmethod
    def widen(builder: Any, w: Any, x: Any) -> tuple[Any, Any]:
        wide = I32 if isinstance(w.type, ir.IntType) else _lanes(I32, w.type.count)
        return builder.sext(w, wide), builder.sext(x, wide)

    @staticmethod
    def multiply_add(builder: Any, total: Any, w: Any, x: Any) -> Any:
        product = builder.mul(w, x)
        if isinstance(product.type, ir.IntType):
            return builder.add(total, product)
        lanes = total.type.count
        if PAIRS:
            even, odd = (_take(builder, product, range(i, 2 * lanes, 2)) for i in (0, 1))
            return builder.add(total, builder.add(even, odd))
        name = f"llvm.vector.partial.reduce.add.v{lanes}i32.v{2 * lanes}i32"
        return _call(builder, name, total.type, total, product)

    @staticmethod
    def add(builder: Any, a: Any, b: Any) -> Any:
        return builder.add(a, b)


class _Float:
    """Dot products of float32 rows with float32 activations."""

    per_lane, total, weight, other = 1, F32, F32, F32

    @staticmethod
    def widen(builder: Any, w: Any, x: Any) -> tuple[Any, Any]:
        return w, x

    @staticmethod
    def multiply_add(builder: Any, total: Any, w: Any, x: Any) -> Any:
        return builder.fadd(total, builder.fmul(w, x))

    @staticmethod
    def add(builder: Any, a: Any, b: Any) -> Any:
        return builder.fadd(a, b)


class _Half(_Float):
    """Dot products of float16 rows with float32 activations."""

    weight = I16

    @staticmethod
    def widen(builder: Any, w: Any, x: Any) -> tuple[Any, Any]:
        return _half(builder, w), x


def _dots(kind: Any, rows: int, tokens: int, lanes: int = LANES) -> Any:
    """Make the intrinsic that multiplies `rows` rows of weights with `tokens` vectors of activations.

    ``dots(w, w_stride, x, x_stride, n, out, out_stride)``: addresses and strides in bytes, n elements;
    out[t, r] = sum_j w[r, j] * x[t, j], each in 16 partial sums over j, one tree, then the tail of n.
    The results of a token follow each other, `out_stride` after those of the token before; with one token, it is the
    results of rows that are so far apart.
    """

    @intrinsic
    def dots(typingctx: Any, w: Any, w_stride: Any, x: Any, x_stride: Any, n: Any, out: Any, out_stride: Any) -> Any:
        i64 = types.int64
        return types.void(i64, i64, i64, i64, types.int32, i64, i64), codegen

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        w, w_stride, x, x_stride, n, out, out_stride = args
        w_rows = [builder.add(w, builder.mul(w_stride, I64(r))) for r in range(rows)]
        x_rows = [builder.add(x, builder.mul(x_stride, I64(t))) for t in range(tokens)]

        def loop(start: Any, stop: Any, count: int, totals: list[Any]) -> list[Any]:
            """Add `count` elements at a time to the totals; a loop of LLVM blocks around phi nodes."""
            before = builder.block
            head, body, after = (builder.append_basic_block(name) for name in ("head", "body", "after"))
            builder.branch(head)
            builder.position_at_end(head)
            j = builder.phi(I32)
            j.add_incoming(start, before)
            carried = [builder.phi(total.type) for total in totals]
            for phi, total in zip(carried, totals, strict=True):
                phi.add_incoming(total, before)
            builder.cbranch(builder.icmp_signed("<", j, stop), body, after)
            builder.position_at_end(body)
            ws = [_load(builder, address, j, kind.weight, count) for address in w_rows]
            xs = [_load(builder, address, j, kind.other, count) for address in x_rows]
            pairs = [kind.widen(builder, a, b) for a in ws for b in xs]
            added = [kind.multiply_add(builder, c, a, b) for c, (a, b) in zip(carried, pairs, strict=True)]
            j.add_incoming(builder.add(j, I32(count)), builder.block)
            for phi, total in zip(carried, added, strict=True):
                phi.add_incoming(total, builder.block)
            builder.branch(head)
            builder.position_at_end(after)
            return carried

        step = kind.per_lane * lanes
        whole = builder.sub(n, builder.srem(n, I32(step)))
        zero = ir.Constant(_lanes(kind.total, lanes), None)
        totals = loop(I32(0), whole, step, [zero] * (rows * tokens))
        sums = []
        for total in totals:
            width = lanes
            while width > 1:
                low, high = _take(builder, total, range(width // 2)), _take(builder, total, range(width // 2, width))
                total, width = kind.add(builder, low, high), width // 2
            sums.append(builder.extract_element(total, I32(0)))
        for i, total in enumerate(loop(whole, n, 1, sums)):
            row, token = divmod(i, tokens)
            apart, near = (token, 4 * row) if tokens > 1 else (row, 0)
            offset = builder.add(builder.mul(out_stride, I64(apart)), I64(near))
            pointer = builder.inttoptr(builder.add(out, offset), ir.PointerType())
            builder.store(total, pointer, align=4)
        return context.get_dummy_value()

    return dots


dots_i8 = _dots(_Integer, 1, 1)
dots_i8_pair = _dots(_Integer, 2, 1)
dots_i8_short = _dots(_Integer, 4, 1)
dots_i8_block = _dots(_Integer, 2, 4, lanes=8)  # sums that fit in 16 vector registers
dots_f32 = _dots(_Float, 1, 1)
dots_f32_block = _dots(_Float, 1, 4)
dots_f16 = _dots(_Half, 1, 1)
dots_f16_block = _dots(_Half, 1, 4)


class Vector(types.Type):
    """Several float32 or int32 that one instruction works on."""

    def __init__(self, element: Any, lanes: int) -> None:
        self.shape = _lanes(element, lanes)
        super().__init__(name=f"{element}x{lanes}")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, kind.shape)


def _splat(builder: Any, value: Any, shape: ir.VectorType) -> Any:
    one = builder.insert_element(ir.Constant(shape, ir.Undefined), value, I32(0))
    return builder.shuffle_vector(one, one, ir.Constant(_lanes(I32, shape.count), [0] * shape.count))


def vectors(lanes: int) -> tuple[Any, Any, Any, Any]:
    """Make load, store, scale and add_scaled for vectors of so many float32.

    ``load(address)``, ``store(address, v)``, ``scale(v, s)`` = v s, ``add_scaled(u, v, s)`` = u + v s.
    """
    kind = Vector(F32, lanes)

    def scale(builder: Any, v: Any, s: Any) -> Any:
        return builder.fmul(v, _splat(builder, s, kind.shape))

    return (
        _emitter(kind, (types.int64,), lambda b, at: b.load(_opaque(b, at), align=4, typ=kind.shape)),
        _emitter(types.void, (types.int64, kind), lambda b, at, v: b.store(v, _opaque(b, at), align=4)),
        _emitter(kind, (kind, types.float32), scale),
        _emitter(kind, (kind, kind, types.float32), lambda b, u, v, s: b.fadd(u, scale(b, v, s))),
    )


def store_past_caches(lanes: int) -> Any:
    """Make ``store(address, v)`` for so many float32 that are not read again soon; the address a multiple of 16."""
    kind = Vector(F32, lanes)

    def store(builder: Any, address: Any, v: Any) -> None:
        for i in range(0, lanes, 4):
            part, at = _take(builder, v, range(i, i + 4)), builder.add(address, I64(4 * i))
            stored = builder.store(part, _opaque(builder, at), align=16)
            stored.set_metadata("nontemporal", builder.module.add_metadata([I32(1)]))

    return _emitter(types.void, (types.int64, kind), store)


def integer_vectors(lanes: int) -> tuple[Any, Any, Any]:
    """Make zeros, store and add_row for vectors of so many int32.

    ``zeros(0)``, ``store(address, v)``, ``add_row(v, address, q)`` = v + q w with the int8 weights w at an address.
    """
    kind = Vector(I32, lanes)

    def add_row(builder: Any, v: Any, address: Any, q: Any) -> Any:
        w = builder.load(_opaque(builder, address), align=1, typ=_lanes(I8, lanes))
        return builder.add(v, builder.mul(builder.sext(w, kind.shape), _splat(builder, q, kind.shape)))

    return (
        _emitter(kind, (types.int64,), lambda b, _: ir.Constant(kind.shape, None)),
        _emitter(types.void, (types.int64, kind), lambda b, at, v: b.store(v, _opaque(b, at), align=4)),
        _emitter(kind, (kind, types.int64, types.int32), add_row),
    )


def code_vectors(bits: int, lanes: int) -> tuple[Any, Any, Any]:
    """Make splat, add_codes and store for sums in int16 over codes of 2 or 4 bits.

    ``splat(start)``, ``add_codes(v, address, q)`` = v + sum_j c_j q_j, where a lane of the int16 at an address holds
    16 / bits codes, the first in the low bits, and q is the address of as many int16; ``store(address, v)``.
    """
    kind, count = Vector(I16, lanes), 16 // bits

    def add_codes(builder: Any, v: Any, address: Any, q: Any) -> Any:
        words = builder.load(_opaque(builder, address), align=2, typ=kind.shape)
        for k in range(count):
            shift, mask = (ir.Constant(kind.shape, [n] * lanes) for n in (bits * k, 2**bits - 1))
            code = builder.and_(builder.lshr(words, shift), mask)
            factor = _splat(builder, _load(builder, q, I32(k), I16, 1), kind.shape)
            v = builder.add(v, builder.mul(code, factor))
        return v

    return (
        _emitter(kind, (types.int32,), lambda b, start: _splat(b, b.trunc(start, I16), kind.shape)),
        _emitter(kind, (kind, types.int64, types.int64), add_codes),
        _emitter(types.void, (types.int64, kind), lambda b, at, v: b.store(v, _opaque(b, at), align=2)),
    )


def _bit_plane(builder: Any, address: Any, bit: Any) -> Any:
    """Return one bit of 64 activations: of their upper byte, rounded, plus 128."""
    wide, shape = builder.load(_opaque(builder, address), align=2, typ=_lanes(I16, 64)), _lanes(I32, 64)

    def constant(value: int) -> Any:
        return ir.Constant(shape, [value] * 64)

    # The upper byte of x + 128 is x / 256 rounded; 128 more of it makes all of them positive.
    value = builder.add(builder.sext(wide, shape), constant(128 + 128 * 256))
    shifted = builder.lshr(value, _splat(builder, builder.add(bit, I32(8)), shape))
    return builder.bitcast(builder.trunc(shifted, _lanes(ir.IntType(1), 64)), I64)


def _count_bits(builder: Any, value: Any) -> Any:
    name = "llvm.ctpop." + ("i64" if value.type is I64 else f"v{value.type.count}i64")
    return _call(builder, name, value.type, value)


def _add_counts(builder: Any, total: Any, planes: Any, mask: Any) -> Any:
    planes = builder.load(_opaque(builder, planes), align=8, typ=total.type)
    return builder.add(total, _count_bits(builder, builder.and_(planes, _splat(builder, mask, total.type))))


def _weigh(builder: Any, total: Any) -> Any:
    """Return the sum of the lanes, lane b counting 2^b times."""
    lanes = [builder.extract_element(total, I32(b)) for b in range(total.type.count)]
    value = lanes[0]
    for b, lane in enumerate(lanes[1:], start=1):
        value = builder.add(value, builder.shl(lane, I64(b)))
    return builder.trunc(value, I32)


_COUNTS = Vector(I64, 8)
bit_plane = _emitter(types.int64, (types.int64, types.int32), _bit_plane)
count_bits = _emitter(types.int64, (types.int64,), _count_bits)
no_counts = _emitter(_COUNTS, (types.int64,), lambda b, _: ir.Constant(_COUNTS.shape, None))
add_counts = _emitter(_COUNTS, (_COUNTS, types.int64, types.int64), _add_counts)
weigh = _emitter(types.int32, (_COUNTS,), _weigh)
