"""Products of a matrix and the activations of each token: dot products, then their results.

The dot product of row i with token t lies in the private workspace, at 4 * (t * n + i) bytes. As
soon as there are those of n rows, `finish` turns them into results: see `rows_at_once`.
"""

from __future__ import annotations

from . import abi as op
from . import int4, simd, tiles
from .byte_products import split_offset
from .common import FAR, f32, i32, i64, item_bytes, kernel, part, prefetch_row, share
from .scalars import exp, sigmoid
from .simd import f32_at, i32_at
from .types import Address, Arguments, Fields, Floats, Inputs, Int, Offset

SHORT = 256
"""Columns up to which a row is so short that several are multiplied at once."""


@kernel
def matmul(args: Arguments, fields: Fields) -> None:
    """dst (mode)= activation(W @ x + bias + diag * x), for this thread's rows of W and every token.

    Each row is read from memory once. `run` calls this.
    """
    kind, cols = fields[op.MATMUL_AT.kind], i32(fields[op.MATMUL_AT.cols])
    tokens = i32(args[op.TOKENS])
    first, last = share(args, fields[op.MATMUL_AT.units], fields[op.MATMUL_AT.unit])
    workspace = args[op.SHARED] if fields[op.MATMUL_AT.shared] else args[op.PRIVATE]
    x = workspace + fields[op.MATMUL_AT.src]
    x_bytes = fields[op.MATMUL_AT.stride] * (4 if kind == op.F32 or kind == op.F16 else 2)
    sums = args[op.PRIVATE] + fields[op.MATMUL_AT.src_sums]
    split = split_offset(cols, tokens)
    y_bytes = 4 * i64(rows_at_once(tokens))
    inputs = Inputs(x, x_bytes, tokens, cols, sums, split, y_bytes)
    halvings = halvings_of_rows(kind, tokens, cols)
    whole = i32(i32(last - first) >> halvings << halvings)
    multiply(args, fields, first, i32(first + whole), halvings, inputs)
    multiply(args, fields, i32(first + whole), last, i32(0), inputs)


@part
def halvings_of_rows(kind: Int, tokens: Int, cols: Int) -> Int:
    """Return how often rows are halved into parts that are read side by side."""
    # Four parts for x86, which reads faster so, and for int4, whose rows share work by fours. The
    # prefetcher of a Cortex-A53 follows two.
    if kind == op.INT4 and (simd.WIDE or tokens < i32(4)):
        return i32(2)
    if kind == op.INT8 and (simd.PAIRS or cols > i32(SHORT) or tokens >= i32(2)):
        return i32(2 if simd.PAIRS else 1)
    return i32(0)


@part
def rows_at_once(tokens: Int) -> Int:
    """Return how many rows are finished together: as many as have room for their dot products.

    Between the last of these products and the next, nothing is read from memory.
    """
    rows = i32(op.ROWS)
    while rows * tokens <= i32(op.ROWS * op.MAX_TOKENS // 2):
        rows = i32(2 * rows)
    return rows


@kernel
def multiply(
    args: Arguments, fields: Fields, first: Int, last: Int, halvings: Int, inputs: Inputs
) -> None:
    """Multiply rows with every token, equal parts of them side by side.

    Each activation is loaded once for a row of each part, each weight once for several tokens, and
    memory still sees rows that follow each other.
    """
    kind, at_once = fields[op.MATMUL_AT.kind], i32(inputs.y_bytes >> 2)
    rows = i32((last - first) >> halvings)  # of one part
    w_bytes = bytes_of_row(kind, inputs.cols)
    apart = i64(rows) * w_bytes
    out, out_apart = args[op.PRIVATE], i64(4 * op.ROWS * op.MAX_TOKENS)
    start = first
    while start < first + rows:
        n = i32(min(at_once, first + rows - start))
        w = args[op.WEIGHTS] + fields[op.MATMUL_AT.weight] + i64(start) * w_bytes
        row, together = i32(0), n if inputs.tokens == i32(1) else i32(1)
        while row < n:
            at, ys = w + i64(row) * w_bytes, out + 4 * row
            if halvings == i32(0):
                one_by_one(kind, at, w_bytes, together, inputs, ys)
            elif kind == op.INT4:
                int4.rows_of_each(at, apart, together, inputs, ys, out_apart)
            else:
                rows_of_each(at, apart, together, inputs, ys, out_apart)
            row = i32(row + together)
        for i in range(i32(i32(1) << halvings)):
            for t in range(inputs.tokens):
                dots = out + i * out_apart + i64(t) * inputs.y_bytes
                finish(args, fields, start + i * rows, n, t, dots)
        start = i32(start + n)


@part
def bytes_of_row(kind: Int, cols: Int) -> Offset:
    """Return the bytes of a row of weights of a kind."""
    return int4.row_bytes(cols) if kind == op.INT4 else i64(cols) * item_bytes(kind)


@part
def one_by_one(
    kind: Int, w: Address, w_bytes: Offset, n: Int, inputs: Inputs, out: Address
) -> None:
    """Multiply n rows that follow each other with every token."""
    row = i32(0)
    # Such rows are read fastest one by one, unless they are short or in use by several tokens.
    if kind == op.INT8 and not simd.PAIRS and inputs.cols <= i32(SHORT):
        while row + i32(4) <= n:
            four_i8_rows(w, inputs, out + 4 * row)
            w, row = w + 4 * w_bytes, i32(row + 4)
    while row < n:
        one_row(kind, w, inputs, out + 4 * row)
        w, row = w + w_bytes, i32(row + 1)


@part
def four_i8_rows(w: Address, inputs: Inputs, out: Address) -> None:
    """Multiply four int8 rows, which are short, with each token."""
    cols = inputs.cols
    prefetch_row(w + FAR, 4 * i64(cols))
    for t in range(inputs.tokens):
        xs, ys = inputs.x + i64(t) * inputs.x_bytes, out + i64(t) * inputs.y_bytes
        simd.dots_i8_four(w, i64(cols), xs, 0, cols, ys, 4)


@part
def one_row(kind: Int, w: Address, inputs: Inputs, out: Address) -> None:
    """Multiply a row of any kind with each token; rows of floats and of int4 with four at once."""
    if kind == op.INT4:
        int4.one_row(w, inputs, out)
    elif kind == op.INT8:
        for t in range(inputs.tokens):
            xs, ys = inputs.x + i64(t) * inputs.x_bytes, out + i64(t) * inputs.y_bytes
            simd.dots_i8(w, 0, xs, 0, inputs.cols, ys, 0)
    else:
        whole = i32(inputs.tokens & i32(-4))  # tokens that come in fours
        for t in range(0, whole, 4):
            xs, ys = inputs.x + i64(t) * inputs.x_bytes, out + i64(t) * inputs.y_bytes
            if kind == op.F16:
                simd.dots_f16_block(w, 0, xs, inputs.x_bytes, inputs.cols, ys, inputs.y_bytes)
            else:
                simd.dots_f32_block(w, 0, xs, inputs.x_bytes, inputs.cols, ys, inputs.y_bytes)
        for t in range(whole, inputs.tokens):
            xs, ys = inputs.x + i64(t) * inputs.x_bytes, out + i64(t) * inputs.y_bytes
            if kind == op.F16:
                simd.dots_f16(w, 0, xs, 0, inputs.cols, ys, 0)
            else:
                simd.dots_f32(w, 0, xs, 0, inputs.cols, ys, 0)


@part
def rows_of_each(
    w: Address, apart: Offset, rows: Int, inputs: Inputs, out: Address, out_apart: Offset
) -> None:
    """Multiply rows of each part with one token, or one row with several tokens.

    As many tokens are multiplied at once as have sums in registers.
    """
    cols, x_bytes, y_bytes = inputs.cols, inputs.x_bytes, inputs.y_bytes
    t, left = i32(0), inputs.tokens
    tiled = not simd.SCALAR and cols >= i32(tiles.LEAST)
    while left > i32(0):
        xs, ys = inputs.x + i64(t) * x_bytes, out + i64(t) * y_bytes
        if tiled and left >= i32(4):
            if t == i32(0):
                tiles.first_four(w, apart, xs, x_bytes, cols, ys, out_apart, y_bytes)
            else:
                tiles.four_tokens(w, apart, xs, x_bytes, cols, ys, out_apart, y_bytes)
            t, left = i32(t + 4), i32(left - 4)
        elif tiled and left >= i32(2):
            tiles.two_tokens(w, apart, xs, x_bytes, cols, ys, out_apart, y_bytes)
            t, left = i32(t + 2), i32(left - 2)
        else:
            simd.rows_i8(w, i64(cols), rows, apart, xs, cols, ys, out_apart)
            t, left = i32(t + 1), i32(left - 1)


@kernel
def finish(args: Arguments, fields: Fields, row: Int, n: Int, t: Int, dots: Address) -> None:
    """Turn the dot products of n rows with token t into results and put them where they belong.

    dst (mode)= activation(dots * scale + bias + diag * x), from row `row` of the matrix on. MATMUL,
    PREDICT and SPARSE end with this: their fields begin alike.
    """
    y, mode = f32_at(dots), fields[op.MATMUL_AT.mode]
    to_floats(args, fields, row, n, t, dots)
    if fields[op.MATMUL_AT.bias] != op.NONE:
        bias = f32_at(args[op.WEIGHTS] + fields[op.MATMUL_AT.bias] + row * 4)
        for i in range(n):
            y[i] = y[i] + bias[i]
    if fields[op.MATMUL_AT.diag] != op.NONE:
        diagonal = f32_at(args[op.WEIGHTS] + fields[op.MATMUL_AT.diag] + row * 4)
        src = args[op.PRIVATE] + fields[op.MATMUL_AT.diag_src]
        x = f32_at(src + (i64(t) * fields[op.MATMUL_AT.dst_stride] + row) * 4)
        for i in range(n):
            y[i] = y[i] + diagonal[i] * x[i]
    activate(y, n, fields[op.MATMUL_AT.activation])
    offset = (i64(t) * fields[op.MATMUL_AT.dst_stride] + row) * 4
    memory = args[op.OUT] if mode == op.LOGITS else args[op.SHARED]
    out = f32_at(memory + fields[op.MATMUL_AT.dst] + offset)
    if mode == op.ADD:
        for i in range(n):
            out[i] = out[i] + y[i]
    elif mode == op.GATED_ADD:
        gate = f32_at(args[op.SHARED] + fields[op.MATMUL_AT.gate] + offset)
        for i in range(n):
            out[i] = out[i] + gate[i] * y[i]
    elif mode == op.MULTIPLY:
        for i in range(n):
            out[i] = out[i] * y[i]
    else:
        for i in range(n):
            out[i] = y[i]


@part
def to_floats(args: Arguments, fields: Fields, row: Int, n: Int, t: Int, dots: Address) -> None:
    """Multiply the dot products of quantised numbers with their scales, in place."""
    y, sums = f32_at(dots), i32_at(dots)
    if fields[op.MATMUL_AT.kind] == op.INT8:
        scale = f32_at(args[op.WEIGHTS] + fields[op.MATMUL_AT.scale] + row * 4)
        x_scale = f32_at(args[op.PRIVATE] + fields[op.MATMUL_AT.src_scale])[t]
        for i in range(n):
            y[i] = f32(sums[i]) * (scale[i] * x_scale)
    elif fields[op.MATMUL_AT.kind] == op.INT4:
        x_scale = f32_at(args[op.PRIVATE] + fields[op.MATMUL_AT.src_scale])[t]
        for i in range(n):
            y[i] = y[i] * x_scale


@kernel
def activate(y: Floats, n: Int, activation: Int) -> None:
    """Apply the function that a matrix product ends with, in place."""
    if activation == op.RELU or activation == op.SQUARED_RELU:
        rectify(y, n, activation)
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
            y[i] = exp(f32(-0.6065306597126334) * sigmoid(y[i]))  # -e^(-1/2)


@part
def rectify(y: Floats, n: Int, activation: Int) -> None:
    """y = max(y, 0), or the square of that for SQUARED_RELU; NaN stays NaN."""
    for i in range(n):
        positive = f32(0) if y[i] < f32(0) else y[i]
        y[i] = positive if activation == op.RELU else positive * positive
