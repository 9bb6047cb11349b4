"""The recurrence of each version: read the state with the receptance, renew it with key and value."""

from __future__ import annotations

from typing import Any

from . import abi as op
from .abi import NEW, OLD, PRIVATE, SCRATCH, SHARED, TOKENS, WEIGHTS, WKV4_AT, WKV5_AT, WKV7_AT
from .common import dot, f32, i32, i64, kernel, normalise, share
from .scalars import exp
from .simd import f32_at, square_root, store_past_caches, vectors

LARGE = (
    1 << 17
)  # bytes of a layer's state from which those of all layers do not stay in a cache until the next token


@kernel
def leaves_caches(a: Any, state: Any, size: Any) -> Any:
    """Tell whether a new state is better written past the caches: large, of one token, and where vectors can be."""
    return size >= LARGE and a[TOKENS] == 1 and (a[NEW] + state) & 15 == 0


@kernel
def wkv4(a: Any, p: Any) -> None:
    """wkv of v4, channel by channel; state rows aa, bb, pp.

    q = max(pp, u + k);  wkv = (e^(pp-q) aa + e^(u+k-q) v) / (e^(pp-q) bb + e^(u+k-q))
    q = max(pp + w, k);  aa = e^(pp+w-q) aa + e^(k-q) v;  bb = e^(pp+w-q) bb + e^(k-q);  pp = q
    """
    width = i32(p[WKV4_AT.width])
    first, last = share(a, width, 1)
    decay, bonus = f32_at(a[WEIGHTS] + p[WKV4_AT.decay]), f32_at(a[WEIGHTS] + p[WKV4_AT.first])
    old, new = f32_at(a[OLD] + p[WKV4_AT.state]), f32_at(a[NEW] + p[WKV4_AT.state])
    for c in range(first, last):
        aa, bb, pp = old[c], old[c + width], old[c + 2 * width]
        for t in range(i32(a[TOKENS])):
            at = (i64(t) * width + c) * 4
            r = f32_at(a[SHARED] + p[WKV4_AT.r] + at)[0]
            k = f32_at(a[SHARED] + p[WKV4_AT.k] + at)[0]
            v = f32_at(a[SHARED] + p[WKV4_AT.v] + at)[0]
            q = max(pp, bonus[c] + k)
            e1, e2 = exp(pp - q), exp(bonus[c] + k - q)
            f32_at(a[SHARED] + p[WKV4_AT.dst] + at)[0] = r * ((e1 * aa + e2 * v) / (e1 * bb + e2))
            q = max(pp + decay[c], k)
            e1, e2 = exp(pp + decay[c] - q), exp(k - q)
            aa, bb, pp = e1 * aa + e2 * v, e1 * bb + e2, q
        new[c], new[c + width], new[c + 2 * width] = aa, bb, pp


@kernel
def head_norm(
    a: Any, y: Any, weight: Any, bias: Any, bonus: Any, v: Any, gate: Any, n: Any
) -> None:
    """y = (ln_x(y) + bonus * v) * gate for one head; gate is an address, or 0 for none."""
    normalise(a, y, y, n, f32_at(a[SHARED])[0])
    out = f32_at(y)
    for j in range(n):
        out[j] = out[j] * weight[j] + bias[j] + bonus * v[j]
    if gate != 0:
        g = f32_at(gate)
        for j in range(n):
            out[j] = out[j] * g[j]


def _read_and_write(lanes: int, large: bool = False) -> Any:
    """Make the kernel of y = y + r @ S, S = diag(w) S + k v^T for `lanes` columns of one head's state."""
    load, store, scale, add_scaled = vectors(lanes)
    store_state = store_past_caches(lanes) if large else store

    @kernel
    def columns(
        old: Any, new: Any, v: Any, y: Any, n: Any, r: Any, k: Any, w: Any, _kk: Any, _b: Any
    ) -> None:
        total, value, row = load(y), load(v), i64(n) * 4
        for i in range(n):
            s = load(old + i * row)
            total = add_scaled(total, s, f32_at(r)[i])
            store_state(new + i * row, add_scaled(scale(s, f32_at(w)[i]), value, f32_at(k)[i]))
        store(y, total)

    return columns


def _replace_and_read(lanes: int, large: bool = False) -> Any:
    """Make the kernel of S = diag(w) S + b (S^T -kk)^T + k v^T, y = r @ S for `lanes` columns of one head's state."""
    load, store, scale, add_scaled = vectors(lanes)
    store_state = store_past_caches(lanes) if large else store

    @kernel
    def columns(
        old: Any, new: Any, v: Any, y: Any, n: Any, r: Any, k: Any, w: Any, kk: Any, b: Any
    ) -> None:
        value, row = load(v), i64(n) * 4
        removed = scale(load(old), -f32_at(kk)[0])
        for i in range(1, n):
            removed = add_scaled(removed, load(old + i * row), -f32_at(kk)[i])
        total = scale(value, f32(0))
        for i in range(n):
            s = add_scaled(scale(load(old + i * row), f32_at(w)[i]), removed, f32_at(b)[i])
            s = add_scaled(s, value, f32_at(k)[i])
            store_state(new + i * row, s)
            total = add_scaled(total, s, f32_at(r)[i])
        store(y, total)

    return columns


def _of_a_head(make: Any) -> Any:
    """Make the kernel of all columns of one head's state, as many at a time as its size allows."""
    narrow, wide, past_caches = make(8), make(64), make(64, large=True)

    @kernel
    def head(
        old: Any,
        new: Any,
        v: Any,
        y: Any,
        n: Any,
        large: Any,
        r: Any,
        k: Any,
        w: Any,
        kk: Any,
        b: Any,
    ) -> None:
        for j in range(0, i64(n) * 4, 32 if n % 64 else 256):
            if n % 64:
                narrow(old + j, new + j, v + j, y + j, n, r, k, w, kk, b)
            elif large:
                past_caches(old + j, new + j, v + j, y + j, n, r, k, w, kk, b)
            else:
                wide(old + j, new + j, v + j, y + j, n, r, k, w, kk, b)

    return head


read_and_write, replace_and_read = _of_a_head(_read_and_write), _of_a_head(_replace_and_read)


@kernel
def wkv5(a: Any, p: Any) -> None:
    """wkv of v5 and v6 for this thread's heads; S is [key, value].

    y = r @ (S + diag(u) k v^T);  S = diag(w) S + k v^T;  y = ln_x(y) * g
    """
    heads, n = i32(p[WKV5_AT.heads]), i32(p[WKV5_AT.size])
    first, last = share(a, heads, 1)
    width, row = i64(heads) * n * 4, i64(n) * 4
    large = leaves_caches(a, p[WKV5_AT.state], width * n)
    for h in range(first, last):
        head, state = i64(h) * row, p[WKV5_AT.state] + i64(h) * n * row
        u = f32_at(a[WEIGHTS] + p[WKV5_AT.bonus] + head)
        weight, bias = (
            f32_at(a[WEIGHTS] + p[WKV5_AT.ln_weight] + head),
            f32_at(a[WEIGHTS] + p[WKV5_AT.ln_bias] + head),
        )
        for t in range(i32(a[TOKENS])):
            at = a[SHARED] + i64(t) * width + head
            r, k, v, y = (
                at + p[WKV5_AT.r],
                at + p[WKV5_AT.k],
                at + p[WKV5_AT.v],
                at + p[WKV5_AT.dst],
            )
            w = (
                at + p[WKV5_AT.decay]
                if p[WKV5_AT.per_token]
                else a[WEIGHTS] + p[WKV5_AT.decay] + head
            )
            old, new = (a[OLD] if t == 0 else a[NEW]) + state, a[NEW] + state
            bonus = f32(0)
            for i in range(n):
                bonus += f32_at(r)[i] * u[i] * f32_at(k)[i]
            for j in range(n):
                f32_at(y)[j] = bonus * f32_at(v)[j]
            read_and_write(old, new, v, y, n, large, r, k, w, r, r)  # v7 alone has kk and b
            gate = i64(0) if p[WKV5_AT.g] == op.NONE else at + p[WKV5_AT.g]
            head_norm(a, y, weight, bias, f32(0), f32_at(v), gate, n)


@kernel
def wkv7(a: Any, p: Any) -> None:
    """wkv of v7 for this thread's heads; S is [key, value].

    v = v + (v_first - v) v_gate;  kk = normalise(k k_k);  k = k (1 + (a - 1) k_a)
    S = diag(w) S + (kk a) (S^T -kk)^T + k v^T;  y = (ln_x(r @ S) + (r . k r_k) v) * g
    """
    heads, n = i32(p[WKV7_AT.heads]), i32(p[WKV7_AT.size])
    first, last = share(a, heads, 1)
    width, row = i64(heads) * n * 4, i64(n) * 4
    large = leaves_caches(a, p[WKV7_AT.state], width * n)
    kk_at, key_at, b_at = (
        a[PRIVATE] + SCRATCH,
        a[PRIVATE] + SCRATCH + row,
        a[PRIVATE] + SCRATCH + 2 * row,
    )
    kk, key, b = f32_at(kk_at), f32_at(key_at), f32_at(b_at)
    for h in range(first, last):
        head, state = i64(h) * row, p[WKV7_AT.state] + i64(h) * n * row
        k_k, k_a = (
            f32_at(a[WEIGHTS] + p[WKV7_AT.k_k] + head),
            f32_at(a[WEIGHTS] + p[WKV7_AT.k_a] + head),
        )
        r_k = f32_at(a[WEIGHTS] + p[WKV7_AT.r_k] + head)
        weight, bias = (
            f32_at(a[WEIGHTS] + p[WKV7_AT.ln_weight] + head),
            f32_at(a[WEIGHTS] + p[WKV7_AT.ln_bias] + head),
        )
        for t in range(i32(a[TOKENS])):
            at = a[SHARED] + i64(t) * width + head
            r, k, v, rate = (
                f32_at(at + p[WKV7_AT.r]),
                f32_at(at + p[WKV7_AT.k]),
                f32_at(at + p[WKV7_AT.v]),
                f32_at(at + p[WKV7_AT.a]),
            )
            old, new = (a[OLD] if t == 0 else a[NEW]) + state, a[NEW] + state
            if p[WKV7_AT.v_gate] != op.NONE:
                v_gate, v_first = f32_at(at + p[WKV7_AT.v_gate]), f32_at(at + p[WKV7_AT.v_first])
                for j in range(n):
                    v[j] = v[j] + (v_first[j] - v[j]) * v_gate[j]
            for j in range(n):
                kk[j] = k[j] * k_k[j]
            inverse = f32(1) / max(square_root(dot(a, kk_at, kk_at, n)), f32(1e-12))
            for j in range(n):
                kk[j] = kk[j] * inverse
            for j in range(n):
                key[j] = k[j] * (f32(1) + (rate[j] - f32(1)) * k_a[j])
                b[j] = kk[j] * rate[j]
            bonus = f32(0)
            for j in range(n):
                bonus += r[j] * key[j] * r_k[j]
            y, w = at + p[WKV7_AT.dst], at + p[WKV7_AT.w]
            replace_and_read(
                old, new, at + p[WKV7_AT.v], y, n, large, at + p[WKV7_AT.r], key_at, w, kk_at, b_at
            )
            head_norm(a, y, weight, bias, bonus, v, at + p[WKV7_AT.g], n)
