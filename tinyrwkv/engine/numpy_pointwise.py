"""NumPy forms of operations on activations: embedding, layer norm, token shift, quantisation."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..file import int4
from ..file.row_table import SCALE_BYTES, without_scales
from ..kernels import abi as op
from .numpy_call import I16, WEIGHT_TYPES, Call

LAYER_NORM_EPSILON = np.float32(1e-5)


def normalise(x: np.ndarray, eps: np.float32) -> np.ndarray:
    """Return (x - mean(x)) / sqrt(var(x) + eps) along the last axis."""
    x = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(x).mean(axis=-1, keepdims=True)
    return x / np.sqrt(variance + eps)


def embed(call: Call, fields: Any) -> None:
    """Compute x = emb[token]."""
    V = call.program.config["vocab_size"]
    rows = call.matrix(fields.kind, fields.weight, V, fields.width)[call.ids]
    x = call.shared(fields.dst, fields.width)
    x[:] = int4.dequantize(rows) if fields.kind == op.INT4 else rows  # (T, C)
    if fields.kind == op.INT8:
        scale = call.vector(fields.scale, V)
        x *= scale[call.ids, None]


def deep(call: Call, fields: Any) -> None:
    """Compute y = x @ M, where M is a small matrix of each token."""
    rows, cols = fields.rows, fields.cols
    row_bytes = op.row_bytes(fields.kind, rows * cols)
    scale_bytes = SCALE_BYTES if fields.kind == op.INT8 else 0
    start = fields.weight + call.ids.astype(np.int64) * fields.row_bytes  # (T,)
    places = start[:, None] + np.arange(row_bytes + scale_bytes)
    found = call.program.weights[places]  # (T, bytes)
    if fields.kind == op.INT8:
        M = without_scales(found)
    else:
        M = found.view(WEIGHT_TYPES[fields.kind]).astype(np.float32)
    x = np.ones((call.tokens, 1), np.float32)
    if fields.stride:
        x = call.shared(fields.src, fields.stride)
    y = call.shared(fields.dst, cols)
    y[:] = np.matmul(x[:, None], M.reshape(-1, rows, cols))[:, 0]


def norm(call: Call, fields: Any) -> None:
    """Compute xn = layer_norm(x) * weight + bias."""
    width = fields.width
    x = call.shared(fields.src, width)
    weight = call.vector(fields.weight, width)
    bias = call.vector(fields.bias, width)
    xn = call.private(fields.dst, width)
    xn[:] = normalise(x, LAYER_NORM_EPSILON) * weight + bias


def shift(call: Call, fields: Any) -> None:
    """Compute x_j = xn + (xn_prev - xn) * (mu_j + delta_j); xn goes to the new state."""
    width = fields.width
    start = fields.state // 4
    state = slice(start, start + width)
    plane = 4 * op.MAX_TOKENS * width  # bytes from one x_j to the next
    xn = call.private(fields.src, width)
    prev = np.concatenate([call.old[None, state], xn[:-1]])  # (T, C)
    for j in range(fields.count):
        mu = call.vector(fields.mu + 4 * j * width, width)
        if fields.delta != op.NONE:
            mu = mu + call.shared(fields.delta + j * plane, width)
        mixed = call.private(fields.dst + j * plane, width)
        mixed[:] = xn + (prev - xn) * mu
    for t in range(call.tokens):
        call.renew(t, state, xn[t])


def quantize(call: Call, fields: Any) -> None:
    """Compute q = round(x / s) with s = max|x| / qmax, for each token."""
    workspace = call.shared if fields.shared else call.private
    x = workspace(fields.src, fields.stride)[:, : fields.width]
    q = call.private(fields.dst, fields.width, I16)
    scale = call.private(fields.dst_scale, 1)
    qmax = np.float32(fields.qmax)
    largest = np.abs(x).max(axis=1, keepdims=True)  # (T, 1)
    inverse = np.where(largest > 0, qmax / largest, 0)
    q[:] = np.rint(x * inverse)
    scale[:] = largest / qmax


def select(call: Call, fields: Any) -> None:
    """Compute x = x[last token], the only one from here on."""
    if call.head == op.HEAD_OF_LAST and call.tokens > 1:
        x = call.shared(fields.src, fields.width)
        x[0] = x[-1]
        call.tokens = 1


def sync(call: Call, fields: Any) -> None:
    """Do nothing: one thread has nobody to wait for."""
