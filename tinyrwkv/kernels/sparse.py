"""Products that read only the rows that some token needs."""

from __future__ import annotations

from typing import Any

from .. import opcodes as op
from . import simd
from .common import PRIVATE, ROWS, SHARED, TOKENS, TOUCHED, WEIGHTS, f32, i32, i64, kernel, share
from .matmul import finish
from .simd import f32_at, i16_at, i32_at, i64_at


def _weighted_rows(lanes: int) -> Any:
    """Make the kernel of out = sum_i q_i w_i for `lanes` columns of a list of int8 rows, in int32."""
    zeros, store, add_row = simd.integer_vectors(lanes)

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
    counts, positive, mask = simd.no_counts(0), i64(0), i64_at(signs)
    for w in range(words):
        counts = simd.add_counts(counts, planes + i64(w) * 64, mask[w])
        positive += simd.count_bits(mask[w])
    return i32(2 * (simd.weigh(counts) - 128 * positive) - total)


@kernel
def predict(a: Any, p: Any) -> None:
    """y_f = relu(K_f . x)^2 for the neurons f with a high score, 0 for the rest, which are not read.

    Scores are those of 1-bit weights, and where the model has one of a small network too: either will do.
    """
    cols, x_bytes = i32(p[4]), p[8] * 2
    first, last = share(a, p[3], p[5])
    words, planes, threshold = i32(cols >> 6), a[PRIVATE] + p[23], f32_at(a[WEIGHTS] + p[22])
    network_threshold = f32_at(a[WEIGHTS] + p[25])
    for t in range(i32(a[TOKENS])):
        x, total, chosen = a[PRIVATE] + p[7] + i64(t) * x_bytes, i32(0), i32(0)
        for j in range(cols):
            total = i32(total + (i32(i16_at(x)[j]) + 128 >> 8))
        for w in range(words):
            for bit in range(i32(8)):
                i64_at(planes)[w * 8 + bit] = simd.bit_plane(x + i64(w) * 128, bit)
        scale = f32(256) * f32_at(a[PRIVATE] + p[9])[t]
        sums, network = i32_at(a[PRIVATE] + i64(t) * (4 * ROWS)), f32_at(a[SHARED] + p[24] + i64(t) * p[11] * 4)
        start = first
        while start < last:
            n = i32(min(ROWS, last - start))
            for i in range(n):
                signs = a[WEIGHTS] + p[21] + i64(start + i) * words * 8
                sums[i] = i32(0)
                high = f32(sign_dot(planes, total, signs, words)) * scale > threshold[start + i]
                if high or (p[24] != op.NONE and not network[start + i] <= network_threshold[start + i]):
                    key = a[WEIGHTS] + row_address(p, start + i)
                    simd.dots_i8(key, 0, x, 0, cols, a[PRIVATE] + i64(t) * (4 * ROWS) + 4 * i, 0)
                    chosen = i32(chosen + 1)
            finish(a, p, start, n, t, a[PRIVATE] + i64(t) * (4 * ROWS))
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
            finish(a, p, column, unit, t, out)
            column = i32(column + unit)
