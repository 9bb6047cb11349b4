"""Operations on activations one by one: embedding, layer norm, token shift, quantisation."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import abi as op
from .common import (
    IDS,
    NEW,
    OLD,
    PRIVATE,
    SHARED,
    TOKENS,
    WEIGHTS,
    f32,
    i32,
    i64,
    kernel,
    normalise,
    share,
)
from .simd import bits_from_float, f32_at, float_from_bits, half, i8_at, i16_at, i32_at, u16_at


@kernel
def embed(a: Any, p: Any) -> None:
    """x = emb[token]."""
    kind, width = p[2], i32(p[4])
    first, last = share(a, width, 1)
    for t in range(i32(a[TOKENS])):
        token = i64(i32_at(a[IDS])[t])
        x = f32_at(a[SHARED] + p[3] + i64(t) * width * 4)
        row = (
            a[WEIGHTS]
            + p[0]
            + token * width * (4 if kind == op.F32 else 2 if kind == op.F16 else 1)
        )
        if kind == op.F32:
            for j in range(first, last):
                x[j] = f32_at(row)[j]
        elif kind == op.F16:
            for j in range(first, last):
                x[j] = half(u16_at(row)[j])
        else:
            scale = f32_at(a[WEIGHTS] + p[1])[token]
            for j in range(first, last):
                x[j] = f32(i8_at(row)[j]) * scale


@kernel
def norm(a: Any, p: Any) -> None:
    """xn = layer_norm(x) * weight + bias."""
    width = i32(p[4])
    weight, bias = f32_at(a[WEIGHTS] + p[1]), f32_at(a[WEIGHTS] + p[2])
    for t in range(i32(a[TOKENS])):
        out = a[PRIVATE] + p[3] + i64(t) * width * 4
        normalise(a, a[SHARED] + p[0] + i64(t) * width * 4, out, width, f32(1e-5))
        xn = f32_at(out)
        for j in range(width):
            xn[j] = xn[j] * weight[j] + bias[j]


@kernel
def shift(a: Any, p: Any) -> None:
    """x_j = xn + (xn_prev - xn) * (mu_j + delta_j); the last xn goes to the new state."""
    src, state, mu, count, delta, dst, width = p[0], p[1], p[2], p[3], p[4], p[5], i32(p[6])
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
    base = (a[SHARED] if p[0] else a[PRIVATE]) + p[1]
    width, qmax = i32(p[3]), f32(i32(p[6]))
    for t in range(i32(a[TOKENS])):
        row = base + i64(t) * p[2] * 4
        x, bits, q = f32_at(row), i32_at(row), i16_at(a[PRIVATE] + p[4] + i64(t) * width * 2)
        # Without their sign, float32 compare as integers do: a maximum that vectorises in any order.
        top = i32(0)
        for j in range(width):
            top = max(top, i32(bits[j] & i32(0x7FFFFFFF)))
        largest = float_from_bits(top)
        inverse = qmax / largest if largest > f32(0) else f32(0)
        for j in range(width):
            # Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the sum.
            q[j] = np.int16(bits_from_float(x[j] * inverse + f32(12582912.0)))
        f32_at(a[PRIVATE] + p[5])[t] = largest / qmax


@kernel
def select(a: Any, p: Any) -> None:
    """x = x[last token], the only one from here on."""
    width = i32(p[1])
    first, last = share(a, width, 1)
    x, source = f32_at(a[SHARED] + p[0]), f32_at(a[SHARED] + p[0] + (a[TOKENS] - 1) * width * 4)
    for j in range(first, last):
        x[j] = source[j]
