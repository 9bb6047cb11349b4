"""Run a program with NumPy alone, one vectorised function for each operation, straight from the mapped weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..kernels import abi as op
from ..program.program import Program
from ..versions.reference import even, lowest_score, sigmoid, silu, steps, unpack
from .backends import HEAD_OF_LAST, Workspace

BLOCK = 1 << 19
"""Weights that are floats at one time: 2 MB, whatever the size of a matrix."""

F32, I32 = np.dtype("<f4"), np.dtype("<i4")
TYPES: dict[int, np.dtype[Any]] = {op.F32: F32, op.F16: np.dtype("<f2"), op.INT8: np.dtype("i1")}


def _squared_relu(y: np.ndarray) -> np.ndarray:
    return np.square(np.maximum(y, 0))


ACTIVATIONS: dict[int, Any] = {
    op.IDENTITY: lambda y: y,
    op.SIGMOID: sigmoid,
    op.TANH: np.tanh,
    op.SILU: silu,
    op.RELU: lambda y: np.maximum(y, 0),
    op.SQUARED_RELU: _squared_relu,
    op.DECAY_V6: lambda y: np.exp(-np.exp(y)),
    op.DECAY_V7: lambda y: np.exp(np.float32(-0.6065306597126334) * sigmoid(y)),
}


def _normalise(x: np.ndarray, eps: np.float32) -> np.ndarray:
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + eps)


class NumpyBackend:
    """Runs a program with NumPy, in one thread of its own.

    Parameters
    ----------
    program : Program
    """

    name, threads = "numpy", 1

    def __init__(self, program: Program) -> None:
        self.program = program
        functions = {code: globals()[f"_{name.lower()}"] for code, name in op.NAMES.items()}
        self.steps = [(functions[row[0]], op.Fields[row[0]](*row[1:])) for row in program.rows]

    def run(
        self,
        workspace: Workspace,
        first: int,
        last: int,
        ids: np.ndarray,
        old: np.ndarray,
        new: np.ndarray,
        out: np.ndarray | None,
        head: int,
    ) -> None:
        """Read ids and the old state; write the new state, and logits to `out`."""
        call = _Call(self.program, workspace, ids, old, new, out, head)
        with np.errstate(all="ignore"):
            for function, fields in self.steps[first:last]:
                function(call, fields)


class _Call:
    """The memory of one call, as arrays of shape (tokens, width)."""

    def __init__(
        self, program: Program, workspace: Workspace, ids: np.ndarray, *memory: Any
    ) -> None:
        self.program, self.workspace, self.ids, self.tokens = program, workspace, ids, len(ids)
        self.old, self.new, self.out, self.head = memory
        self.ln_x_eps = np.float32(program.config["ln_x_eps"])

    def weights(self, offset: int, dtype: np.dtype[Any], *shape: int) -> np.ndarray:
        count = int(np.prod(shape))
        return np.frombuffer(self.program.file.bytes, dtype, count, offset).reshape(shape)

    def vector(self, offset: int, width: int) -> np.ndarray:
        return self.weights(offset, F32, width)

    def shared(self, offset: int, width: int, dtype: Any = F32) -> np.ndarray:
        return np.frombuffer(self.workspace.shared, dtype, self.tokens * width, offset).reshape(
            -1, width
        )

    def private(self, offset: int, width: int, dtype: Any = F32) -> np.ndarray:
        return np.frombuffer(self.workspace.private[0], dtype, self.tokens * width, offset).reshape(
            -1, width
        )

    def floats(self, block: np.ndarray) -> np.ndarray:
        """Widen a block of weights into a buffer that every block of this workspace uses."""
        buffer = self.workspace.floats(block.size).reshape(block.shape)
        np.copyto(buffer, block)
        return buffer


def _embed(c: _Call, p: Any) -> None:
    V = c.program.config["vocab_size"]
    x = c.shared(p.dst, p.width)
    x[:] = c.weights(p.weight, TYPES[p.kind], V, p.width)[c.ids]  # (T, C)
    if p.kind == op.INT8:
        x *= c.vector(p.scale, V)[c.ids, None]


def _norm(c: _Call, p: Any) -> None:
    x = _normalise(c.shared(p.src, p.width), np.float32(1e-5))
    c.private(p.dst, p.width)[:] = x * c.vector(p.weight, p.width) + c.vector(p.bias, p.width)


def _shift(c: _Call, p: Any) -> None:
    xn, at, plane = c.private(p.src, p.width), p.state // 4, op.MAX_TOKENS * 4 * p.width
    prev = np.concatenate([c.old[None, at : at + p.width], xn[:-1]])  # (T, C)
    for j in range(p.count):
        m = c.vector(p.mu + 4 * j * p.width, p.width)
        if p.delta != op.NONE:
            m = m + c.shared(p.delta + j * plane, p.width)
        c.private(p.dst + j * plane, p.width)[:] = xn + (prev - xn) * m
    c.new[at : at + p.width] = xn[-1]


def _quantize(c: _Call, p: Any) -> None:
    x = (c.shared if p.shared else c.private)(p.src, p.stride)[:, : p.width]
    largest, qmax = np.abs(x).max(axis=1, keepdims=True), np.float32(p.qmax)  # (T, 1)
    inverse = np.where(largest > 0, qmax / largest, 0)
    c.private(p.dst, p.width, np.int16)[:] = np.rint(x * inverse)
    c.private(p.dst_scale, 1)[:] = largest / qmax


def _product(x: np.ndarray, W: np.ndarray) -> np.ndarray:
    """Return ``x @ W.T``, (T, rows).

    One token goes through products of a few rows, too small for BLAS to share between its threads: these would wait
    for each other many hundred times a token, and where another program has a core, for that program.
    """
    if len(x) > 1:
        return x @ W.T
    few = max(1, 8192 // W.shape[1])
    whole = len(W) // few * few
    y = np.empty((1, len(W)), np.float32)
    np.matmul(W[:whole].reshape(-1, few, W.shape[1]), x[0], out=y[0, :whole].reshape(-1, few))
    y[0, whole:] = W[whole:] @ x[0]
    return y


def _matmul(c: _Call, p: Any) -> None:
    rows, int8 = p.units * p.unit, p.kind == op.INT8
    x = (
        c.shared(p.src, p.stride)
        if p.shared
        else c.private(p.src, p.stride, np.int16 if int8 else F32)
    )
    x = x[:, : p.cols].astype(np.float32)  # (T, cols), also of int16
    W = c.weights(p.weight, TYPES[p.kind], rows, p.cols)
    if p.mode == op.LOGITS:
        out = c.out.reshape(-1, p.dst_stride)[: c.tokens, p.dst // 4 : p.dst // 4 + rows]
    else:
        out = c.shared(p.dst, p.dst_stride)[:, :rows]
    step = max(1, BLOCK // p.cols)
    for i in range(0, rows, step):
        part = slice(i, min(i + step, rows))
        y = _product(x, W[part] if p.kind == op.F32 else c.floats(W[part]))  # (T, step)
        if int8:
            y *= c.vector(p.scale, rows)[part] * c.private(p.src_scale, 1)
        if p.bias != op.NONE:
            y += c.vector(p.bias, rows)[part]
        if p.diag != op.NONE:
            y += c.vector(p.diag, rows)[part] * c.private(p.diag_src, rows)[:, part]
        y = ACTIVATIONS[p.activation](y)
        if p.mode == op.GATED_ADD:
            y = y * c.shared(p.gate, rows)[:, part]
        out[:, part] = y if p.mode in (op.STORE, op.LOGITS) else out[:, part] + y


def _rows(c: _Call, p: Any, chosen: np.ndarray, width: int) -> np.ndarray:
    """Return int8 rows of a region of pages, (n, width)."""
    pages = chosen * p.reciprocal >> 32
    at = p.weight + pages * 4096 + (chosen - pages * p.per_page) * p.row_bytes
    c.workspace.touched += len(chosen) * width
    return c.program.file.bytes[at[:, None] + np.arange(width)].view(np.int8)


def _upper_bytes(q: np.ndarray) -> np.ndarray:
    """Return round(q / 256)."""
    return (q.astype(np.int32) + 128 >> 8).astype(np.float32)


def _predict(c: _Call, p: Any) -> None:
    F, C = p.units * p.unit, p.cols
    q, scale = c.private(p.src, C, np.int16), c.private(p.src_scale, 1)
    u, high = _upper_bytes(q), np.empty((c.tokens, F), bool)  # (T, C), (T, F)
    signs = c.weights(p.signs, np.dtype("u1"), -(-F // op.BLOCK), C // 8, op.BLOCK)
    step = max(1, BLOCK // C // op.BLOCK) * op.BLOCK
    for i in range(0, F, step):
        part = slice(i, min(i + step, F))
        block = unpack(signs[i // op.BLOCK : (i + step) // op.BLOCK], 1)[
            : part.stop - i
        ]  # (step, C)
        score = (2 * _product(u, c.floats(block)) - u.sum(axis=1, keepdims=True)) * (
            256 * scale
        )  # (T, step)
        high[:, part] = score > c.vector(p.threshold, F)[part]
    if p.network != op.NONE:
        high |= ~(c.shared(p.network, F) <= c.vector(p.network_threshold, F))
    hidden = c.shared(p.dst, F)
    hidden[:] = 0 * scale  # NaN stays
    for t in range(c.tokens):
        chosen = np.flatnonzero(high[t])
        y = _rows(c, p, chosen, C) @ q[t].astype(np.float32)
        hidden[t, chosen] = _squared_relu(y * (c.vector(p.scale, F)[chosen] * scale[t]))


def _sparse(c: _Call, p: Any) -> None:
    C, q = p.units * p.unit, c.private(p.src, p.stride, np.int16)
    x, scale = c.shared(p.dst, C), c.vector(p.scale, C)
    for t in range(c.tokens):
        used = np.flatnonzero(q[t])
        y = (q[t, used].astype(np.float32) @ _rows(c, p, used, C)) * (
            scale * c.private(p.src_scale, 1)[t]
        )
        x[t] += y if p.mode == op.ADD else c.shared(p.gate, C)[t] * y


def _wkv4(c: _Call, p: Any) -> None:
    C, at = p.width, p.state // 4
    w, u = c.vector(p.decay, C), c.vector(p.first, C)
    aa, bb, pp = c.old[at : at + 3 * C].reshape(3, C)
    rs, ks, vs, y = (c.shared(buffer, C) for buffer in (p.r, p.k, p.v, p.dst))
    for t in range(c.tokens):
        q = np.maximum(pp, u + ks[t])
        e1, e2 = np.exp(pp - q), np.exp(u + ks[t] - q)
        y[t] = rs[t] * ((e1 * aa + e2 * vs[t]) / (e1 * bb + e2))
        q = np.maximum(pp + w, ks[t])
        e1, e2 = np.exp(pp + w - q), np.exp(ks[t] - q)
        aa, bb, pp = e1 * aa + e2 * vs[t], e1 * bb + e2, q
    c.new[at : at + 3 * C].reshape(3, C)[:] = aa, bb, pp


def _head_state(c: _Call, p: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return a copy of the old wkv state, (H, key, value), and where the new one goes."""
    part = slice(p.state // 4, p.state // 4 + p.heads * p.size * p.size)
    return c.old[part].reshape(p.heads, p.size, p.size).copy(), c.new[part].reshape(
        p.heads, p.size, p.size
    )


def _ln_x(c: _Call, p: Any, y: np.ndarray) -> np.ndarray:
    C = p.heads * p.size
    return _normalise(y, c.ln_x_eps).reshape(C) * c.vector(p.ln_weight, C) + c.vector(p.ln_bias, C)


def _wkv5(c: _Call, p: Any) -> None:
    C, H = p.heads * p.size, (p.heads, p.size)
    S, new = _head_state(c, p)
    for t in range(c.tokens):
        r, k, v = (c.shared(buffer, C)[t].reshape(H) for buffer in (p.r, p.k, p.v))
        w = (c.shared(p.decay, C)[t] if p.per_token else c.vector(p.decay, C)).reshape(H)
        u = c.vector(p.bonus, C).reshape(H)
        y = np.einsum("hk,hkv->hv", r, S) + (r * u * k).sum(axis=1, keepdims=True) * v
        S *= w[:, :, None]
        S += k[:, :, None] * v[:, None, :]
        y = _ln_x(c, p, y)
        c.shared(p.dst, C)[t] = y if p.g == op.NONE else y * c.shared(p.g, C)[t]
    new[:] = S


def _wkv7(c: _Call, p: Any) -> None:
    C, H = p.heads * p.size, (p.heads, p.size)
    S, new = _head_state(c, p)
    for t in range(c.tokens):
        r, k, v, w, a = (c.shared(buffer, C)[t].reshape(H) for buffer in (p.r, p.k, p.v, p.w, p.a))
        if p.v_gate != op.NONE:
            v = v + (c.shared(p.v_first, C)[t].reshape(H) - v) * c.shared(p.v_gate, C)[t].reshape(H)
        kk = k * c.vector(p.k_k, C).reshape(H)
        kk = kk / np.maximum(np.sqrt(np.square(kk).sum(axis=1, keepdims=True)), np.float32(1e-12))
        k = k * (1 + (a - 1) * c.vector(p.k_a, C).reshape(H))
        removed = np.einsum("hkv,hk->hv", S, -kk)
        S *= w[:, :, None]
        S += (kk * a)[:, :, None] * removed[:, None, :]
        S += k[:, :, None] * v[:, None, :]
        y = _ln_x(c, p, np.einsum("hk,hkv->hv", r, S))
        y += ((r * k * c.vector(p.r_k, C).reshape(H)).sum(axis=1, keepdims=True) * v).reshape(C)
        c.shared(p.dst, C)[t] = y * c.shared(p.g, C)[t]
    new[:] = S


def _level(c: _Call, p: Any) -> None:
    u, s = (
        _upper_bytes(c.private(p.src, p.rank, np.int16)),
        128 * c.private(p.src_scale, 1),
    )  # (T, rank), (T, 1)
    z, middle = c.shared(p.dst, p.dst_stride), (2**p.bits - 1) * u.sum(axis=1, keepdims=True)
    codes = c.weights(p.codes, np.dtype("u1"), -(-p.rows // op.BLOCK), p.bytes, op.BLOCK)
    scales = c.vector(p.table, 256)[c.weights(p.scales, np.dtype("u1"), p.rows)]
    step = max(1, BLOCK // p.rank // op.BLOCK) * op.BLOCK
    for i in range(0, p.rows, step):
        part = slice(i, min(i + step, p.rows))
        block = unpack(codes[i // op.BLOCK : (i + step) // op.BLOCK], p.bits)[
            : part.stop - i
        ]  # (step, rank)
        y = (2 * _product(u, c.floats(block)) - middle) * (scales[part] * s)
        z[:, part] = z[:, part] + y if p.add else y


def _preview(c: _Call, p: Any) -> None:
    u1, ranges = np.dtype("u1"), c.weights(p.ranges, F32, 2, 2)
    z = c.shared(p.dst, p.rows)  # (T, V)
    z += (c.private(p.src, p.cols) @ c.vector(p.mean, p.cols))[:, None]
    z += even(ranges[0], c.weights(p.bias, u1, p.rows))
    c.shared(p.scores, p.rows, np.int16)[:] = steps(
        z + even(ranges[1], c.weights(p.spread, u1, p.rows))
    )


def _choose(c: _Call, p: Any) -> None:
    scores, wanted = c.shared(p.scores, p.rows, np.int16), int(c.weights(p.wanted, I32, 1)[0])
    c.private(p.dst, 1, I32)[:] = lowest_score(scores, wanted)


def _exact(c: _Call, p: Any) -> None:
    q, s = c.private(p.src, p.cols, np.int16).astype(np.float32), c.private(p.src_scale, 1)
    scores, lowest = c.shared(p.scores, p.dst_stride, np.int16), c.private(p.lowest, 1, I32)
    z, scale = c.shared(p.dst, p.dst_stride), c.vector(p.scale, p.dst_stride)
    for t in range(c.tokens):
        rows = p.first + np.flatnonzero(scores[t, p.first : p.first + p.rows] >= lowest[t])
        W = c.weights(p.weight, np.dtype("i1"), p.dst_stride, p.cols)[rows]  # (n, C)
        z[t, rows] = (W @ q[t]) * (scale[rows] * s[t])
        c.workspace.touched += len(rows) * (p.cols + 4)


def _gather(c: _Call, p: Any) -> None:
    c.out.reshape(-1, p.rows)[: c.tokens] = c.shared(p.src, p.rows)[
        :, c.weights(p.places, I32, p.rows)
    ]


def _select(c: _Call, p: Any) -> None:
    if c.head == HEAD_OF_LAST and c.tokens > 1:
        x = c.shared(p.src, p.width)
        x[0] = x[-1]
        c.tokens = 1


def _sync(c: _Call, p: Any) -> None:
    """One thread has nobody to wait for."""
