"""The head by a preview: a few bits of every row for a first guess, the exact row where the guess matters.

Threads take rows in units of op.UNIT, spread by `common.mine`: likely rows, which come first, cost more than others.
"""

from __future__ import annotations

from typing import Any

from .. import opcodes as op
from . import common, simd
from .codes import code_sums, fill_tables_2, fill_tables_4
from .common import OUT, PRIVATE, SHARED, TOKENS, TOUCHED, WEIGHTS, dot, f32, i32, i64, kernel
from .simd import bits_from_float, f32_at, i32_at, u8_at

LISTED = common.ROWS * op.MAX_TOKENS - 16  # rows that have room where the results of dot products go


@kernel
def level(a: Any, p: Any) -> None:
    """z_i = s scale_i (c_i . u - (2^bits - 1) / 2 sum(u)) for the rows of one level; added to z_i after the first."""
    rows, n, rank, tables = i32(p[3]), i32(p[4]), i32(p[5]), a[PRIVATE] + p[7]
    table, sums, scale = f32_at(a[WEIGHTS] + p[2]), i32_at(a[PRIVATE]), f32_at(a[PRIVATE] + 4 * op.BLOCK)
    for t in range(i32(a[TOKENS])):
        x, s = a[PRIVATE] + p[8] + i64(t) * rank * 2, f32(128) * f32_at(a[PRIVATE] + p[9])[t]
        if p[6] == 4:
            fill_tables_4(x, n, tables)
        else:
            fill_tables_2(x, n, tables)
        for start in range(0, rows, op.BLOCK):
            if common.mine(a, start >> 8):
                code_sums(a[WEIGHTS] + p[0] + i64(start) * n, tables, n, a[PRIVATE])
                scales, m = u8_at(a[WEIGHTS] + p[1] + start), min(i32(op.BLOCK), i32(rows - start))
                z = f32_at(a[SHARED] + p[10] + (i64(t) * p[11] + start) * 4)
                for i in range(m):
                    scale[i] = table[scales[i]]
                for i in range(m):
                    z[i] = (z[i] if p[12] else f32(0)) + f32(sums[i]) * (scale[i] * s)


@kernel
def preview(a: Any, p: Any) -> None:
    """logits[id_i] = z_i + mean . x + bias_i; z_i makes room for its score: this plus its error's log variance."""
    rows, cols = i32(p[7]), i32(p[8])
    ids, bias, spread = i32_at(a[WEIGHTS] + p[2]), u8_at(a[WEIGHTS] + p[3]), u8_at(a[WEIGHTS] + p[4])
    ranges = f32_at(a[WEIGHTS] + p[5])
    bias_low, bias_step, spread_low, spread_step = ranges[0], ranges[1], ranges[2], ranges[3]
    for t in range(i32(a[TOKENS])):
        offset = dot(a, a[PRIVATE] + p[0] + i64(t) * cols * 4, a[WEIGHTS] + p[1], cols)
        out, at = f32_at(a[OUT] + i64(t) * rows * 4), a[SHARED] + p[6] + i64(t) * rows * 4
        z, score = f32_at(at), i32_at(at)
        for start in range(0, rows, op.UNIT):
            if common.mine(a, start >> 8):
                stop = min(i32(start + op.UNIT), rows)
                for i in range(start, stop):
                    z[i] = z[i] + (offset + (bias_low + bias_step * f32(bias[i])))
                for i in range(start, stop):
                    out[ids[i]] = z[i]
                for i in range(start, stop):
                    score[i] = steps(z[i] + (spread_low + spread_step * f32(spread[i])))


@kernel
def steps(x: Any) -> Any:
    """round(16 x) as int32, from -2^20 to 2^20."""
    x = min(max(x * f32(16), f32(-1048576.0)), f32(1048576.0))
    return i32(bits_from_float(x + f32(12582912.0)) - i32(0x4B400000))


@kernel
def choose(a: Any, p: Any) -> None:
    """lowest = the least score that no more rows reach than are to be read exactly."""
    rows, wanted = i32(p[2]), i32_at(a[WEIGHTS] + p[0])[0]
    for t in range(i32(a[TOKENS])):
        scores, step = i32_at(a[SHARED] + p[1] + i64(t) * rows * 4), i32(1 << 11)
        least = highest = scores[0]
        for i in range(rows):
            least, highest = min(least, scores[i]), max(highest, scores[i])
        below = max(least, i32(highest - (1 << 12) + 1)) if wanted < rows else i32(-(1 << 21))
        while step > 0:  # bit by bit, the largest that too many reach
            reach = i32(0)
            if below + step <= highest:
                for i in range(rows):
                    reach += i32(scores[i] >= below + step)
            below = i32(below + step) if reach > wanted else below
            step = i32(step >> 1)
        i32_at(a[PRIVATE] + p[3])[t] = i32(below + 1)


@kernel
def exact(a: Any, p: Any) -> None:
    """logits[id_i] = w_i . x for the rows of a range whose score is high enough; no other row is read."""
    first, rows, listed = i32(p[6]), i32(p[7]), i32_at(a[PRIVATE] + 64)
    for t in range(i32(a[TOKENS])):
        scores, lowest, n = i32_at(a[SHARED] + p[9] + i64(t) * p[8] * 4), i32_at(a[PRIVATE] + p[10])[t], i32(0)
        for start in range(first, first + rows, op.UNIT):
            if common.mine(a, start >> 8):
                for i in range(start, min(start + i32(op.UNIT), first + rows)):
                    listed[n] = i32(i)
                    n = i32(n + (scores[i] >= lowest))
            if n > i32(LISTED - op.UNIT):
                n = read_listed(a, p, t, listed, n)
        read_listed(a, p, t, listed, n)


@kernel
def read_listed(a: Any, p: Any, t: Any, listed: Any, n: Any) -> Any:
    """Compute the logits of listed rows; return 0."""
    cols, ids, scales = i32(p[3]), i32_at(a[WEIGHTS] + p[2]), f32_at(a[WEIGHTS] + p[1])
    x, s = a[PRIVATE] + p[4] + i64(t) * cols * 2, f32_at(a[PRIVATE] + p[5])[t]
    out, weight = f32_at(a[OUT] + i64(t) * p[8] * 4), a[WEIGHTS] + p[0]
    for i in range(n):
        if i + common.AHEAD < n:
            common.prefetch_row(weight + i64(listed[i + common.AHEAD]) * cols, cols)
        row = listed[i]
        simd.dots_i8(weight + i64(row) * cols, 0, x, 0, cols, a[PRIVATE], 0)
        out[ids[row]] = f32(i32_at(a[PRIVATE])[0]) * (scales[row] * s)
    a[TOUCHED] += i64(n) * (cols + 4)
    return i32(0)
