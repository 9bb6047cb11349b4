"""One function for each operation of a program, in the Python that Numba compiles.

Every function takes `a`, the arguments of the call (``run.py`` lists them), and `p`, the fields of its operation in
the order of ``opcodes.FIELDS``. Sizes are int32, because 32-bit processors are slow with more; offsets are int64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from .. import opcodes as op
from .simd import (
    add_counts,
    bit_plane,
    bits_from_float,
    count_bits,
    dots_f16,
    dots_f16_block,
    dots_f32,
    dots_f32_block,
    dots_i8,
    dots_i8_block,
    dots_i8_short,
    f32_at,
    float_from_bits,
    i8_at,
    i16_at,
    i32_at,
    i64_at,
    integer_vectors,
    no_counts,
    square_root,
    truncate,
    u16_at,
    vectors,
    weigh,
)

(
    WEIGHTS,
    PROGRAM,
    FIRST,
    LAST,
    TOKENS,
    IDS,
    OLD,
    NEW,
    SHARED,
    PRIVATE,
    OUT,
    HEAD,
    BEGIN,
    END,
    THREADS,
    BARRIER,
    TOUCHED,
) = range(17)
ARGUMENTS = 17

ONES = 64  # a vector of ones in the shared workspace, after ln_x_eps
ROWS = 64  # rows of a matrix product whose dot products are finished together
SCRATCH = 4 * ROWS * op.MAX_TOKENS  # rows for the wkv kernels in the private workspace, after the dot products

kernel = njit(error_model="numpy", nogil=True, boundscheck=False)
f32, i32, i64 = np.float32, np.int32, np.int64


@kernel
def exp(x: Any) -> Any:
    """e^x to 2 units in the last place; saturates at 1e-38 and 3e38.

    e^x = 2^n e^r with n = round(x / ln 2), |r| <= ln 2 / 2, and a polynomial for e^r.
    """
    x = min(max(x, f32(-87.0)), f32(88.0))
    n = truncate(x * f32(1.4426950408889634) + (f32(0.5) if x >= f32(0) else f32(-0.5)))
    t = f32(n)
    r = (x - t * f32(0.693359375)) + t * f32(2.1219444e-4)
    y = f32(1.9875691500e-4)
    y = y * r + f32(1.3981999507e-3)
    y = y * r + f32(8.3334519073e-3)
    y = y * r + f32(4.1665795894e-2)
    y = y * r + f32(1.6666665459e-1)
    y = y * r + f32(5.0000001201e-1)
    y = y * r * r + r + f32(1)
    return y * float_from_bits(i32((n + i32(127)) << i32(23)))


@kernel
def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x)."""
    return f32(1) / (f32(1) + exp(-x))


@kernel
def dot(a: Any, x: Any, y: Any, n: Any) -> Any:
    """Sum of x_j y_j over float32 at two addresses, in the fixed order of ``simd``."""
    dots_f32(x, 0, y, 0, n, a[PRIVATE], 0)
    return f32_at(a[PRIVATE])[0]


@kernel
def share(a: Any, units: Any, unit: Any) -> tuple[Any, Any]:
    """Return this thread's part of rows that come in units, from the 65536ths of the work that are its own.

    A division would do without these two arguments, but 32-bit ARM has none.
    """
    return i32((units * a[BEGIN] >> 16) * unit), i32((units * a[END] >> 16) * unit)


@kernel
def half(bits: Any) -> Any:
    """Float16 bits as float32."""
    bits = i32(bits)
    magnitude = float_from_bits(i32((bits & i32(0x7FFF)) << i32(13))) * f32(2.0**112)
    return -magnitude if bits & i32(0x8000) else magnitude


@kernel
def embed(a: Any, p: Any) -> None:
    """x = emb[token]."""
    kind, width = p[2], i32(p[4])
    first, last = share(a, width, 1)
    for t in range(i32(a[TOKENS])):
        token = i64(i32_at(a[IDS])[t])
        x = f32_at(a[SHARED] + p[3] + i64(t) * width * 4)
        row = a[WEIGHTS] + p[0] + token * width * (4 if kind == op.F32 else 2 if kind == op.F16 else 1)
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
def normalise(a: Any, x: Any, out: Any, n: Any, eps: Any) -> None:
    """out = (x - mean(x)) / sqrt(var(x) + eps), the variance biased."""
    mean = dot(a, x, a[SHARED] + ONES, n) / f32(n)
    source, target = f32_at(x), f32_at(out)
    for j in range(n):
        target[j] = source[j] - mean
    scale = f32(1) / square_root(dot(a, out, out, n) / f32(n) + eps)
    for j in range(n):
        target[j] = target[j] * scale


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
def activate(y: Any, n: Any, activation: Any) -> None:
    """Apply the function that a matrix product ends with, in place."""
    if activation == op.SQUARED_RELU:
        for i in range(n):
            positive = max(y[i], f32(0))
            y[i] = positive * positive
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


@kernel
def finish(a: Any, p: Any, row: Any, n: Any, t: Any) -> None:
    """Turn the dot products of n rows with token t into results and put them where they belong."""
    at = a[PRIVATE] + i64(t) * (4 * ROWS)
    y, mode = f32_at(at), p[14]
    if p[2] == op.INT8:
        sums, scale, x_scale = i32_at(at), f32_at(a[WEIGHTS] + p[1] + row * 4), f32_at(a[PRIVATE] + p[9])[t]
        for i in range(n):
            y[i] = f32(sums[i]) * (scale[i] * x_scale)
    if p[13] != op.NONE:
        bias = f32_at(a[WEIGHTS] + p[13] + row * 4)
        for i in range(n):
            y[i] = y[i] + bias[i]
    if p[16] != op.NONE:
        diagonal, x = f32_at(a[WEIGHTS] + p[16] + row * 4), f32_at(a[PRIVATE] + p[17] + (i64(t) * p[11] + row) * 4)
        for i in range(n):
            y[i] = y[i] + diagonal[i] * x[i]
    activate(y, n, p[12])
    offset = (i64(t) * p[11] + row) * 4
    out = f32_at((a[OUT] if mode == op.LOGITS else a[SHARED]) + p[10] + offset)
    if mode == op.ADD:
        for i in range(n):
            out[i] = out[i] + y[i]
    elif mode == op.GATED_ADD:
        gate = f32_at(a[SHARED] + p[15] + offset)
        for i in range(n):
            out[i] = out[i] + gate[i] * y[i]
    else:
        for i in range(n):
            out[i] = y[i]


@kernel
def matmul(a: Any, p: Any) -> None:
    """y = W @ x for this thread's rows of W and every token: each row is read from memory once."""
    kind, cols, tokens = p[2], i32(p[4]), i32(a[TOKENS])
    first, last = share(a, p[3], p[5])
    w_bytes = i64(cols) * (4 if kind == op.F32 else 2 if kind == op.F16 else 1)
    x_bytes = p[8] * (2 if kind == op.INT8 else 4)
    x, out_bytes = (a[SHARED] if p[6] else a[PRIVATE]) + p[7], 4 * ROWS
    for start in range(first, last, ROWS):
        n = i32(min(ROWS, last - start))
        w, out, row = a[WEIGHTS] + p[0] + i64(start) * w_bytes, a[PRIVATE], i32(0)
        # Rows that follow each other in memory are read fastest one by one, unless they are short or in use by
        # several tokens.
        whole = i32(tokens & i32(-4))
        if kind == op.INT8 and whole:
            while row + i32(2) <= n:
                for t in range(0, whole, 4):
                    ys = out + i64(t) * out_bytes + 4 * row
                    dots_i8_block(w, w_bytes, x + i64(t) * x_bytes, x_bytes, cols, ys, out_bytes)
                one_by_one(kind, w, w_bytes, i32(2), x, x_bytes, whole, tokens, cols, out + 4 * row)
                w, row = w + 2 * w_bytes, i32(row + 2)
        elif kind == op.INT8 and cols <= i32(256):
            while row + i32(4) <= n:
                for t in range(tokens):
                    dots_i8_short(w, w_bytes, x + i64(t) * x_bytes, 0, cols, out + i64(t) * out_bytes + 4 * row, 0)
                w, row = w + 4 * w_bytes, i32(row + 4)
        elif kind != op.INT8 and whole:
            while row < n:
                for t in range(0, whole, 4):
                    xs, ys = x + i64(t) * x_bytes, out + i64(t) * out_bytes + 4 * row
                    if kind == op.F16:
                        dots_f16_block(w, 0, xs, x_bytes, cols, ys, out_bytes)
                    else:
                        dots_f32_block(w, 0, xs, x_bytes, cols, ys, out_bytes)
                one_by_one(kind, w, w_bytes, i32(1), x, x_bytes, whole, tokens, cols, out + 4 * row)
                w, row = w + w_bytes, i32(row + 1)
        one_by_one(kind, w, w_bytes, i32(n - row), x, x_bytes, i32(0), tokens, cols, out + 4 * row)
        for t in range(tokens):
            finish(a, p, start, n, t)


@kernel
def one_by_one(
    kind: Any, w: Any, w_bytes: Any, n: Any, x: Any, x_bytes: Any, first: Any, tokens: Any, cols: Any, out: Any
) -> None:
    """Dot products of n rows with the tokens from `first` on."""
    for row in range(n):
        at = w + i64(row) * w_bytes
        for t in range(first, tokens):
            xs, ys = x + i64(t) * x_bytes, out + i64(t) * (4 * ROWS) + 4 * row
            if kind == op.INT8:
                dots_i8(at, 0, xs, 0, cols, ys, 0)
            elif kind == op.F16:
                dots_f16(at, 0, xs, 0, cols, ys, 0)
            else:
                dots_f32(at, 0, xs, 0, cols, ys, 0)


def _weighted_rows(lanes: int) -> Any:
    """Make the kernel of out = sum_i q_i w_i for `lanes` columns of a list of int8 rows, in int32."""
    zeros, store, add_row = integer_vectors(lanes)

    @kernel
    def columns(rows: Any, factors: Any, n: Any, column: Any, out: Any) -> None:
        total = zeros(0)
        for i in range(n):
            total = add_row(total, rows[i] + column, factors[i])
        store(out, total)

    return columns


weighted_rows_64, weighted_rows_8 = _weighted_rows(64), _weighted_rows(8)


@kernel
def row_address(p: Any, f: Any) -> Any:
    """Offset of row f in a region of pages that hold per_page rows each; one page of any length where that is 0."""
    page = i64(f) * p[20] >> 32
    return p[0] + page * 4096 + (i64(f) - page * p[19]) * p[18]


@kernel
def sign_dot(planes: Any, total: Any, signs: Any, words: Any) -> Any:
    """Sum of sign_j x_j from bit planes of x: twice the sum where the sign is positive, less the sum of all."""
    counts, positive, mask = no_counts(0), i64(0), i64_at(signs)
    for w in range(words):
        counts = add_counts(counts, planes + i64(w) * 64, mask[w])
        positive += count_bits(mask[w])
    return i32(2 * (weigh(counts) - 128 * positive) - total)


@kernel
def predict(a: Any, p: Any) -> None:
    """y_f = relu(K_f . x)^2 for the neurons f that 1-bit weights expect to fire, 0 for the rest, which are not read."""
    cols, x_bytes = i32(p[4]), p[8] * 2
    first, last = share(a, p[3], p[5])
    words, planes, threshold = i32(cols >> 6), a[PRIVATE] + p[23], f32_at(a[WEIGHTS] + p[22])
    for t in range(i32(a[TOKENS])):
        x, total, chosen = a[PRIVATE] + p[7] + i64(t) * x_bytes, i32(0), i32(0)
        for j in range(cols):
            total = i32(total + (i32(i16_at(x)[j]) + 128 >> 8))
        for w in range(words):
            for bit in range(i32(8)):
                i64_at(planes)[w * 8 + bit] = bit_plane(x + i64(w) * 128, bit)
        scale = f32(256) * f32_at(a[PRIVATE] + p[9])[t]
        sums = i32_at(a[PRIVATE] + i64(t) * (4 * ROWS))
        start = first
        while start < last:
            n = i32(min(ROWS, last - start))
            for i in range(n):
                signs = a[WEIGHTS] + p[21] + i64(start + i) * words * 8
                sums[i] = i32(0)
                if f32(sign_dot(planes, total, signs, words)) * scale > threshold[start + i]:
                    dots_i8(
                        a[WEIGHTS] + row_address(p, start + i),
                        0,
                        x,
                        0,
                        cols,
                        a[PRIVATE] + i64(t) * (4 * ROWS) + 4 * i,
                        0,
                    )
                    chosen = i32(chosen + 1)
            finish(a, p, start, n, t)
            start = i32(start + n)
        a[TOUCHED] += i64(chosen) * cols


@kernel
def sparse(a: Any, p: Any) -> None:
    """x += gate * sum_f x_f W_f, reading only rows W_f with x_f != 0: the others add nothing, bit for bit."""
    unit, neurons = i32(p[5]), i32(p[4])
    first, last = share(a, p[3], p[5])
    rows, factors = i64_at(a[PRIVATE] + p[21]), i32_at(a[PRIVATE] + p[21] + i64(neurons) * 8)
    for t in range(i32(a[TOKENS])):
        q, n = i16_at(a[PRIVATE] + p[7] + i64(t) * p[8] * 2), i32(0)
        for f in range(neurons):
            if q[f] != 0:
                rows[n] = a[WEIGHTS] + row_address(p, f)
                factors[n] = i32(q[f])
                n = i32(n + 1)
        a[TOUCHED] += i64(n) * (last - first)
        out = a[PRIVATE] + i64(t) * (4 * ROWS)
        column = first
        while column < last:
            if unit == i32(64):
                weighted_rows_64(rows, factors, n, column, out)
            else:
                weighted_rows_8(rows, factors, n, column, out)
            finish(a, p, column, unit, t)
            column = i32(column + unit)


@kernel
def wkv4(a: Any, p: Any) -> None:
    """wkv of v4, channel by channel; state rows aa, bb, pp.

    q = max(pp, u + k);  wkv = (e^(pp-q) aa + e^(u+k-q) v) / (e^(pp-q) bb + e^(u+k-q))
    q = max(pp + w, k);  aa = e^(pp+w-q) aa + e^(k-q) v;  bb = e^(pp+w-q) bb + e^(k-q);  pp = q
    """
    width = i32(p[7])
    first, last = share(a, width, 1)
    decay, bonus = f32_at(a[WEIGHTS] + p[3]), f32_at(a[WEIGHTS] + p[4])
    old, new = f32_at(a[OLD] + p[5]), f32_at(a[NEW] + p[5])
    for c in range(first, last):
        aa, bb, pp = old[c], old[c + width], old[c + 2 * width]
        for t in range(i32(a[TOKENS])):
            at = (i64(t) * width + c) * 4
            r, k, v = (
                f32_at(a[SHARED] + p[0] + at)[0],
                f32_at(a[SHARED] + p[1] + at)[0],
                f32_at(a[SHARED] + p[2] + at)[0],
            )
            q = max(pp, bonus[c] + k)
            e1, e2 = exp(pp - q), exp(bonus[c] + k - q)
            f32_at(a[SHARED] + p[6] + at)[0] = r * ((e1 * aa + e2 * v) / (e1 * bb + e2))
            q = max(pp + decay[c], k)
            e1, e2 = exp(pp + decay[c] - q), exp(k - q)
            aa, bb, pp = e1 * aa + e2 * v, e1 * bb + e2, q
        new[c], new[c + width], new[c + 2 * width] = aa, bb, pp


@kernel
def head_norm(a: Any, y: Any, weight: Any, bias: Any, bonus: Any, v: Any, gate: Any, n: Any) -> None:
    """y = (ln_x(y) + bonus * v) * gate for one head; gate is an address, or 0 for none."""
    normalise(a, y, y, n, f32_at(a[SHARED])[0])
    out = f32_at(y)
    for j in range(n):
        out[j] = out[j] * weight[j] + bias[j] + bonus * v[j]
    if gate != 0:
        g = f32_at(gate)
        for j in range(n):
            out[j] = out[j] * g[j]


def _read_and_write(lanes: int) -> Any:
    """Make the kernel of y = y + r @ S, S = diag(w) S + k v^T for `lanes` columns of one head's state."""
    load, store, scale, add_scaled = vectors(lanes)

    @kernel
    def columns(old: Any, new: Any, r: Any, k: Any, v: Any, w: Any, y: Any, n: Any) -> None:
        total, value, row = load(y), load(v), i64(n) * 4
        for i in range(n):
            s = load(old + i * row)
            total = add_scaled(total, s, f32_at(r)[i])
            store(new + i * row, add_scaled(scale(s, f32_at(w)[i]), value, f32_at(k)[i]))
        store(y, total)

    return columns


def _replace_and_read(lanes: int) -> Any:
    """Make the kernel of S = diag(w) S + b (S^T -kk)^T + k v^T, y = r @ S for `lanes` columns of one head's state."""
    load, store, scale, add_scaled = vectors(lanes)

    @kernel
    def columns(old: Any, new: Any, r: Any, k: Any, v: Any, w: Any, kk: Any, b: Any, y: Any, n: Any) -> None:
        value, row = load(v), i64(n) * 4
        removed = scale(load(old), -f32_at(kk)[0])
        for i in range(1, n):
            removed = add_scaled(removed, load(old + i * row), -f32_at(kk)[i])
        total = scale(value, f32(0))
        for i in range(n):
            s = add_scaled(scale(load(old + i * row), f32_at(w)[i]), removed, f32_at(b)[i])
            s = add_scaled(s, value, f32_at(k)[i])
            store(new + i * row, s)
            total = add_scaled(total, s, f32_at(r)[i])
        store(y, total)

    return columns


read_and_write_64, read_and_write_8 = _read_and_write(64), _read_and_write(8)
replace_and_read_64, replace_and_read_8 = _replace_and_read(64), _replace_and_read(8)


@kernel
def wkv5(a: Any, p: Any) -> None:
    """wkv of v5 and v6 for this thread's heads; S is [key, value].

    y = r @ (S + diag(u) k v^T);  S = diag(w) S + k v^T;  y = ln_x(y) * g
    """
    heads, n = i32(p[11]), i32(p[12])
    first, last = share(a, heads, 1)
    width, row = i64(heads) * n * 4, i64(n) * 4
    for h in range(first, last):
        head, state = i64(h) * row, p[9] + i64(h) * n * row
        u = f32_at(a[WEIGHTS] + p[6] + head)
        weight, bias = f32_at(a[WEIGHTS] + p[7] + head), f32_at(a[WEIGHTS] + p[8] + head)
        for t in range(i32(a[TOKENS])):
            at = a[SHARED] + i64(t) * width + head
            r, k, v, y = at + p[0], at + p[1], at + p[2], at + p[10]
            w = at + p[4] if p[5] else a[WEIGHTS] + p[4] + head
            old, new = (a[OLD] if t == 0 else a[NEW]) + state, a[NEW] + state
            bonus = f32(0)
            for i in range(n):
                bonus += f32_at(r)[i] * u[i] * f32_at(k)[i]
            for j in range(n):
                f32_at(y)[j] = bonus * f32_at(v)[j]
            if n % 64 == 0:
                for j in range(0, row, 256):
                    read_and_write_64(old + j, new + j, r, k, v + j, w, y + j, n)
            else:
                for j in range(0, row, 32):
                    read_and_write_8(old + j, new + j, r, k, v + j, w, y + j, n)
            gate = i64(0) if p[3] == op.NONE else at + p[3]
            head_norm(a, y, weight, bias, f32(0), f32_at(v), gate, n)


@kernel
def wkv7(a: Any, p: Any) -> None:
    """wkv of v7 for this thread's heads; S is [key, value].

    v = v + (v_first - v) v_gate;  kk = normalise(k k_k);  k = k (1 + (a - 1) k_a)
    S = diag(w) S + (kk a) (S^T -kk)^T + k v^T;  y = (ln_x(r @ S) + (r . k r_k) v) * g
    """
    heads, n = i32(p[15]), i32(p[16])
    first, last = share(a, heads, 1)
    width, row = i64(heads) * n * 4, i64(n) * 4
    kk_at, key_at, b_at = a[PRIVATE] + SCRATCH, a[PRIVATE] + SCRATCH + row, a[PRIVATE] + SCRATCH + 2 * row
    kk, key, b = f32_at(kk_at), f32_at(key_at), f32_at(b_at)
    for h in range(first, last):
        head, state = i64(h) * row, p[13] + i64(h) * n * row
        k_k, k_a = f32_at(a[WEIGHTS] + p[8] + head), f32_at(a[WEIGHTS] + p[9] + head)
        r_k = f32_at(a[WEIGHTS] + p[10] + head)
        weight, bias = f32_at(a[WEIGHTS] + p[11] + head), f32_at(a[WEIGHTS] + p[12] + head)
        for t in range(i32(a[TOKENS])):
            at = a[SHARED] + i64(t) * width + head
            r, k, v, rate = f32_at(at + p[0]), f32_at(at + p[1]), f32_at(at + p[2]), f32_at(at + p[4])
            old, new = (a[OLD] if t == 0 else a[NEW]) + state, a[NEW] + state
            if p[6] != op.NONE:
                v_gate, v_first = f32_at(at + p[6]), f32_at(at + p[7])
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
            y, w = at + p[14], at + p[3]
            if n % 64 == 0:
                for j in range(0, row, 256):
                    replace_and_read_64(old + j, new + j, at + p[0], key_at, at + p[2] + j, w, kk_at, b_at, y + j, n)
            else:
                for j in range(0, row, 32):
                    replace_and_read_8(old + j, new + j, at + p[0], key_at, at + p[2] + j, w, kk_at, b_at, y + j, n)
            head_norm(a, y, weight, bias, bonus, v, at + p[5], n)


@kernel
def select(a: Any, p: Any) -> None:
    """x = x[last token], the only one from here on."""
    width = i32(p[1])
    first, last = share(a, width, 1)
    x, source = f32_at(a[SHARED] + p[0]), f32_at(a[SHARED] + p[0] + (a[TOKENS] - 1) * width * 4)
    for j in range(first, last):
        x[j] = source[j]
