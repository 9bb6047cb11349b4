"""How intrinsics are made for Numba: what they take and give, and the few phrases of LLVM that they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

I8, I16, I32, I64, F32 = (
    ir.IntType(8),
    ir.IntType(16),
    ir.IntType(32),
    ir.IntType(64),
    ir.FloatType(),
)


class Vector(types.Type):
    """Several numbers that one instruction works on."""

    def __init__(self, element: Any, count: int) -> None:
        self.shape = vector_of(element, count)
        super().__init__(name=f"{element}x{count}")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, kind.shape)


def emitter(result: types.Type, arguments: tuple[types.Type, ...], emit: Any) -> Any:
    """Make an intrinsic of up to three arguments from ``emit(builder, *arguments)``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = emit(builder, *args)
        return context.get_dummy_value() if result is types.void else value

    typed = result(*arguments), codegen
    takes: tuple[Any, ...] = (
        lambda c: typed,
        lambda c, x: typed,
        lambda c, x, y: typed,
        lambda c, x, y, z: typed,
    )
    return intrinsic(takes[len(arguments)])


def pointer(element: types.Type, code: Any) -> Any:
    """Make the intrinsic that turns an address into a typed pointer."""
    return emitter(
        types.CPointer(element), (types.int64,), lambda b, at: b.inttoptr(at, code.as_pointer())
    )


def call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    """Call a function of LLVM, or of the C library."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def opaque(builder: Any, address: Any) -> Any:
    """Turn an address into a pointer to anything."""
    return builder.inttoptr(address, ir.PointerType())


def vector_of(element: Any, count: int) -> ir.VectorType:
    """Return the type of a vector."""
    return ir.VectorType(element, count)


def take(builder: Any, vector: Any, indices: Sequence[int]) -> Any:
    """Return the given lanes of a vector."""
    mask = ir.Constant(vector_of(I32, len(indices)), list(indices))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


def load(builder: Any, address: Any, index: Any, element: Any, count: int) -> Any:
    """Return `count` numbers from the one of that index on."""
    size = {I8: 1, I16: 2, I32: 4, F32: 4}[element]
    at = opaque(builder, builder.add(address, builder.mul(builder.sext(index, I64), I64(size))))
    return builder.load(at, align=size, typ=element if count == 1 else vector_of(element, count))


def splat(builder: Any, value: Any, shape: ir.VectorType) -> Any:
    """Return a vector of one number."""
    one = builder.insert_element(ir.Constant(shape, ir.Undefined), value, I32(0))
    return builder.shuffle_vector(
        one, one, ir.Constant(vector_of(I32, shape.count), [0] * shape.count)
    )


def constant(shape: ir.VectorType, value: float) -> ir.Constant:
    """Return a vector of one number that is known beforehand."""
    return ir.Constant(shape, [value] * shape.count)
