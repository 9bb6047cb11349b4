"""Operations on single activations: embedding, layer norm, token shift, quantisation.

In all of them an activation of token t and channel c lies at 4 * (t * width + c) bytes after the
place that a field names. `run` calls these kernels.
"""

from __future__ import annotations

from . import abi as op
from .byte_products import split_bytes, split_offset
from .common import f32, i16, i32, i64, item_bytes, kernel, normalise, part, share
from .int4 import group_sums, row_bytes, weights_of_row
from .scalars import TO_NEAREST
from .simd import bits_from_float, f32_at, float_from_bits, half, i8_at, i16_at, i32_at, u16_at
from .types import Address, Arguments, Fields, Float, Int


@kernel
def embed(args: Arguments, fields: Fields) -> None:
    """dst = weight[token] * scale[token], the scale only of int8 weights."""
    kind, width = fields[op.EMBED_AT.kind], i32(fields[op.EMBED_AT.width])
    first, last = share(args, width, 1)
    for t in range(i32(args[op.TOKENS])):
        token = i64(i32_at(args[op.IDS])[t])
        out = args[op.SHARED] + fields[op.EMBED_AT.dst] + i64(t) * width * 4
        x = f32_at(out)
        w_bytes = row_bytes(width) if kind == op.INT4 else i64(width) * item_bytes(kind)
        row = args[op.WEIGHTS] + fields[op.EMBED_AT.weight] + token * w_bytes
        if kind == op.INT4:
            weights_of_row(row, width, first, last, out)
        else:
            scale = f32(1)
            if kind == op.INT8:
                scale = f32_at(args[op.WEIGHTS] + fields[op.EMBED_AT.scale])[token]
            for c in range(first, last):
                x[c] = weight_at(kind, row, c) * scale


@kernel
def deep(args: Arguments, fields: Fields) -> None:
    """dst = src @ M, where M is a small matrix of the token; the scale of an int8 one is behind it.

    Threads share out the columns.
    """
    kind, stride = fields[op.DEEP_AT.kind], fields[op.DEEP_AT.stride]
    rows, cols = i32(fields[op.DEEP_AT.rows]), i32(fields[op.DEEP_AT.cols])
    first, last = share(args, cols, 1)
    for t in range(i32(args[op.TOKENS])):
        token = i64(i32_at(args[op.IDS])[t])
        m = args[op.WEIGHTS] + fields[op.DEEP_AT.weight] + token * fields[op.DEEP_AT.row_bytes]
        x = f32_at(args[op.SHARED] + fields[op.DEEP_AT.src] + i64(t) * stride * 4)
        y = f32_at(args[op.SHARED] + fields[op.DEEP_AT.dst] + i64(t) * cols * 4)
        scale = f32(1)
        if kind == op.INT8:
            scale = f32_at(m + i64(rows) * cols)[0]
        for c in range(first, last):
            total = f32(0)
            for r in range(rows):
                total += x[r] * weight_at(kind, m, i32(r * cols + c))
            y[c] = total * scale


@part
def weight_at(kind: Int, weights: Address, i: Int) -> Float:
    """Return one weight as float32, that of int8 without its scale."""
    if kind == op.INT8:
        return f32(i8_at(weights)[i])
    if kind == op.F16:
        return half(u16_at(weights)[i])
    return f32_at(weights)[i]


@kernel
def norm(args: Arguments, fields: Fields) -> None:
    """dst = layer_norm(src) * weight + bias; src is shared, dst private."""
    width = i32(fields[op.NORM_AT.width])
    weight = f32_at(args[op.WEIGHTS] + fields[op.NORM_AT.weight])
    bias = f32_at(args[op.WEIGHTS] + fields[op.NORM_AT.bias])
    for t in range(i32(args[op.TOKENS])):
        out = args[op.PRIVATE] + fields[op.NORM_AT.dst] + i64(t) * width * 4
        x = args[op.SHARED] + fields[op.NORM_AT.src] + i64(t) * width * 4
        normalise(args, x, out, width, f32(1e-5))
        xn = f32_at(out)
        for c in range(width):
            xn[c] = xn[c] * weight[c] + bias[c]


@kernel
def shift(args: Arguments, fields: Fields) -> None:
    """dst_j = xn + (xn_prev - xn) * (mu_j + delta_j) for j < count; src and dst are private.

    xn is src; xn_prev is that of the token before, for the first token from the old state. xn goes
    to the new state: of each token if there is a state for each, else of the last. delta, which is
    shared, may be NONE. dst and delta have a plane for each j, with room for MAX_TOKENS tokens.
    """
    src, state, mu = fields[op.SHIFT_AT.src], fields[op.SHIFT_AT.state], fields[op.SHIFT_AT.mu]
    count, delta, dst = (
        fields[op.SHIFT_AT.count],
        fields[op.SHIFT_AT.delta],
        fields[op.SHIFT_AT.dst],
    )
    width, tokens = i32(fields[op.SHIFT_AT.width]), i32(args[op.TOKENS])
    plane = i64(width) * 4 * op.MAX_TOKENS
    for t in range(tokens):
        here = args[op.PRIVATE] + src + i64(t) * width * 4
        xn = f32_at(here)
        prev = f32_at(args[op.OLD] + state if t == 0 else here - i64(width) * 4)
        for j in range(count):
            m = f32_at(args[op.WEIGHTS] + mu + j * width * 4)
            out = f32_at(args[op.PRIVATE] + dst + j * plane + i64(t) * width * 4)
            if delta == op.NONE:
                for c in range(width):
                    out[c] = xn[c] + (prev[c] - xn[c]) * m[c]
            else:
                d = f32_at(args[op.SHARED] + delta + j * plane + i64(t) * width * 4)
                for c in range(width):
                    out[c] = xn[c] + (prev[c] - xn[c]) * (m[c] + d[c])
    first, last = share(args, width, 1)
    for t in range(i32(0) if args[op.STATE_STEP] else tokens - i32(1), tokens):
        xn = f32_at(args[op.PRIVATE] + src + i64(t) * width * 4)
        new = f32_at(args[op.NEW] + i64(t) * args[op.STATE_STEP] + state)
        for c in range(first, last):
            new[c] = xn[c]


@kernel
def quantize(args: Arguments, fields: Fields) -> None:
    """q = round(x / s) as int16 with s = max|x| / qmax, for each token.

    x is src; q goes to dst and s to dst_scale, both private. For int4, the sums of q over the
    groups go to dst_sums, and the bytes of q behind the q of all tokens.
    """
    workspace = args[op.SHARED] if fields[op.QUANTIZE_AT.shared] else args[op.PRIVATE]
    base = workspace + fields[op.QUANTIZE_AT.src]
    width, qmax = i32(fields[op.QUANTIZE_AT.width]), f32(i32(fields[op.QUANTIZE_AT.qmax]))
    for t in range(i32(args[op.TOKENS])):
        row = base + i64(t) * fields[op.QUANTIZE_AT.stride] * 4
        x = f32_at(row)
        out = args[op.PRIVATE] + fields[op.QUANTIZE_AT.dst] + i64(t) * width * 2
        q = i16_at(out)
        largest = largest_magnitude(row, width)
        inverse = qmax / largest if largest > f32(0) else f32(0)
        for c in range(width):
            q[c] = i16(bits_from_float(x[c] * inverse + f32(TO_NEAREST)))
        f32_at(args[op.PRIVATE] + fields[op.QUANTIZE_AT.dst_scale])[t] = largest / qmax
        if fields[op.QUANTIZE_AT.dst_sums] != op.NONE:
            sums = args[op.PRIVATE] + fields[op.QUANTIZE_AT.dst_sums] + i64(t) * (width >> 6) * 4
            group_sums(out, width, sums)
            split = split_offset(width, i32(args[op.TOKENS]))
            if split != 0:
                split_bytes(out, width, out + split)


@part
def largest_magnitude(x: Address, n: Int) -> Float:
    """Return max|x_j| of n float32."""
    # Without their sign, float32 compare as integers do: a maximum that vectorises in any order.
    bits = i32_at(x)
    top = i32(0)
    for j in range(n):
        top = max(top, i32(bits[j] & i32(0x7FFFFFFF)))
    return float_from_bits(top)


@kernel
def select(args: Arguments, fields: Fields) -> None:
    """src[0] = src[the last token], the only one from here on."""
    width = i32(fields[op.SELECT_AT.width])
    first, last = share(args, width, 1)
    x = f32_at(args[op.SHARED] + fields[op.SELECT_AT.src])
    newest = f32_at(args[op.SHARED] + fields[op.SELECT_AT.src] + (args[op.TOKENS] - 1) * width * 4)
    for c in range(first, last):
        x[c] = newest[c]
