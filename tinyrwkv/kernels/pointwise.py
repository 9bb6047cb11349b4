"""Operations on activations one by one: embedding, layer norm, token shift, quantisation."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import abi as op
from .abi import (
    EMBED_AT,
    IDS,
    NEW,
    NORM_AT,
    OLD,
    PRIVATE,
    QUANTIZE_AT,
    SELECT_AT,
    SHARED,
    SHIFT_AT,
    TOKENS,
    WEIGHTS,
)
from .common import f32, i32, i64, kernel, normalise, share
from .simd import bits_from_float, f32_at, float_from_bits, half, i8_at, i16_at, i32_at, u16_at


@kernel
def embed(a: Any, p: Any) -> None:
    """x = emb[token]."""
    kind, width = p[EMBED_AT.kind], i32(p[EMBED_AT.width])
    first, last = share(a, width, 1)
    for t in range(i32(a[TOKENS])):
        token = i64(i32_at(a[IDS])[t])
        x = f32_at(a[SHARED] + p[EMBED_AT.dst] + i64(t) * width * 4)
        row = (
            a[WEIGHTS]
            + p[EMBED_AT.weight]
            + token * width * (4 if kind == op.F32 else 2 if kind == op.F16 else 1)
        )
        if kind == op.F32:
            for j in range(first, last):
                x[j] = f32_at(row)[j]
        elif kind == op.F16:
            for j in range(first, last):
                x[j] = half(u16_at(row)[j])
        else:
            scale = f32_at(a[WEIGHTS] + p[EMBED_AT.scale])[token]
            for j in range(first, last):
                x[j] = f32(i8_at(row)[j]) * scale


@kernel
def norm(a: Any, p: Any) -> None:
    """xn = layer_norm(x) * weight + bias."""
    width = i32(p[NORM_AT.width])
    weight, bias = f32_at(a[WEIGHTS] + p[NORM_AT.weight]), f32_at(a[WEIGHTS] + p[NORM_AT.bias])
    for t in range(i32(a[TOKENS])):
        out = a[PRIVATE] + p[NORM_AT.dst] + i64(t) * width * 4
        normalise(a, a[SHARED] + p[NORM_AT.src] + i64(t) * width * 4, out, width, f32(1e-5))
        xn = f32_at(out)
        for j in range(width):
            xn[j] = xn[j] * weight[j] + bias[j]


@kernel
def shift(a: Any, p: Any) -> None:
    """x_j = xn + (xn_prev - xn) * (mu_j + delta_j); the last xn goes to the new state."""
    src, state, mu, count, delta, dst, width = (
        p[SHIFT_AT.src],
        p[SHIFT_AT.state],
        p[SHIFT_AT.mu],
        p[SHIFT_AT.count],
        p[SHIFT_AT.delta],
        p[SHIFT_AT.dst],
        i32(p[SHIFT_AT.width]),
    )
    tokens, plane = i32(a[TOKENS]), i64(width) * 4 * op.MAX_TOKENS
    for t in range(tokens):
        here = a[PRIVATE] + src + i64(t) * width * 4
        xn = f32_at(here)
        prev = f32_at(a[OLD] + state if t == 0 else here - i64(width) * 4)
        for j in range(count):
            m = f32_at(a[WEIGHTS] + mu + j * width * 4)
            out = f32_at(a[PRIVATE] + dst + j * plane + i64(t) * width * 4)
            if delta == op.NONE:
                for c in range(width):
                    out[c] = xn[c] + (prev[c] - xn[c]) * m[c]
            else:
                d = f32_at(a[SHARED] + delta + j * plane + i64(t) * width * 4)
                for c in range(width):
                    out[c] = xn[c] + (prev[c] - xn[c]) * (m[c] + d[c])
    first, last = share(a, width, 1)
    xn, new = f32_at(a[PRIVATE] + src + i64(tokens - i32(1)) * width * 4), f32_at(a[NEW] + state)
    for c in range(first, last):
        new[c] = xn[c]


@kernel
def quantize(a: Any, p: Any) -> None:
    """q = round(x / s) as int16 with s = max|x| / qmax, for each token."""
    base = (a[SHARED] if p[QUANTIZE_AT.shared] else a[PRIVATE]) + p[QUANTIZE_AT.src]
    width, qmax = i32(p[QUANTIZE_AT.width]), f32(i32(p[QUANTIZE_AT.qmax]))
    for t in range(i32(a[TOKENS])):
        row = base + i64(t) * p[QUANTIZE_AT.stride] * 4
        x, bits, q = (
            f32_at(row),
            i32_at(row),
            i16_at(a[PRIVATE] + p[QUANTIZE_AT.dst] + i64(t) * width * 2),
        )
        # Without their sign, float32 compare as integers do: a maximum that vectorises in any order.
        top = i32(0)
        for j in range(width):
            top = max(top, i32(bits[j] & i32(0x7FFFFFFF)))
        largest = float_from_bits(top)
        inverse = qmax / largest if largest > f32(0) else f32(0)
        for j in range(width):
            # Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the sum.
            q[j] = np.int16(bits_from_float(x[j] * inverse + f32(12582912.0)))
        f32_at(a[PRIVATE] + p[QUANTIZE_AT.dst_scale])[t] = largest / qmax


@kernel
def select(a: Any, p: Any) -> None:
    """x = x[last token], the only one from here on."""
    width = i32(p[SELECT_AT.width])
    first, last = share(a, width, 1)
    x, source = (
        f32_at(a[SHARED] + p[SELECT_AT.src]),
        f32_at(a[SHARED] + p[SELECT_AT.src] + (a[TOKENS] - 1) * width * 4),
    )
    for j in range(first, last):
        x[j] = source[j]
