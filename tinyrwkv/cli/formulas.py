"""A program in words: what every operation reads, and its formula."""

from __future__ import annotations

from collections.abc import Iterator

from ..kernels import abi as op
from ..program.formulas import FORMULAS
from ..program.operations import Operation
from ..program.program import Program

ACTIVATIONS = {
    op.IDENTITY: "{}",
    op.SIGMOID: "sigmoid({})",
    op.TANH: "tanh({})",
    op.SILU: "silu({})",
    op.SQUARED_RELU: "relu({})^2",
    op.DECAY_V6: "exp(-exp({}))",
    op.DECAY_V7: "exp(-0.60653 sigmoid({}))",
    op.RELU: "relu({})",
}

MODES = {
    op.STORE: "y = {}",
    op.ADD: "x += {}",
    op.GATED_ADD: "x += gate * {}",
    op.LOGITS: "logits = {}",
    op.MULTIPLY: "y *= {}",
}


def describe(program: Program) -> Iterator[str]:
    """Yield one line for each operation: number, name, what it reads, its formula."""
    for i, operation in enumerate(program.operations):
        name = op.NAMES[operation.opcode]
        yield f"{i:4d} {name:<8} {operation.label:<34} {formula(operation)}"


def formula(operation: Operation) -> str:
    """Return the formula of an operation.

    The formula of a matrix product shows its bias, its activation and its mode too.
    """
    if operation.opcode != op.MATMUL:
        return FORMULAS[operation.opcode].formula
    fields = operation.fields
    terms = ["W @ x"]
    if fields.bias != op.NONE:
        terms.append("bias")
    if fields.diag != op.NONE:
        terms.append("diag * x")
    activated = ACTIVATIONS[fields.activation].format(" + ".join(terms))
    return MODES[fields.mode].format(activated)
