"""The NumPy form of a matrix product and of what may follow it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..file import int4
from ..kernels import abi as op
from .numpy_call import F32, I16, QUANTISED, Call, product, row_blocks

DECAY_V7 = np.float32(-0.6065306597126334)
"""-1 / sqrt(e)"""


def identity(y: np.ndarray) -> np.ndarray:
    """Return y."""
    return y


def sigmoid(y: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + e^-y)."""
    exp = np.exp(-np.maximum(y, -80))  # e^89 overflows; sigmoid(-80) is 1e-35
    return 1.0 / (1.0 + exp)


def silu(y: np.ndarray) -> np.ndarray:
    """Return y * sigmoid(y)."""
    return y * sigmoid(y)


def relu(y: np.ndarray) -> np.ndarray:
    """Return max(y, 0)."""
    return np.maximum(y, 0)


def squared_relu(y: np.ndarray) -> np.ndarray:
    """Return max(y, 0)^2."""
    return np.square(np.maximum(y, 0))


def decay_v6(y: np.ndarray) -> np.ndarray:
    """Return e^-e^y."""
    return np.exp(-np.exp(y))


def decay_v7(y: np.ndarray) -> np.ndarray:
    """Return e^(-sigmoid(y) / sqrt(e))."""
    return np.exp(DECAY_V7 * sigmoid(y))


ACTIVATIONS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    op.IDENTITY: identity,
    op.SIGMOID: sigmoid,
    op.TANH: np.tanh,
    op.SILU: silu,
    op.RELU: relu,
    op.SQUARED_RELU: squared_relu,
    op.DECAY_V6: decay_v6,
    op.DECAY_V7: decay_v7,
}


def matmul(call: Call, fields: Any) -> None:
    """Compute dst (mode)= activation(W @ x + bias + diag * x)."""
    rows = fields.units * fields.unit
    cols = fields.cols
    x = _input(call, fields)  # (T, cols)
    W = call.matrix(fields.kind, fields.weight, rows, cols)
    out = _output(call, fields, rows)  # (T, rows)
    for block in row_blocks(rows, cols):
        y = product(x, _weights(call, fields.kind, W[block]))  # (T, block)
        if fields.kind == op.INT8:
            y *= call.vector(fields.scale, rows)[block] * call.private(fields.src_scale, 1)
        elif fields.kind == op.INT4:
            y *= call.private(fields.src_scale, 1)
        if fields.bias != op.NONE:
            y += call.vector(fields.bias, rows)[block]
        if fields.diag != op.NONE:
            floats = call.private(fields.diag_src, rows)[:, block]
            y += call.vector(fields.diag, rows)[block] * floats
        y = ACTIVATIONS[fields.activation](y)
        if fields.mode == op.GATED_ADD:
            y = y * call.shared(fields.gate, rows)[:, block]
        if fields.mode in (op.ADD, op.GATED_ADD):
            out[:, block] += y
        elif fields.mode == op.MULTIPLY:
            out[:, block] *= y
        else:
            out[:, block] = y


def _weights(call: Call, kind: int, block: np.ndarray) -> np.ndarray:
    """Return rows of a matrix as float32, those of int8 without their scales."""
    if kind == op.INT4:
        return int4.dequantize(block)
    return block if kind == op.F32 else call.floats(block)


def _input(call: Call, fields: Any) -> np.ndarray:
    """Return what is multiplied, as float32."""
    if fields.shared:
        x = call.shared(fields.src, fields.stride)
    else:
        dtype = I16 if fields.kind in QUANTISED else F32
        x = call.private(fields.src, fields.stride, dtype)
    return x[:, : fields.cols].astype(np.float32)


def _output(call: Call, fields: Any, rows: int) -> np.ndarray:
    """Return where the result goes."""
    memory = call.out if fields.mode == op.LOGITS else call.workspace.shared
    strides = (4 * fields.dst_stride, 4)
    return np.ndarray((call.tokens, rows), F32, memory, fields.dst, strides)
