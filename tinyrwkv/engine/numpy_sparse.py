"""NumPy forms of the channel mix that reads only the rows of some neurons."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..file import int4
from ..kernels import abi as op
from .numpy_call import U8, Call, product, row_blocks, unpacked_rows, upper_bytes
from .numpy_matmul import squared_relu


def predict(call: Call, fields: Any) -> None:
    """Compute y_f = relu(K_f . x)^2 for the neurons f that are chosen, else 0."""
    F = fields.units * fields.unit
    C = fields.cols
    q, scale = call.quantised(fields, C)  # (T, C), (T, 1)
    chosen = _chosen_by_signs(call, fields, q, scale)  # (T, F)
    if fields.network != op.NONE:
        score = call.shared(fields.network, F)
        threshold = call.vector(fields.network_threshold, F)
        chosen |= ~(score <= threshold)  # NaN chooses
    hidden = call.shared(fields.dst, F)
    hidden[:] = 0 * scale  # NaN stays
    scales = call.row_scales(fields, F)
    for t in range(call.tokens):
        neurons = np.flatnonzero(chosen[t])
        K = _read_rows(call, fields, neurons, C)
        y = K @ q[t].astype(np.float32)
        y = y * (scales[neurons] * scale[t])
        hidden[t, neurons] = squared_relu(y)


def sparse(call: Call, fields: Any) -> None:
    """Compute x += gate * sum of x_f W_f over the rows f with x_f != 0."""
    C = fields.units * fields.unit
    q, q_scale = call.quantised(fields, fields.stride)  # (T, F), (T, 1)
    scale = call.row_scales(fields, C)
    x = call.shared(fields.dst, C)
    gate = call.shared(fields.gate, C) if fields.mode == op.GATED_ADD else None
    for t in range(call.tokens):
        neurons = np.flatnonzero(q[t])
        W = _read_rows(call, fields, neurons, C)
        y = q[t, neurons].astype(np.float32) @ W
        y = y * (scale * q_scale[t])
        x[t] += y if gate is None else gate[t] * y


def _chosen_by_signs(call: Call, fields: Any, q: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Tell for which neurons signs_f . x > threshold_f, (T, F)."""
    F = fields.units * fields.unit
    C = fields.cols
    u = upper_bytes(q)  # (T, C)
    sum_of_u = u.sum(axis=1, keepdims=True)  # (T, 1)
    chosen = np.empty((call.tokens, F), bool)
    threshold = call.vector(fields.threshold, F)
    blocks = -(-F // op.BLOCK)
    signs = call.weights(fields.signs, U8, blocks, C // 8, op.BLOCK)
    for block in row_blocks(F, C, multiple=op.BLOCK):
        bits = call.floats(unpacked_rows(signs, 1, block))
        # Bits are 0 and 1, signs are -1 and 1: signs . u = 2 bits . u - sum(u)
        sums = 2 * product(u, bits) - sum_of_u  # (T, block)
        chosen[:, block] = sums * (256 * scale) > threshold[block]
    return chosen


def _read_rows(call: Call, fields: Any, rows: np.ndarray, width: int) -> np.ndarray:
    """Return rows of a region of pages, (n, width): those of int8 without scales."""
    row_bytes = op.row_bytes(fields.kind, width)
    rows = rows.astype(np.int64)  # 32-bit systems count in less
    pages = rows * fields.reciprocal >> 32
    place = rows - pages * fields.per_page
    start = fields.weight + pages * op.PAGE + place * fields.row_bytes  # (n,)
    places = start[:, None] + np.arange(row_bytes)  # (n, row_bytes)
    call.workspace.touched += len(rows) * row_bytes
    found = call.program.weights[places]
    return int4.dequantize(found) if fields.kind == op.INT4 else found.view(np.int8)
