"""Products of a matrix and the activations of each token: dot products, then what is done with them."""

from __future__ import annotations

from typing import Any

from . import abi as op
from . import simd
from .abi import MATMUL_AT, OUT, PRIVATE, ROWS, SHARED, TOKENS, WEIGHTS
from .common import FAR, f32, i32, i64, kernel, prefetch_row, share
from .scalars import exp, sigmoid
from .simd import f32_at, i32_at


@kernel
def matmul(a: Any, p: Any) -> None:
    """y = W @ x for this thread's rows of W and every token: each row is read from memory once."""
    kind, cols, tokens = p[MATMUL_AT.kind], i32(p[MATMUL_AT.cols]), i32(a[TOKENS])
    first, last = share(a, p[MATMUL_AT.units], p[MATMUL_AT.unit])
    w_bytes = i64(cols) * (4 if kind == op.F32 else 2 if kind == op.F16 else 1)
    x_bytes = p[MATMUL_AT.stride] * (2 if kind == op.INT8 else 4)
    x, out_bytes = (a[SHARED] if p[MATMUL_AT.shared] else a[PRIVATE]) + p[MATMUL_AT.src], 4 * ROWS
    if kind == op.INT8 and tokens < i32(4) and (cols > i32(256) or simd.PAIRS):
        first = in_streams(a, p, first, last, x, x_bytes)
    for start in range(first, last, ROWS):
        n = i32(min(ROWS, last - start))
        w, out, row = a[WEIGHTS] + p[MATMUL_AT.weight] + i64(start) * w_bytes, a[PRIVATE], i32(0)
        # Rows that follow each other in memory are read fastest one by one, unless they are short or in use by
        # several tokens.
        whole = i32(tokens & i32(-4))
        if kind == op.INT8 and whole:
            while row + i32(2) <= n:
                for t in range(0, whole, 4):
                    ys = out + i64(t) * out_bytes + 4 * row
                    simd.dots_i8_block(
                        w, w_bytes, x + i64(t) * x_bytes, x_bytes, cols, ys, out_bytes
                    )
                one_by_one(kind, w, w_bytes, i32(2), x, x_bytes, whole, tokens, cols, out + 4 * row)
                w, row = w + 2 * w_bytes, i32(row + 2)
        elif kind == op.INT8 and cols <= i32(256):
            while row + i32(4) <= n:
                prefetch_row(w + FAR, 4 * w_bytes)
                for t in range(tokens):
                    simd.dots_i8_four(
                        w,
                        w_bytes,
                        x + i64(t) * x_bytes,
                        0,
                        cols,
                        out + i64(t) * out_bytes + 4 * row,
                        4,
                    )
                w, row = w + 4 * w_bytes, i32(row + 4)
        elif kind != op.INT8 and whole:
            while row < n:
                for t in range(0, whole, 4):
                    xs, ys = x + i64(t) * x_bytes, out + i64(t) * out_bytes + 4 * row
                    if kind == op.F16:
                        simd.dots_f16_block(w, 0, xs, x_bytes, cols, ys, out_bytes)
                    else:
                        simd.dots_f32_block(w, 0, xs, x_bytes, cols, ys, out_bytes)
                one_by_one(kind, w, w_bytes, i32(1), x, x_bytes, whole, tokens, cols, out + 4 * row)
                w, row = w + w_bytes, i32(row + 1)
        one_by_one(kind, w, w_bytes, i32(n - row), x, x_bytes, i32(0), tokens, cols, out + 4 * row)
        for t in range(tokens):
            finish(a, p, start, n, t, out + i64(t) * out_bytes)


@kernel
def in_streams(a: Any, p: Any, first: Any, last: Any, x: Any, x_bytes: Any) -> Any:
    """Multiply equal parts of the rows side by side, for at most 3 tokens; return the first row that is left.

    Each activation is loaded once for a row of each part, and memory still sees rows that follow each other.
    """
    # Four for x86, which reads faster so; the prefetcher of a Cortex-A53 follows two.
    parts, part = 4 if simd.PAIRS else 2, i32((last - first) >> (2 if simd.PAIRS else 1))
    cols, tokens, out_bytes = i32(p[MATMUL_AT.cols]), i32(a[TOKENS]), 4 * ROWS
    apart, out, out_apart = i64(part) * cols, a[PRIVATE], 4 * out_bytes
    for start in range(first, first + part, ROWS):
        n = i32(min(ROWS, first + part - start))
        w = a[WEIGHTS] + p[MATMUL_AT.weight] + i64(start) * cols
        for row in range(n):
            for t in range(tokens):
                at, xs, ys = (
                    w + i64(row) * cols,
                    x + i64(t) * x_bytes,
                    out + i64(t) * out_bytes + 4 * row,
                )
                if simd.PAIRS:
                    simd.dots_i8_four(at, apart, xs, 0, cols, ys, out_apart)
                else:
                    simd.dots_i8_pair(at, apart, xs, 0, cols, ys, out_apart)
        for i in range(parts):
            for t in range(tokens):
                finish(a, p, start + i * part, n, t, out + i * out_apart + i64(t) * out_bytes)
    return i32(first + parts * part)


@kernel
def one_by_one(
    kind: Any,
    w: Any,
    w_bytes: Any,
    n: Any,
    x: Any,
    x_bytes: Any,
    first: Any,
    tokens: Any,
    cols: Any,
    out: Any,
) -> None:
    """Dot products of n rows with the tokens from `first` on."""
    for row in range(n):
        at = w + i64(row) * w_bytes
        for t in range(first, tokens):
            xs, ys = x + i64(t) * x_bytes, out + i64(t) * (4 * ROWS) + 4 * row
            if kind == op.INT8:
                simd.dots_i8(at, 0, xs, 0, cols, ys, 0)
            elif kind == op.F16:
                simd.dots_f16(at, 0, xs, 0, cols, ys, 0)
            else:
                simd.dots_f32(at, 0, xs, 0, cols, ys, 0)


@kernel
def finish(a: Any, p: Any, row: Any, n: Any, t: Any, at: Any) -> None:
    """Turn the dot products of n rows with token t, which lie `at`, into results and put them where they belong."""
    y, mode = f32_at(at), p[MATMUL_AT.mode]
    if p[MATMUL_AT.kind] == op.INT8:
        sums, scale, x_scale = (
            i32_at(at),
            f32_at(a[WEIGHTS] + p[MATMUL_AT.scale] + row * 4),
            f32_at(a[PRIVATE] + p[MATMUL_AT.src_scale])[t],
        )
        for i in range(n):
            y[i] = f32(sums[i]) * (scale[i] * x_scale)
    if p[MATMUL_AT.bias] != op.NONE:
        bias = f32_at(a[WEIGHTS] + p[MATMUL_AT.bias] + row * 4)
        for i in range(n):
            y[i] = y[i] + bias[i]
    if p[MATMUL_AT.diag] != op.NONE:
        diagonal, x = (
            f32_at(a[WEIGHTS] + p[MATMUL_AT.diag] + row * 4),
            f32_at(
                a[PRIVATE] + p[MATMUL_AT.diag_src] + (i64(t) * p[MATMUL_AT.dst_stride] + row) * 4
            ),
        )
        for i in range(n):
            y[i] = y[i] + diagonal[i] * x[i]
    activate(y, n, p[MATMUL_AT.activation])
    offset = (i64(t) * p[MATMUL_AT.dst_stride] + row) * 4
    out = f32_at((a[OUT] if mode == op.LOGITS else a[SHARED]) + p[MATMUL_AT.dst] + offset)
    if mode == op.ADD:
        for i in range(n):
            out[i] = out[i] + y[i]
    elif mode == op.GATED_ADD:
        gate = f32_at(a[SHARED] + p[MATMUL_AT.gate] + offset)
        for i in range(n):
            out[i] = out[i] + gate[i] * y[i]
    else:
        for i in range(n):
            out[i] = y[i]


@kernel
def activate(y: Any, n: Any, activation: Any) -> None:
    """Apply the function that a matrix product ends with, in place."""
    if activation == op.RELU or activation == op.SQUARED_RELU:
        for i in range(n):
            positive = f32(0) if y[i] < f32(0) else y[i]  # NaN stays
            y[i] = positive if activation == op.RELU else positive * positive
    elif activation == op.SIGMOID:
        for i in range(n):
            y[i] = sigmoid(y[i])
    elif activation == op.TANH:
        for i in range(n):
            y[i] = f32(2) * sigmoid(f32(2) * y[i]) - f32(1)
    elif activation == op.SILU:
        for i in range(n):
            y[i] = y[i] * sigmoid(y[i])
    elif activation == op.DECAY_V6:
        for i in range(n):
            y[i] = exp(-exp(y[i]))
    elif activation == op.DECAY_V7:
        for i in range(n):
            y[i] = exp(f32(-0.6065306597126334) * sigmoid(y[i]))
