"""Products of a matrix and the activations of each token: dot products, then their results.

The dot product of row i with token t lies in the private workspace, at 4 * (t * ROWS + i) bytes. As
soon as there are those of ROWS rows, `finish` turns them into results.
"""

from __future__ import annotations

from . import simd, tiles
from .abi import (
    ADD,
    DECAY_V6,
    DECAY_V7,
    F16,
    GATED_ADD,
    INT4,
    INT8,
    LOGITS,
    MATMUL_AT,
    MAX_TOKENS,
    MULTIPLY,
    NONE,
    OUT,
    PRIVATE,
    RELU,
    ROWS,
    SHARED,
    SIGMOID,
    SILU,
    SQUARED_RELU,
    TANH,
    TOKENS,
    WEIGHTS,
)
from .common import FAR, f32, i32, i64, item_bytes, kernel, part, prefetch_row, share
from .scalars import exp, sigmoid
from .simd import f32_at, i32_at
from .tiles import DOTS_BYTES
from .types import Address, Arguments, Fields, Floats, Int, Offset

SHORT = 256
"""Columns up to which a row is so short that several are multiplied at once."""


@kernel
def matmul(args: Arguments, fields: Fields) -> None:
    """dst (mode)= activation(W @ x + bias + diag * x), for this thread's rows of W and every token.

    Each row is read from memory once. `run` calls this.
    """
    kind, cols = fields[MATMUL_AT.kind], i32(fields[MATMUL_AT.cols])
    tokens = i32(args[TOKENS])
    first, last = share(args, fields[MATMUL_AT.units], fields[MATMUL_AT.unit])
    w_bytes = i64(cols) * item_bytes(kind)
    x_bytes = fields[MATMUL_AT.stride] * (2 if kind == INT8 else 4)
    workspace = args[SHARED] if fields[MATMUL_AT.shared] else args[PRIVATE]
    x = workspace + fields[MATMUL_AT.src]
    if kind == INT8 and (simd.PAIRS or cols > i32(SHORT) or tokens >= i32(2)):
        first = in_streams(args, fields, first, last, x, x_bytes)
    for start in range(first, last, ROWS):
        n = i32(min(ROWS, last - start))
        start_row = args[WEIGHTS] + fields[MATMUL_AT.weight] + i64(start) * w_bytes
        out = args[PRIVATE]
        w, row = start_row, i32(0)
        whole = i32(tokens & i32(-4))  # tokens that come in fours
        # Rows that follow each other in memory are read fastest one by one, unless they are short
        # or in use by several tokens.
        if kind == INT8 and not simd.PAIRS and cols <= i32(SHORT):
            while row + i32(4) <= n:
                four_i8_rows(w, w_bytes, x, x_bytes, tokens, cols, out, row)
                w, row = w + 4 * w_bytes, i32(row + 4)
        elif kind != INT8 and whole:
            while row < n:
                one_float_row(kind, w, w_bytes, x, x_bytes, whole, tokens, cols, out, row)
                w, row = w + w_bytes, i32(row + 1)
        left = i32(n - row)
        one_by_one(kind, w, w_bytes, left, x, x_bytes, i32(0), tokens, cols, out + 4 * row)
        for t in range(tokens):
            finish(args, fields, start, n, t, out + i64(t) * DOTS_BYTES)


@part
def four_i8_rows(
    w: Address,
    w_bytes: Offset,
    x: Address,
    x_bytes: Offset,
    tokens: Int,
    cols: Int,
    out: Address,
    row: Int,
) -> None:
    """Multiply four int8 rows, which are short, with each token."""
    prefetch_row(w + FAR, 4 * w_bytes)
    for t in range(tokens):
        xs = x + i64(t) * x_bytes
        ys = out + i64(t) * DOTS_BYTES + 4 * row
        simd.dots_i8_four(w, w_bytes, xs, 0, cols, ys, 4)


@part
def one_float_row(
    kind: Int,
    w: Address,
    w_bytes: Offset,
    x: Address,
    x_bytes: Offset,
    whole: Int,
    tokens: Int,
    cols: Int,
    out: Address,
    row: Int,
) -> None:
    """Multiply a row of floats with four tokens at once, then with each token that is left."""
    for t in range(0, whole, 4):
        xs = x + i64(t) * x_bytes
        ys = out + i64(t) * DOTS_BYTES + 4 * row
        if kind == F16:
            simd.dots_f16_block(w, 0, xs, x_bytes, cols, ys, DOTS_BYTES)
        else:
            simd.dots_f32_block(w, 0, xs, x_bytes, cols, ys, DOTS_BYTES)
    one_by_one(kind, w, w_bytes, i32(1), x, x_bytes, whole, tokens, cols, out + 4 * row)


@kernel
def in_streams(
    args: Arguments, fields: Fields, first: Int, last: Int, x: Address, x_bytes: Offset
) -> Int:
    """Multiply equal parts of the int8 rows side by side; return the first row that is left.

    Each activation is loaded once for a row of each part, each weight once for several tokens, and
    memory still sees rows that follow each other.
    """
    # Four parts for x86, which reads faster so; the prefetcher of a Cortex-A53 follows two.
    parts = 4 if simd.PAIRS else 2
    rows = i32((last - first) >> (2 if simd.PAIRS else 1))  # of one part
    cols, tokens = i32(fields[MATMUL_AT.cols]), i32(args[TOKENS])
    apart = i64(rows) * cols
    out, out_apart = args[PRIVATE], MAX_TOKENS * DOTS_BYTES
    for start in range(first, first + rows, ROWS):
        n = i32(min(ROWS, first + rows - start))
        w = args[WEIGHTS] + fields[MATMUL_AT.weight] + i64(start) * cols
        for row in range(n):
            at, ys = w + i64(row) * cols, out + 4 * row
            one_of_each(at, apart, x, x_bytes, tokens, cols, ys, out_apart)
        for i in range(parts):
            for t in range(tokens):
                dots = out + i * out_apart + i64(t) * DOTS_BYTES
                finish(args, fields, start + i * rows, n, t, dots)
    return i32(first + parts * rows)


@part
def one_of_each(
    w: Address,
    apart: Offset,
    x: Address,
    x_bytes: Offset,
    tokens: Int,
    cols: Int,
    out: Address,
    out_apart: Offset,
) -> None:
    """Multiply a row of each part with all tokens, as many at once as have sums in registers."""
    t, left = i32(0), tokens
    tiled = not simd.SCALAR and cols >= i32(tiles.LEAST)
    while left > i32(0):
        xs, ys = x + i64(t) * x_bytes, out + i64(t) * DOTS_BYTES
        if tiled and left >= i32(4):
            if t == i32(0):
                tiles.first_four(w, apart, xs, x_bytes, cols, ys, out_apart)
            else:
                tiles.four_tokens(w, apart, xs, x_bytes, cols, ys, out_apart)
            if simd.PAIRS and not simd.WIDE:  # it was two rows of four
                more, ys = w + 2 * apart, ys + 2 * out_apart
                if t == i32(0):
                    tiles.first_four(more, apart, xs, x_bytes, cols, ys, out_apart)
                else:
                    tiles.four_tokens(more, apart, xs, x_bytes, cols, ys, out_apart)
            t, left = i32(t + 4), i32(left - 4)
        elif tiled and left >= i32(2):
            tiles.two_tokens(w, apart, xs, x_bytes, cols, ys, out_apart)
            t, left = i32(t + 2), i32(left - 2)
        elif simd.PAIRS:
            simd.dots_i8_four(w, apart, xs, 0, cols, ys, out_apart)
            t, left = i32(t + 1), i32(left - 1)
        else:
            simd.dots_i8_pair(w, apart, xs, 0, cols, ys, out_apart)
            t, left = i32(t + 1), i32(left - 1)


@kernel
def one_by_one(
    kind: Int,
    w: Address,
    w_bytes: Offset,
    n: Int,
    x: Address,
    x_bytes: Offset,
    first: Int,
    tokens: Int,
    cols: Int,
    out: Address,
) -> None:
    """Multiply n rows of any kind with the tokens from `first` on, a row and a token at a time."""
    for row in range(n):
        at = w + i64(row) * w_bytes
        for t in range(first, tokens):
            xs = x + i64(t) * x_bytes
            ys = out + i64(t) * DOTS_BYTES + 4 * row
            if kind == INT8:
                simd.dots_i8(at, 0, xs, 0, cols, ys, 0)
            elif kind == F16:
                simd.dots_f16(at, 0, xs, 0, cols, ys, 0)
            else:
                simd.dots_f32(at, 0, xs, 0, cols, ys, 0)


@kernel
def finish(args: Arguments, fields: Fields, row: Int, n: Int, t: Int, dots: Address) -> None:
    """Turn the dot products of n rows with token t into results and put them where they belong.

    dst (mode)= activation(dots * scale + bias + diag * x), from row `row` of the matrix on. MATMUL,
    PREDICT and SPARSE end with this: their fields begin alike.
    """
    y, mode = f32_at(dots), fields[MATMUL_AT.mode]
    to_floats(args, fields, row, n, t, dots)
    if fields[MATMUL_AT.bias] != NONE:
        bias = f32_at(args[WEIGHTS] + fields[MATMUL_AT.bias] + row * 4)
        for i in range(n):
            y[i] = y[i] + bias[i]
    if fields[MATMUL_AT.diag] != NONE:
        diagonal = f32_at(args[WEIGHTS] + fields[MATMUL_AT.diag] + row * 4)
        src = args[PRIVATE] + fields[MATMUL_AT.diag_src]
        x = f32_at(src + (i64(t) * fields[MATMUL_AT.dst_stride] + row) * 4)
        for i in range(n):
            y[i] = y[i] + diagonal[i] * x[i]
    activate(y, n, fields[MATMUL_AT.activation])
    offset = (i64(t) * fields[MATMUL_AT.dst_stride] + row) * 4
    memory = args[OUT] if mode == LOGITS else args[SHARED]
    out = f32_at(memory + fields[MATMUL_AT.dst] + offset)
    if mode == ADD:
        for i in range(n):
            out[i] = out[i] + y[i]
    elif mode == GATED_ADD:
        gate = f32_at(args[SHARED] + fields[MATMUL_AT.gate] + offset)
        for i in range(n):
            out[i] = out[i] + gate[i] * y[i]
    elif mode == MULTIPLY:
        for i in range(n):
            out[i] = out[i] * y[i]
    else:
        for i in range(n):
            out[i] = y[i]


@part
def to_floats(args: Arguments, fields: Fields, row: Int, n: Int, t: Int, dots: Address) -> None:
    """Multiply the dot products of quantised numbers with their scales, in place."""
    y, sums = f32_at(dots), i32_at(dots)
    if fields[MATMUL_AT.kind] == INT8:
        scale = f32_at(args[WEIGHTS] + fields[MATMUL_AT.scale] + row * 4)
        x_scale = f32_at(args[PRIVATE] + fields[MATMUL_AT.src_scale])[t]
        for i in range(n):
            y[i] = f32(sums[i]) * (scale[i] * x_scale)
    elif fields[MATMUL_AT.kind] == INT4:
        x_scale = f32_at(args[PRIVATE] + fields[MATMUL_AT.src_scale])[t]
        for i in range(n):
            y[i] = y[i] * x_scale


@kernel
def activate(y: Floats, n: Int, activation: Int) -> None:
    """Apply the function that a matrix product ends with, in place."""
    if activation == RELU or activation == SQUARED_RELU:
        rectify(y, n, activation)
    elif activation == SIGMOID:
        for i in range(n):
            y[i] = sigmoid(y[i])
    elif activation == TANH:
        for i in range(n):
            y[i] = f32(2) * sigmoid(f32(2) * y[i]) - f32(1)
    elif activation == SILU:
        for i in range(n):
            y[i] = y[i] * sigmoid(y[i])
    elif activation == DECAY_V6:
        for i in range(n):
            y[i] = exp(-exp(y[i]))
    elif activation == DECAY_V7:
        for i in range(n):
            y[i] = exp(f32(-0.6065306597126334) * sigmoid(y[i]))  # -e^(-1/2)


@part
def rectify(y: Floats, n: Int, activation: Int) -> None:
    """y = max(y, 0), or the square of that for SQUARED_RELU; NaN stays NaN."""
    for i in range(n):
        positive = f32(0) if y[i] < f32(0) else y[i]
        y[i] = positive if activation == RELU else positive * positive
