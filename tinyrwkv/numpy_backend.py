"""Run a program with NumPy alone, one vectorised function for each operation, straight from the mapped weights."""

from __future__ import annotations

import numpy as np

from . import program as op
from .backends import HEAD_OF_LAST, Workspace
from .program import Program
from .reference import sigmoid, silu

BLOCK = 1 << 20
"""Weights that are floats at one time: 4 MB, whatever the size of a matrix."""

TYPES = {op.F32: np.dtype("<f4"), op.F16: np.dtype("<f2"), op.INT8: np.dtype("i1")}


def _activate(y: np.ndarray, activation: int) -> np.ndarray:
    if activation == op.SQUARED_RELU:
        return np.square(np.maximum(y, 0))
    if activation == op.DECAY_V6:
        return np.exp(-np.exp(y))
    if activation == op.DECAY_V7:
        return np.exp(np.float32(-0.6065306597126334) * sigmoid(y))
    return {op.IDENTITY: lambda z: z, op.SIGMOID: sigmoid, op.TANH: np.tanh, op.SILU: silu}[activation](y)


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
        self.operations = [getattr(self, f"_{op.NAMES[row[0]].lower()}") for row in program.rows]

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
            for i in range(first, last):
                self.operations[i](call, *self.program.rows[i][1:])

    @staticmethod
    def _embed(c: _Call, weight: int, scale: int, kind: int, dst: int, width: int) -> None:
        vocabulary = c.program.config["vocab_size"]
        rows = c.weights(weight, TYPES[kind], vocabulary * width).reshape(vocabulary, width)[c.ids]  # (T, C)
        x = c.shared(dst, width)
        x[:] = rows
        if kind == op.INT8:
            x *= c.weights(scale, TYPES[op.F32], vocabulary)[c.ids, None]

    @staticmethod
    def _norm(c: _Call, src: int, weight: int, bias: int, dst: int, width: int) -> None:
        x = _normalise(c.shared(src, width), np.float32(1e-5))
        c.private(dst, width)[:] = x * c.vector(weight, width) + c.vector(bias, width)

    @staticmethod
    def _shift(c: _Call, src: int, state: int, mu: int, count: int, delta: int, dst: int, width: int) -> None:
        xn, at = c.private(src, width), state // 4
        prev = np.concatenate([c.old[None, at : at + width], xn[:-1]])  # (T, C)
        plane = op.MAX_TOKENS * 4 * width
        for j in range(count):
            m = c.vector(mu + 4 * j * width, width)
            if delta != op.NONE:
                m = m + c.shared(delta + j * plane, width)
            c.private(dst + j * plane, width)[:] = xn + (prev - xn) * m
        c.new[at : at + width] = xn[-1]

    @staticmethod
    def _quantize(c: _Call, shared: int, src: int, stride: int, width: int, dst: int, scale: int, qmax: int) -> None:
        x = (c.shared if shared else c.private)(src, stride)[:, :width]
        largest = np.abs(x).max(axis=1, keepdims=True)  # (T, 1)
        inverse = np.where(largest > 0, np.float32(qmax) / largest, 0)
        c.private(dst, width, np.int16)[:] = np.rint(x * inverse)
        c.private(scale, 1)[:] = largest / np.float32(qmax)

    @staticmethod
    def _matmul(
        c: _Call,
        weight: int,
        scale: int,
        kind: int,
        rows: int,
        cols: int,
        unit: int,
        shared: int,
        src: int,
        stride: int,
        src_scale: int,
        dst: int,
        dst_stride: int,
        activation: int,
        bias: int,
        mode: int,
        gate: int,
    ) -> None:
        x = c.shared(src, stride) if shared else c.private(src, stride, np.int16 if kind == op.INT8 else np.float32)
        x = x[:, :cols].astype(np.float32)  # (T, cols); int16 and sums of its products fit in float32
        W = c.weights(weight, TYPES[kind], rows * cols).reshape(rows, cols)
        if mode == op.LOGITS:
            assert c.out is not None
            out = c.out.reshape(-1, dst_stride)[: c.tokens, dst // 4 : dst // 4 + rows]
        else:
            out = c.shared(dst, dst_stride)[:, :rows]
        step = max(1, BLOCK // cols)
        for i in range(0, rows, step):
            block = W[i : i + step]
            if kind != op.F32:
                block = c.floats(block)
            y = x @ block.T  # (T, step)
            part = slice(i, i + len(block))
            if kind == op.INT8:
                y *= c.vector(scale, rows)[part] * c.private(src_scale, 1)
            if bias != op.NONE:
                y += c.vector(bias, rows)[part]
            y = _activate(y, activation)
            if mode == op.GATED_ADD:
                y = y * c.shared(gate, rows)[:, part]
            out[:, part] = y if mode in (op.STORE, op.LOGITS) else out[:, part] + y

    @staticmethod
    def _wkv4(c: _Call, r: int, k: int, v: int, decay: int, first: int, state: int, dst: int, width: int) -> None:
        at, w, u = state // 4, c.vector(decay, width), c.vector(first, width)
        aa, bb, pp = c.old[at : at + 3 * width].reshape(3, width)
        rs, ks, vs, y = (c.shared(buffer, width) for buffer in (r, k, v, dst))
        for t in range(c.tokens):
            q = np.maximum(pp, u + ks[t])
            e1, e2 = np.exp(pp - q), np.exp(u + ks[t] - q)
            y[t] = rs[t] * ((e1 * aa + e2 * vs[t]) / (e1 * bb + e2))
            q = np.maximum(pp + w, ks[t])
            e1, e2 = np.exp(pp + w - q), np.exp(ks[t] - q)
            aa, bb, pp = e1 * aa + e2 * vs[t], e1 * bb + e2, q
        c.new[at : at + 3 * width].reshape(3, width)[:] = aa, bb, pp

    @staticmethod
    def _wkv5(
        c: _Call,
        r: int,
        k: int,
        v: int,
        g: int,
        decay: int,
        per_token: int,
        bonus: int,
        ln_weight: int,
        ln_bias: int,
        state: int,
        dst: int,
        heads: int,
        size: int,
    ) -> None:
        C, at, H = heads * size, state // 4, (heads, size)
        S = c.old[at : at + C * size].reshape(heads, size, size).copy()  # (H, key, value)
        for t in range(c.tokens):
            rt, kt, vt = (c.shared(buffer, C)[t].reshape(H) for buffer in (r, k, v))
            w = (c.shared(decay, C)[t] if per_token else c.vector(decay, C)).reshape(H)
            u = c.vector(bonus, C).reshape(H)
            y = np.einsum("hk,hkv->hv", rt, S) + (rt * u * kt).sum(axis=1, keepdims=True) * vt
            S *= w[:, :, None]
            S += kt[:, :, None] * vt[:, None, :]
            y = _normalise(y, c.ln_x_eps).reshape(C) * c.vector(ln_weight, C) + c.vector(ln_bias, C)
            c.shared(dst, C)[t] = y if g == op.NONE else y * c.shared(g, C)[t]
        c.new[at : at + C * size] = S.ravel()

    @staticmethod
    def _wkv7(
        c: _Call,
        r: int,
        k: int,
        v: int,
        w: int,
        a: int,
        g: int,
        v_gate: int,
        v_first: int,
        k_k: int,
        k_a: int,
        r_k: int,
        ln_weight: int,
        ln_bias: int,
        state: int,
        dst: int,
        heads: int,
        size: int,
    ) -> None:
        C, at, H = heads * size, state // 4, (heads, size)
        S = c.old[at : at + C * size].reshape(heads, size, size).copy()  # (H, key, value)
        for t in range(c.tokens):
            rt, kt, vt, wt, rate = (c.shared(buffer, C)[t].reshape(H) for buffer in (r, k, v, w, a))
            if v_gate != op.NONE:
                vt = vt + (c.shared(v_first, C)[t].reshape(H) - vt) * c.shared(v_gate, C)[t].reshape(H)
            kk = kt * c.vector(k_k, C).reshape(H)
            kk = kk / np.maximum(np.sqrt(np.square(kk).sum(axis=1, keepdims=True)), np.float32(1e-12))
            kt = kt * (1 + (rate - 1) * c.vector(k_a, C).reshape(H))
            removed = np.einsum("hkv,hk->hv", S, -kk)
            S *= wt[:, :, None]
            S += (kk * rate)[:, :, None] * removed[:, None, :]
            S += kt[:, :, None] * vt[:, None, :]
            y = _normalise(np.einsum("hk,hkv->hv", rt, S), c.ln_x_eps).reshape(C)
            y = y * c.vector(ln_weight, C) + c.vector(ln_bias, C)
            y += ((rt * kt * c.vector(r_k, C).reshape(H)).sum(axis=1, keepdims=True) * vt).reshape(C)
            c.shared(dst, C)[t] = y * c.shared(g, C)[t]
        c.new[at : at + C * size] = S.ravel()

    @staticmethod
    def _select(c: _Call, src: int, width: int) -> None:
        if c.head == HEAD_OF_LAST and c.tokens > 1:
            x = c.shared(src, width)
            x[0] = x[-1]
            c.tokens = 1

    @staticmethod
    def _sync(c: _Call) -> None:
        pass


class _Call:
    """The memory of one call, as arrays of shape (tokens, width)."""

    def __init__(
        self,
        program: Program,
        workspace: Workspace,
        ids: np.ndarray,
        old: np.ndarray,
        new: np.ndarray,
        out: np.ndarray | None,
        head: int,
    ) -> None:
        self.program, self.workspace, self.ids, self.tokens = program, workspace, ids, len(ids)
        self.old, self.new, self.out, self.head = old, new, out, head
        self.ln_x_eps = np.float32(program.config["ln_x_eps"])

    def weights(self, offset: int, dtype: np.dtype, count: int) -> np.ndarray:
        return np.frombuffer(self.program.file.bytes, dtype, count, offset)

    def vector(self, offset: int, width: int) -> np.ndarray:
        return self.weights(offset, TYPES[op.F32], width)

    def shared(self, offset: int, width: int) -> np.ndarray:
        return np.frombuffer(self.workspace.shared, np.float32, self.tokens * width, offset).reshape(-1, width)

    def private(self, offset: int, width: int, dtype: type = np.float32) -> np.ndarray:
        return np.frombuffer(self.workspace.private[0], dtype, self.tokens * width, offset).reshape(-1, width)

    def floats(self, block: np.ndarray) -> np.ndarray:
        """Widen a block of weights into a buffer that every block of this workspace uses."""
        buffer = self.workspace.floats(block.size).reshape(block.shape)
        np.copyto(buffer, block)
        return buffer
