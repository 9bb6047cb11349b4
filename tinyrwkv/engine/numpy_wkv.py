"""The wkv of each version in NumPy: what a time mix reads from its state and writes to it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..kernels import abi as op
from .numpy_call import Call
from .numpy_pointwise import normalise


def wkv4(call: Call, fields: Any) -> None:
    """Average the values so far.

    ::

        q = max(pp, u + k)
        wkv = (e^(pp-q) aa + e^(u+k-q) v) / (e^(pp-q) bb + e^(u+k-q))

        q = max(pp + w, k)
        aa = e^(pp+w-q) aa + e^(k-q) v
        bb = e^(pp+w-q) bb + e^(k-q)
        pp = q
    """
    C = fields.width
    w = call.vector(fields.decay, C)
    u = call.vector(fields.first, C)
    start = fields.state // 4
    state = slice(start, start + 3 * C)
    aa, bb, pp = call.old[state].reshape(3, C)
    rs, ks, vs = (call.shared(place, C) for place in (fields.r, fields.k, fields.v))  # (T, C)
    y = call.shared(fields.dst, C)
    for t in range(call.tokens):
        r, k, v = rs[t], ks[t], vs[t]
        q = np.maximum(pp, u + k)
        past = np.exp(pp - q)
        now = np.exp(u + k - q)
        wkv = (past * aa + now * v) / (past * bb + now)
        y[t] = r * wkv
        q = np.maximum(pp + w, k)
        past = np.exp(pp + w - q)
        now = np.exp(k - q)
        aa = past * aa + now * v
        bb = past * bb + now
        pp = q
        call.renew(t, state, np.stack([aa, bb, pp]))


class _Heads:
    """The activations, vectors and states of one operation, as arrays of its heads."""

    def __init__(self, call: Call, fields: Any) -> None:
        self.call = call
        self.fields = fields
        self.H, self.N = fields.heads, fields.size
        self.C = self.H * self.N

    def tokens(self, place: int) -> np.ndarray:
        """Return activations from the shared workspace, (T, H, N)."""
        return self.call.shared(place, self.C).reshape(-1, self.H, self.N)

    def vector(self, place: int) -> np.ndarray:
        """Return a vector of weights, (H, N)."""
        return self.call.vector(place, self.C).reshape(self.H, self.N)

    def state(self) -> tuple[np.ndarray, slice]:
        """Return a copy of the old state, (H, key, value), and its place among all states."""
        start = self.fields.state // 4
        place = slice(start, start + self.C * self.N)
        return self.call.old[place].reshape(self.H, self.N, self.N).copy(), place

    def ln_x(self, y: np.ndarray) -> np.ndarray:
        """Return the layer norm of each head, with weights and biases for all: (H, N) to (C,)."""
        weight = self.call.vector(self.fields.ln_weight, self.C)
        bias = self.call.vector(self.fields.ln_bias, self.C)
        return normalise(y, self.call.ln_x_eps).reshape(self.C) * weight + bias


def wkv5(call: Call, fields: Any) -> None:
    """Read and write one matrix S for each head.

    ::

        y = ln_x(r @ (S + diag(u) k v^T)) * g
        S = diag(w) S + k v^T
    """
    heads = _Heads(call, fields)
    rs = heads.tokens(fields.r)  # (T, H, N)
    ks = heads.tokens(fields.k)
    vs = heads.tokens(fields.v)
    if fields.per_token:
        ws = heads.tokens(fields.decay)
    else:
        ws = np.broadcast_to(heads.vector(fields.decay), rs.shape)
    u = heads.vector(fields.bonus)
    gs = None if fields.g == op.NONE else call.shared(fields.g, heads.C)
    out = call.shared(fields.dst, heads.C)  # (T, C)
    S, place = heads.state()
    for t in range(call.tokens):
        r, k, v, w = rs[t], ks[t], vs[t], ws[t]  # (H, N)
        of_now = (r * u * k).sum(axis=1, keepdims=True)  # (H, 1)
        y = np.einsum("hk,hkv->hv", r, S) + of_now * v
        S *= w[:, :, None]
        S += _outer(k, v)
        result = heads.ln_x(y)  # (C,)
        out[t] = result if gs is None else result * gs[t]
        call.renew(t, place, S)


def wkv7(call: Call, fields: Any) -> None:
    """Take out of each head's matrix S what it holds for kk, and write the value in its place.

    ::

        v = v + (v_first - v) * v_gate          not in the first layer
        kk = k * k_k / |k * k_k|
        k = k * (1 + (a - 1) * k_a)
        S = diag(w) S + kk a (S^T -kk)^T + k v^T
        y = (ln_x(r @ S) + (r . k r_k) v) * g
    """
    heads = _Heads(call, fields)
    rs = heads.tokens(fields.r)  # (T, H, N)
    ks = heads.tokens(fields.k)
    vs = _values(heads)
    ws = heads.tokens(fields.w)
    rates = heads.tokens(fields.a)
    k_k = heads.vector(fields.k_k)  # (H, N)
    k_a = heads.vector(fields.k_a)
    r_k = heads.vector(fields.r_k)
    gs = call.shared(fields.g, heads.C)
    out = call.shared(fields.dst, heads.C)  # (T, C)
    S, place = heads.state()
    for t in range(call.tokens):
        r, k, v, w, a = rs[t], ks[t], vs[t], ws[t], rates[t]  # (H, N)
        kk = _normalised(k * k_k)
        k = k * (1 + (a - 1) * k_a)
        removed = np.einsum("hkv,hk->hv", S, -kk)
        S *= w[:, :, None]
        S += _outer(kk * a, removed)
        S += _outer(k, v)
        of_now = (r * k * r_k).sum(axis=1, keepdims=True)  # (H, 1)
        y = heads.ln_x(np.einsum("hk,hkv->hv", r, S))  # (C,)
        y += (of_now * v).reshape(heads.C)
        out[t] = y * gs[t]
        call.renew(t, place, S)


def _values(heads: _Heads) -> np.ndarray:
    """Return the values of v7, (T, H, N): after the first layer, mixed with those of that layer."""
    fields = heads.fields
    v = heads.tokens(fields.v)
    if fields.v_gate == op.NONE:
        return v
    v_first = heads.tokens(fields.v_first)
    return v + (v_first - v) * heads.tokens(fields.v_gate)


def _outer(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a b^T for each head, (H, N, N)."""
    return a[:, :, None] * b[:, None, :]


def _normalised(x: np.ndarray) -> np.ndarray:
    """Return each head's vector with length 1."""
    length = np.sqrt(np.square(x).sum(axis=1, keepdims=True))  # (H, 1)
    return x / np.maximum(length, np.float32(1e-12))
