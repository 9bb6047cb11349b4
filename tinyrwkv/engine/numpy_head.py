"""NumPy forms of a head with a preview: a guess of all logits, and exact ones for likely rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..file import int4
from ..kernels import abi as op
from .numpy_call import F32, I16, I32, U8, Call, product, row_blocks, unpacked_rows, upper_bytes


def level(call: Call, fields: Any) -> None:
    """Compute z_i (+)= s scale_i (c_i . u - (2^bits - 1) / 2 sum(u)) for the rows of one level.

    To stay with whole numbers, the code doubles the difference in parentheses and halves s.
    """
    rows, rank = fields.rows, fields.rank
    q, q_scale = call.quantised(fields, rank)
    u = upper_bytes(q)  # (T, rank)
    half_s = 128 * q_scale  # (T, 1)
    middle = (2**fields.bits - 1) * u.sum(axis=1, keepdims=True)  # (T, 1)
    blocks = -(-rows // op.BLOCK)
    codes = call.weights(fields.codes, U8, blocks, fields.bytes, op.BLOCK)
    table = call.vector(fields.table, op.SCALES)
    scale = table[call.weights(fields.scales, U8, rows)]  # (rows,)
    z = call.shared(fields.dst, fields.dst_stride)
    for block in row_blocks(rows, rank, multiple=op.BLOCK):
        c = call.floats(unpacked_rows(codes, fields.bits, block))  # (block, rank)
        sums = 2 * product(u, c) - middle  # (T, block)
        y = sums * (scale[block] * half_s)
        if fields.add:
            z[:, block] += y
        else:
            z[:, block] = y


def preview(call: Call, fields: Any) -> None:
    """Compute z_i += mean . x + bias_i; score_i = round(16 (z_i + spread_i))."""
    V, C = fields.rows, fields.cols
    of_bias, of_spread = call.weights(fields.ranges, F32, 2, 2)
    bias = _even(of_bias, call.weights(fields.bias, U8, V))  # (V,)
    spread = _even(of_spread, call.weights(fields.spread, U8, V))  # (V,)
    x = call.private(fields.src, C)  # (T, C)
    mean = call.vector(fields.mean, C)
    z = call.shared(fields.dst, V)  # (T, V)
    scores = call.shared(fields.scores, V, I16)  # (T, V)
    of_mean = x @ mean  # (T,)
    z += of_mean[:, None]
    z += bias
    scores[:] = _sixteenths(z + spread)


def choose(call: Call, fields: Any) -> None:
    """Find the least score that no more rows reach than are wanted."""
    scores = call.shared(fields.scores, fields.rows, I16)  # (T, V)
    wanted = call.weights(fields.wanted, I32, 1)
    lowest = call.private(fields.dst, 1, I32)  # (T, 1)
    lowest[:] = _lowest_score(scores, int(wanted[0]))


def exact(call: Call, fields: Any) -> None:
    """Compute z_i = w_i . x for the rows of a range whose score is high enough."""
    V, C = fields.dst_stride, fields.cols
    first, last = fields.first, fields.first + fields.rows
    q, s = call.quantised(fields, C)  # (T, C), (T, 1)
    x = q.astype(np.float32)
    scores = call.shared(fields.scores, V, I16)  # (T, V)
    lowest = call.private(fields.lowest, 1, I32)  # (T, 1)
    weight = call.matrix(fields.kind, fields.weight, V, C)
    is_int4 = fields.kind == op.INT4
    scale = call.row_scales(fields, V)
    row_bytes = weight.shape[1] if is_int4 else C + 4  # a row and its scale
    z = call.shared(fields.dst, V)
    for t in range(call.tokens):
        is_likely = scores[t, first:last] >= lowest[t]
        rows = first + np.flatnonzero(is_likely)
        chosen = int4.dequantize(weight[rows]) if is_int4 else weight[rows]
        sums = chosen @ x[t]
        z[t, rows] = sums * (scale[rows] * s[t])
        call.workspace.touched += len(rows) * row_bytes


def gather(call: Call, fields: Any) -> None:
    """Compute logits[id] = z of its row."""
    V = fields.rows
    places = call.weights(fields.places, np.dtype(f"<u{fields.place_bytes}"), V)
    z = call.shared(fields.src, V)
    logits = call.logits(V)
    logits[:] = z[:, places]


def _even(low_and_step: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return numbers that lie at even distances: ``low + step * code``."""
    low, step = low_and_step
    return low + step * codes.astype(np.float32)


def _sixteenths(x: np.ndarray) -> np.ndarray:
    """Round to multiples of 1/16, in whole numbers of them."""
    clipped = np.clip(x, -2047, 2047)
    return np.rint(16 * clipped).astype(np.int16)


def _lowest_score(scores: np.ndarray, wanted: int) -> np.ndarray:
    """Return the least score that at most `wanted` of a row's scores reach: (T, V) to (T, 1)."""
    V = scores.shape[1]
    if wanted >= V:
        return scores.min(axis=1, keepdims=True)
    last_unwanted = V - 1 - max(wanted, 0)
    return np.sort(scores)[:, [last_unwanted]] + 1
