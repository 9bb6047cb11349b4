"""The recurrence of each version: read the state with the receptance, renew it with key and value.

Activations are shared, with a row for each token; new states are written next to the old ones, so
that a call can be repeated. The state after token t goes to t * STATE_STEP bytes after NEW. `run`
calls `wkv4`, `wkv5` and `wkv7`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from . import abi as op
from . import simd
from .common import dot, f32, i32, i64, kernel, normalise, share
from .scalars import exp
from .simd import f32_at, square_root, store_past_caches, vectors
from .types import Address, Arguments, Bool, Fields, Float, Floats, Int, Offset

LARGE = 1 << 17
"""Bytes of a layer's state from which those of all layers leave the caches until the next token."""


@kernel
def leaves_caches(args: Arguments, state: Offset, size: Int) -> Bool:
    """Tell whether a new state is better written past the caches.

    It is when it is large and of one token, so that it is not read again in this call. Its address
    must be a multiple of 16, as stores of vectors need.
    """
    return size >= LARGE and args[op.TOKENS] == 1 and (args[op.NEW] + state) & 15 == 0


@kernel
def wkv4(args: Arguments, fields: Fields) -> None:
    """wkv of v4, channel by channel; the state has the rows aa, bb, pp.

    With w = decay and u = first:
    q = max(pp, u + k);  wkv = (e^(pp-q) aa + e^(u+k-q) v) / (e^(pp-q) bb + e^(u+k-q))
    dst = r wkv
    q = max(pp + w, k);  aa = e^(pp+w-q) aa + e^(k-q) v;  bb = e^(pp+w-q) bb + e^(k-q);  pp = q
    """
    width = i32(fields[op.WKV4_AT.width])
    first, last = share(args, width, 1)
    decay = f32_at(args[op.WEIGHTS] + fields[op.WKV4_AT.decay])
    bonus = f32_at(args[op.WEIGHTS] + fields[op.WKV4_AT.first])
    old = f32_at(args[op.OLD] + fields[op.WKV4_AT.state])
    for c in range(first, last):
        aa, bb, pp = old[c], old[c + width], old[c + 2 * width]
        for t in range(i32(args[op.TOKENS])):
            at = (i64(t) * width + c) * 4
            r = f32_at(args[op.SHARED] + fields[op.WKV4_AT.r] + at)[0]
            k = f32_at(args[op.SHARED] + fields[op.WKV4_AT.k] + at)[0]
            v = f32_at(args[op.SHARED] + fields[op.WKV4_AT.v] + at)[0]
            q = max(pp, bonus[c] + k)
            e1, e2 = exp(pp - q), exp(bonus[c] + k - q)
            wkv = (e1 * aa + e2 * v) / (e1 * bb + e2)
            f32_at(args[op.SHARED] + fields[op.WKV4_AT.dst] + at)[0] = r * wkv
            q = max(pp + decay[c], k)
            e1, e2 = exp(pp + decay[c] - q), exp(k - q)
            aa, bb, pp = e1 * aa + e2 * v, e1 * bb + e2, q
            new = f32_at(args[op.NEW] + i64(t) * args[op.STATE_STEP] + fields[op.WKV4_AT.state])
            new[c], new[c + width], new[c + 2 * width] = aa, bb, pp


@kernel
def head_norm(
    args: Arguments,
    y: Address,
    weight: Floats,
    bias: Floats,
    bonus: Float,
    v: Floats,
    gate: Address,
    n: Int,
) -> None:
    """y = (ln_x(y) + bonus * v) * gate for one head; gate is 0 where there is none."""
    normalise(args, y, y, n, f32_at(args[op.SHARED] + op.EPSILON)[0])
    out = f32_at(y)
    for j in range(n):
        out[j] = out[j] * weight[j] + bias[j] + bonus * v[j]
    if gate != 0:
        g = f32_at(gate)
        for j in range(n):
            out[j] = out[j] * g[j]


class HeadVectors(NamedTuple):
    """Where the vectors of a head and a token lie, of n float32 each."""

    r: Address
    k: Address
    w: Address
    kk: Address
    b: Address


def _read_and_write(lanes: int, large: bool = False) -> Any:
    """Make the kernel of y += r @ S, S = diag(w) S + k v^T, for `lanes` columns of a head's S.

    With `large`, the new state is written past the caches.
    """
    load, store, scale, add_scaled = vectors(lanes)
    store_state = store_past_caches(lanes) if large else store

    @kernel
    def columns(
        old: Address, new: Address, v: Address, y: Address, n: Int, at: HeadVectors
    ) -> None:
        total, value = load(y), load(v)
        row = i64(n) * 4
        for i in range(n):
            s = load(old + i * row)
            total = add_scaled(total, s, f32_at(at.r)[i])
            place = new + i * row
            s = scale(s, f32_at(at.w)[i])
            store_state(place, add_scaled(s, value, f32_at(at.k)[i]))
        store(y, total)

    return columns


def _replace_and_read(lanes: int, large: bool = False) -> Any:
    """Make the kernel of S = diag(w) S + b (S^T -kk)^T + k v^T, y = r @ S, for `lanes` columns.

    With `large`, the new state is written past the caches.
    """
    load, store, scale, add_scaled = vectors(lanes)
    store_state = store_past_caches(lanes) if large else store

    @kernel
    def columns(
        old: Address, new: Address, v: Address, y: Address, n: Int, at: HeadVectors
    ) -> None:
        value = load(v)
        row = i64(n) * 4
        removed = scale(load(old), -f32_at(at.kk)[0])
        for i in range(1, n):
            removed = add_scaled(removed, load(old + i * row), -f32_at(at.kk)[i])
        total = scale(value, f32(0))
        for i in range(n):
            s = scale(load(old + i * row), f32_at(at.w)[i])
            s = add_scaled(s, removed, f32_at(at.b)[i])
            s = add_scaled(s, value, f32_at(at.k)[i])
            store_state(new + i * row, s)
            total = add_scaled(total, s, f32_at(at.r)[i])
        store(y, total)

    return columns


def _of_a_head(make: Any) -> Any:
    """Make the kernel of all columns of one head's state, as many at a time as its size allows.

    ``head(old, new, v, y, n, large, at)``: addresses of the old and the new state, of values and
    results, n columns, whether to write past the caches, and where its other vectors lie.
    """
    lanes = 8 if simd.SCALAR else 64
    narrow, wide, past_caches = make(8), make(lanes), make(lanes, large=True)
    step = 4 * lanes

    @kernel
    def head(
        old: Address, new: Address, v: Address, y: Address, n: Int, large: Bool, at: HeadVectors
    ) -> None:
        for j in range(0, i64(n) * 4, 32 if n % 64 else step):
            if n % 64:
                narrow(old + j, new + j, v + j, y + j, n, at)
            elif large:
                past_caches(old + j, new + j, v + j, y + j, n, at)
            else:
                wide(old + j, new + j, v + j, y + j, n, at)

    return head


read_and_write = _of_a_head(_read_and_write)
replace_and_read = _of_a_head(_replace_and_read)


@kernel
def wkv5(args: Arguments, fields: Fields) -> None:
    """wkv of v5 and v6 for this thread's heads; S is [key, value].

    y = r @ (S + diag(u) k v^T);  S = diag(w) S + k v^T;  dst = ln_x(y) * g

    u is `bonus`; w is `decay`, in the weights or, if per_token, a shared activation. g may be NONE.
    """
    heads, n = i32(fields[op.WKV5_AT.heads]), i32(fields[op.WKV5_AT.size])
    first, last = share(args, heads, 1)
    width, row = i64(heads) * n * 4, i64(n) * 4
    large = leaves_caches(args, fields[op.WKV5_AT.state], width * n)
    for h in range(first, last):
        head = i64(h) * row
        state = fields[op.WKV5_AT.state] + i64(h) * n * row
        u = f32_at(args[op.WEIGHTS] + fields[op.WKV5_AT.bonus] + head)
        weight = f32_at(args[op.WEIGHTS] + fields[op.WKV5_AT.ln_weight] + head)
        bias = f32_at(args[op.WEIGHTS] + fields[op.WKV5_AT.ln_bias] + head)
        for t in range(i32(args[op.TOKENS])):
            at = args[op.SHARED] + i64(t) * width + head
            r, k = at + fields[op.WKV5_AT.r], at + fields[op.WKV5_AT.k]
            v, y = at + fields[op.WKV5_AT.v], at + fields[op.WKV5_AT.dst]
            if fields[op.WKV5_AT.per_token]:
                w = at + fields[op.WKV5_AT.decay]
            else:
                w = args[op.WEIGHTS] + fields[op.WKV5_AT.decay] + head
            new = args[op.NEW] + i64(t) * args[op.STATE_STEP] + state
            old = args[op.OLD] + state if t == 0 else new - args[op.STATE_STEP]
            bonus = f32(0)  # r . (u k)
            for i in range(n):
                bonus += f32_at(r)[i] * u[i] * f32_at(k)[i]
            for j in range(n):
                f32_at(y)[j] = bonus * f32_at(v)[j]
            places = HeadVectors(r, k, w, r, r)  # v7 alone has kk and b
            read_and_write(old, new, v, y, n, large, places)
            gate = i64(0) if fields[op.WKV5_AT.g] == op.NONE else at + fields[op.WKV5_AT.g]
            head_norm(args, y, weight, bias, f32(0), f32_at(v), gate, n)


@kernel
def wkv7(args: Arguments, fields: Fields) -> None:
    """wkv of v7 for this thread's heads; S is [key, value].

    v = v + (v_first - v) v_gate;  kk = normalise(k k_k);  k = k (1 + (a - 1) k_a)
    S = diag(w) S + (kk a) (S^T -kk)^T + k v^T;  dst = (ln_x(r @ S) + (r . k r_k) v) * g

    Where v_gate is NONE, v stays as it is.
    """
    heads, n = i32(fields[op.WKV7_AT.heads]), i32(fields[op.WKV7_AT.size])
    first, last = share(args, heads, 1)
    width, row = i64(heads) * n * 4, i64(n) * 4
    large = leaves_caches(args, fields[op.WKV7_AT.state], width * n)
    # Three vectors of one head: kk, the new k, and kk a.
    kk_at = args[op.PRIVATE] + op.SCRATCH
    key_at = args[op.PRIVATE] + op.SCRATCH + row
    b_at = args[op.PRIVATE] + op.SCRATCH + 2 * row
    kk, key, b = f32_at(kk_at), f32_at(key_at), f32_at(b_at)
    for h in range(first, last):
        head = i64(h) * row
        state = fields[op.WKV7_AT.state] + i64(h) * n * row
        k_k = f32_at(args[op.WEIGHTS] + fields[op.WKV7_AT.k_k] + head)
        k_a = f32_at(args[op.WEIGHTS] + fields[op.WKV7_AT.k_a] + head)
        r_k = f32_at(args[op.WEIGHTS] + fields[op.WKV7_AT.r_k] + head)
        weight = f32_at(args[op.WEIGHTS] + fields[op.WKV7_AT.ln_weight] + head)
        bias = f32_at(args[op.WEIGHTS] + fields[op.WKV7_AT.ln_bias] + head)
        for t in range(i32(args[op.TOKENS])):
            at = args[op.SHARED] + i64(t) * width + head
            r, k = f32_at(at + fields[op.WKV7_AT.r]), f32_at(at + fields[op.WKV7_AT.k])
            v, rate = f32_at(at + fields[op.WKV7_AT.v]), f32_at(at + fields[op.WKV7_AT.a])
            new = args[op.NEW] + i64(t) * args[op.STATE_STEP] + state
            old = args[op.OLD] + state if t == 0 else new - args[op.STATE_STEP]
            if fields[op.WKV7_AT.v_gate] != op.NONE:
                v_gate = f32_at(at + fields[op.WKV7_AT.v_gate])
                v_first = f32_at(at + fields[op.WKV7_AT.v_first])
                for j in range(n):
                    v[j] = v[j] + (v_first[j] - v[j]) * v_gate[j]
            for j in range(n):
                kk[j] = k[j] * k_k[j]
            length = square_root(dot(args, kk_at, kk_at, n))
            inverse = f32(1) / max(length, f32(1e-12))
            for j in range(n):
                kk[j] = kk[j] * inverse
            for j in range(n):
                key[j] = k[j] * (f32(1) + (rate[j] - f32(1)) * k_a[j])
                b[j] = kk[j] * rate[j]
            bonus = f32(0)  # r . (k r_k)
            for j in range(n):
                bonus += r[j] * key[j] * r_k[j]
            y, w = at + fields[op.WKV7_AT.dst], at + fields[op.WKV7_AT.w]
            value_at, r_at = at + fields[op.WKV7_AT.v], at + fields[op.WKV7_AT.r]
            places = HeadVectors(r_at, key_at, w, kk_at, b_at)
            replace_and_read(old, new, value_at, y, n, large, places)
            head_norm(args, y, weight, bias, bonus, v, at + fields[op.WKV7_AT.g], n)
