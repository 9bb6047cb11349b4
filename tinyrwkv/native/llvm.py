"""Make intrinsics for Numba: their types, and the few phrases of LLVM that they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import Parameter, Signature
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

I8, I16, I32, I64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
F32 = ir.FloatType()

ITEM_BYTES = {I8: 1, I16: 2, I32: 4, F32: 4}

Builder = Any  # of llvmlite: writes instructions
Value = Any  # what an instruction gives, or a constant


class Vector(types.Type):
    """Several numbers that one instruction works on."""

    def __init__(self, element: ir.Type, count: int) -> None:
        self.shape = vector_of(element, count)
        super().__init__(name=f"{element}x{count}")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    """Tell Numba that a Vector is the vector of LLVM."""

    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, kind.shape)


def emitter(result: types.Type, arguments: Sequence[types.Type], emit: Callable[..., Value]) -> Any:
    """Make an intrinsic from ``emit(builder, *arguments)``."""

    def codegen(context: Any, builder: Builder, signature: Any, args: Sequence[Value]) -> Value:
        value = emit(builder, *args)
        return context.get_dummy_value() if result is types.void else value

    def typing(context: Any, *given: Any) -> Any:
        return result(*arguments), codegen

    # Numba asks for the name of each argument.
    names = ["context", *(f"argument_{i}" for i in range(len(arguments)))]
    named = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    typing.__signature__ = Signature(named)  # type: ignore
    return intrinsic(typing)


def pointer(element: types.Type, code: ir.Type) -> Any:
    """Make the intrinsic that turns an address into a typed pointer."""

    def emit(builder: Builder, address: Value) -> Value:
        return builder.inttoptr(address, code.as_pointer())

    return emitter(types.CPointer(element), (types.int64,), emit)


def call(builder: Builder, name: str, result: ir.Type, *arguments: Value) -> Value:
    """Call a function of LLVM, or of the C library."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, arguments)


def call_own(
    builder: Builder, name: str, write: Callable[..., None], arguments: Sequence[Value]
) -> None:
    """Call a function of this name that ``write(builder, *arguments)`` gives its code.

    LLVM does not merge it into those that call it, so it has all registers for itself.
    """
    function = builder.module.globals.get(name)
    if function is None:
        kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
        function = ir.Function(builder.module, kind, name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        inside = ir.IRBuilder(function.append_basic_block())
        write(inside, *function.args)
        inside.ret_void()
    builder.call(function, arguments)


def apart(builder: Builder, base: Value, stride: Value, count: int) -> list[Value]:
    """Return addresses that lie so many bytes apart."""
    return [builder.add(base, builder.mul(stride, I64(i))) for i in range(count)]


def opaque(builder: Builder, address: Value) -> Value:
    """Turn an address into a pointer to anything."""
    return builder.inttoptr(address, ir.PointerType())


def load_at(builder: Builder, address: Value, shape: ir.Type, align: int = 1) -> Value:
    """Return what lies at an address: a number or a vector."""
    return builder.load(opaque(builder, address), align=align, typ=shape)


def vector_of(element: ir.Type, count: int) -> ir.VectorType:
    """Return the type of a vector."""
    return ir.VectorType(element, count)


def take(builder: Builder, vector: Value, indices: Sequence[int]) -> Value:
    """Return the given lanes of a vector."""
    mask = ir.Constant(vector_of(I32, len(indices)), list(indices))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


def joined(builder: Builder, a: Value, b: Value, lanes: Sequence[int]) -> Value:
    """Return lanes of two vectors, those of the second counted on from those of the first."""
    return builder.shuffle_vector(a, b, ir.Constant(vector_of(I32, len(lanes)), list(lanes)))


def neighbours(builder: Builder, a: Value, b: Value) -> Value:
    """Add neighbours of each four lanes: two sums of a, then two of b."""
    lanes = a.type.count
    even = [first + four + i for four in range(0, lanes, 4) for first in (0, lanes) for i in (0, 2)]
    odd = [lane + 1 for lane in even]
    return builder.add(joined(builder, a, b, even), joined(builder, a, b, odd))


def load(builder: Builder, address: Value, index: Value, element: ir.Type, count: int) -> Value:
    """Return `count` numbers of an array, from number `index` on: a vector, or one number."""
    size = ITEM_BYTES[element]
    offset = builder.mul(builder.sext(index, I64), I64(size))
    shape = element if count == 1 else vector_of(element, count)
    return load_at(builder, builder.add(address, offset), shape, size)


def loop(
    builder: Builder,
    span: tuple[Value, Value],
    step: int,
    carried: Sequence[Value],
    body: Callable[[Value, list[Value]], list[Value]],
) -> list[Value]:
    """Repeat ``carried = body(j, carried)`` for j from the start of a span to its end, in steps.

    The loop is one of LLVM blocks around phi nodes: one for the index j, an int32, and one for each
    carried value. It returns the values that are carried in the end.
    """
    start, stop = span
    before = builder.block
    head = builder.append_basic_block("head")
    inside = builder.append_basic_block("body")
    after = builder.append_basic_block("after")
    builder.branch(head)
    builder.position_at_end(head)
    j = builder.phi(I32)
    j.add_incoming(start, before)
    phis = [builder.phi(value.type) for value in carried]
    for phi, value in zip(phis, carried, strict=True):
        phi.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", j, stop), inside, after)

    builder.position_at_end(inside)
    results = body(j, phis)
    j.add_incoming(builder.add(j, I32(step)), builder.block)
    for phi, result in zip(phis, results, strict=True):
        phi.add_incoming(result, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return phis


def splat(builder: Builder, value: Value, shape: ir.VectorType) -> Value:
    """Return a vector of one number."""
    first = builder.insert_element(ir.Constant(shape, ir.Undefined), value, I32(0))
    everywhere = ir.Constant(vector_of(I32, shape.count), [0] * shape.count)
    return builder.shuffle_vector(first, first, everywhere)


def constant(shape: ir.VectorType, value: float) -> ir.Constant:
    """Return a vector of one number that is known when the kernels are compiled."""
    return ir.Constant(shape, [value] * shape.count)
