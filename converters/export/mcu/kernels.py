"""Choose and compile the kernels that a program calls: a chip has little room for code."""

from __future__ import annotations

from collections.abc import Iterable

from tinyrwkv.errors import UnsupportedError
from tinyrwkv.kernels import abi as op
from tinyrwkv.native.build import build
from tinyrwkv.native.recipes import RECIPES
from tinyrwkv.program.operations import Operation

_OF_OPERATIONS = {
    op.WKV4: "wkv.wkv4",
    op.WKV5: "wkv.wkv5",
    op.WKV7: "wkv.wkv7",
    op.PREDICT: "sparse.predict",
    op.SPARSE: "sparse.sparse",
    op.LEVEL: "head.level",
    op.PREVIEW: "head.preview",
    op.CHOOSE: "head.choose",
    op.EXACT: "head.exact",
    op.GATHER: "head.gather",
}
"""The kernel of each operation that some models lack."""

_OF_INT4 = (
    *("int4.rows_of_each", "int4.one_row", "int4.one_of_four"),
    *("int4.weights_of_row", "int4.group_sums", "int4.scale_rows", "int4.weighted_rows_int4"),
)
"""The kernels of matrices in int4."""


def unused_kernels(operations: Iterable[Operation]) -> tuple[str, ...]:
    """Return the kernels that no operation of a program calls, sorted."""
    operations = list(operations)
    opcodes = {operation.opcode for operation in operations}
    kinds = {getattr(operation.fields, "kind", op.NONE) for operation in operations}
    unused = [kernel for opcode, kernel in _OF_OPERATIONS.items() if opcode not in opcodes]
    if op.INT4 not in kinds:
        unused += _OF_INT4
    return tuple(sorted(unused))


def targets() -> tuple[str, ...]:
    """Return the chips that kernels can be compiled for."""
    return tuple(recipe.name for recipe in RECIPES.values() if recipe.bare_metal)


def check_target(target: str) -> None:
    """Refuse a chip that there are no kernels for.

    Raises
    ------
    UnsupportedError
        It is none of `targets`.
    """
    if target not in targets():
        expected = ", ".join(targets())
        sentence = f"there is no microcontroller {target!r} to compile for, only {expected}"
        fix = "choose one of them"
        raise UnsupportedError("export", "target", target, expected, fix, sentence)


def compile_kernels(target: str, unused: tuple[str, ...]) -> bytes:
    """Return the object to link into a firmware.

    Raises
    ------
    UnsupportedError
        The compiler is not installed.
    """
    return build([target], unused=unused)[target]
