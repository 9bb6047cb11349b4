"""Products of a matrix and the activations of each token: dot products, then their results.

The dot product of row i with token t lies in the private workspace, at 4 * (t * ROWS + i) bytes. As
soon as there are those of ROWS rows, `finish` turns them into results.
"""

from __future__ import annotations

from . import int4, simd, tiles
from .abi import (
    ADD,
    DECAY_V6,
    DECAY_V7,
    F16,
    F32,
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
from .byte_products import split_offset
from .common import FAR, f32, i32, i64, item_bytes, kernel, part, prefetch_row, share
from .scalars import exp, sigmoid
from .simd import f32_at, i32_at
from .tiles import DOTS_BYTES
from .types import Address, Arguments, Fields, Floats, Inputs, Int, Offset

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
    workspace = args[SHARED] if fields[MATMUL_AT.shared] else args[PRIVATE]
    x_bytes = fields[MATMUL_AT.stride] * (4 if kind == F32 or kind == F16 else 2)
    sums = args[PRIVATE] + fields[MATMUL_AT.src_sums]
    split = split_offset(cols, tokens)
    inputs = Inputs(workspace + fields[MATMUL_AT.src], x_bytes, tokens, cols, sums, split)
    w_bytes = bytes_of_row(kind, cols)
    if kind == INT8 and (simd.PAIRS or cols > i32(SHORT) or tokens >= i32(2)):
        first = in_streams(args, fields, first, last, inputs)
    elif kind == INT4 and (simd.WIDE or tokens < i32(4)):
        first = in_streams(args, fields, first, last, inputs)
    for start in range(first, last, ROWS):
        n = i32(min(ROWS, last - start))
        w = args[WEIGHTS] + fields[MATMUL_AT.weight] + i64(start) * w_bytes
        out, row = args[PRIVATE], i32(0)
        # Rows that follow each other in memory are read fastest one by one, unless they are short
        # or in use by several tokens.
        if kind == INT8 and not simd.PAIRS and cols <= i32(SHORT):
            while row + i32(4) <= n:
                four_i8_rows(w, inputs, out + 4 * row)
                w, row = w + 4 * w_bytes, i32(row + 4)
        while row < n:
            one_row(kind, w, inputs, out + 4 * row)
            w, row = w + w_bytes, i32(row + 1)
        for t in range(tokens):
            finish(args, fields, start, n, t, out + i64(t) * DOTS_BYTES)


@part
def bytes_of_row(kind: Int, cols: Int) -> Offset:
    """Return the bytes of a row of weights of a kind."""
    return int4.row_bytes(cols) if kind == INT4 else i64(cols) * item_bytes(kind)


@part
def four_i8_rows(w: Address, inputs: Inputs, out: Address) -> None:
    """Multiply four int8 rows, which are short, with each token."""
    cols = inputs.cols
    prefetch_row(w + FAR, 4 * i64(cols))
    for t in range(inputs.tokens):
        xs, ys = inputs.x + i64(t) * inputs.x_bytes, out + i64(t) * DOTS_BYTES
        simd.dots_i8_four(w, i64(cols), xs, 0, cols, ys, 4)


@part
def one_row(kind: Int, w: Address, inputs: Inputs, out: Address) -> None:
    """Multiply a row of any kind with each token; rows of floats and of int4 with four at once."""
    if kind == INT4:
        int4.one_row(w, inputs, out)
    elif kind == INT8:
        for t in range(inputs.tokens):
            xs, ys = inputs.x + i64(t) * inputs.x_bytes, out + i64(t) * DOTS_BYTES
            simd.dots_i8(w, 0, xs, 0, inputs.cols, ys, 0)
    else:
        whole = i32(inputs.tokens & i32(-4))  # tokens that come in fours
        for t in range(0, whole, 4):
            xs, ys = inputs.x + i64(t) * inputs.x_bytes, out + i64(t) * DOTS_BYTES
            if kind == F16:
                simd.dots_f16_block(w, 0, xs, inputs.x_bytes, inputs.cols, ys, DOTS_BYTES)
            else:
                simd.dots_f32_block(w, 0, xs, inputs.x_bytes, inputs.cols, ys, DOTS_BYTES)
        for t in range(whole, inputs.tokens):
            xs, ys = inputs.x + i64(t) * inputs.x_bytes, out + i64(t) * DOTS_BYTES
            if kind == F16:
                simd.dots_f16(w, 0, xs, 0, inputs.cols, ys, 0)
            else:
                simd.dots_f32(w, 0, xs, 0, inputs.cols, ys, 0)


@kernel
def in_streams(args: Arguments, fields: Fields, first: Int, last: Int, inputs: Inputs) -> Int:
    """Multiply equal parts of the rows side by side; return the first row that is left.

    Each activation is loaded once for a row of each part, each weight once for several tokens, and
    memory still sees rows that follow each other.
    """
    # Four parts for x86, which reads faster so, and for int4, whose rows share work by fours. The
    # prefetcher of a Cortex-A53 follows two.
    kind = fields[MATMUL_AT.kind]
    halvings = i32(2 if simd.PAIRS or kind == INT4 else 1)
    parts = i32(i32(1) << halvings)
    rows = i32((last - first) >> halvings)  # of one part
    w_bytes = bytes_of_row(kind, inputs.cols)
    apart = i64(rows) * w_bytes
    out, out_apart = args[PRIVATE], MAX_TOKENS * DOTS_BYTES
    for start in range(first, first + rows, ROWS):
        n = i32(min(ROWS, first + rows - start))
        w = args[WEIGHTS] + fields[MATMUL_AT.weight] + i64(start) * w_bytes
        for row in range(n):
            at, ys = w + i64(row) * w_bytes, out + 4 * row
            if kind == INT4:
                int4.one_of_each(at, apart, inputs, ys, out_apart)
            else:
                one_of_each(at, apart, inputs, ys, out_apart)
        for i in range(parts):
            for t in range(inputs.tokens):
                dots = out + i * out_apart + i64(t) * DOTS_BYTES
                finish(args, fields, start + i * rows, n, t, dots)
    return i32(first + parts * rows)


@part
def one_of_each(w: Address, apart: Offset, inputs: Inputs, out: Address, out_apart: Offset) -> None:
    """Multiply a row of each part with all tokens, as many at once as have sums in registers."""
    cols, x_bytes = inputs.cols, inputs.x_bytes
    t, left = i32(0), inputs.tokens
    tiled = not simd.SCALAR and cols >= i32(tiles.LEAST)
    while left > i32(0):
        xs, ys = inputs.x + i64(t) * x_bytes, out + i64(t) * DOTS_BYTES
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
