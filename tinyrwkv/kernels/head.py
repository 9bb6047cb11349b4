"""The head by a preview: a few bits of every row for a first guess, the exact row where the guess matters.

Exact rows are shared out in units of op.UNIT, spread by `common.mine`: likely rows, which come first, cost most.
"""

from __future__ import annotations

from typing import Any

from . import abi as op
from . import common, simd
from .codes import code_sums, fill_tables_2, fill_tables_4
from .common import (
    FAR,
    OUT,
    PRIVATE,
    SHARED,
    TOKENS,
    TOUCHED,
    WEIGHTS,
    dot,
    f32,
    i16,
    i32,
    i64,
    kernel,
    share,
)
from .simd import bits_from_float, f32_at, i16_at, i32_at, u8_at

LISTED = (
    common.ROWS * op.MAX_TOKENS - 16
)  # rows that have room where the results of dot products go


@kernel
def level(a: Any, p: Any) -> None:
    """z_i = s scale_i (c_i . u - (2^bits - 1) / 2 sum(u)) for the rows of one level; added to z_i after the first."""
    rows, n, rank, tables = i32(p[3]), i32(p[4]), i32(p[5]), a[PRIVATE] + p[7]
    table, sums, scale = (
        f32_at(a[WEIGHTS] + p[2]),
        i32_at(a[PRIVATE]),
        f32_at(a[PRIVATE] + 4 * op.BLOCK),
    )
    first, last = share(a, i64(rows + op.BLOCK - 1) >> 6, op.BLOCK)
    for t in range(i32(a[TOKENS])):
        x, s = a[PRIVATE] + p[8] + i64(t) * rank * 2, f32(128) * f32_at(a[PRIVATE] + p[9])[t]
        if p[6] == 4:
            fill_tables_4(x, n, tables)
        else:
            fill_tables_2(x, n, tables)
        for start in range(first, last, op.BLOCK):
            # i64: of a plain number Numba makes another form of code_sums, half as fast.
            code_sums(a[WEIGHTS] + p[0] + i64(start) * n, tables, n, a[PRIVATE], i64(FAR))
            scales, m = u8_at(a[WEIGHTS] + p[1] + start), min(i32(op.BLOCK), i32(rows - start))
            z = f32_at(a[SHARED] + p[10] + (i64(t) * p[11] + start) * 4)
            for i in range(m):
                scale[i] = table[scales[i]]
            for i in range(m):
                z[i] = (z[i] if p[12] else f32(0)) + f32(sums[i]) * (scale[i] * s)


@kernel
def preview(a: Any, p: Any) -> None:
    """z_i += mean . x + bias_i; score_i = z_i plus its error's log variance."""
    rows, cols = i32(p[7]), i32(p[8])
    bias, spread, ranges = (
        u8_at(a[WEIGHTS] + p[2]),
        u8_at(a[WEIGHTS] + p[3]),
        f32_at(a[WEIGHTS] + p[4]),
    )
    bias_low, bias_step, spread_low, spread_step = ranges[0], ranges[1], ranges[2], ranges[3]
    first, last = share(a, rows, 1)
    for t in range(i32(a[TOKENS])):
        offset = dot(a, a[PRIVATE] + p[0] + i64(t) * cols * 4, a[WEIGHTS] + p[1], cols)
        z, score = (
            f32_at(a[SHARED] + p[5] + i64(t) * rows * 4),
            i16_at(a[SHARED] + p[6] + i64(t) * rows * 2),
        )
        for i in range(first, last):
            z[i] = z[i] + (offset + (bias_low + bias_step * f32(bias[i])))
            score[i] = steps(z[i] + (spread_low + spread_step * f32(spread[i])))


@kernel
def steps(x: Any) -> Any:
    """round(16 x) as int16, for x from -2047 to 2047."""
    x = min(max(x * f32(16), f32(-32752.0)), f32(32752.0))
    return i16(bits_from_float(x + f32(12582912.0)) - i32(0x4B400000))


@kernel
def choose(a: Any, p: Any) -> None:
    """lowest = the least score that no more rows reach than are to be read exactly."""
    rows, wanted = i32(p[2]), i32_at(a[WEIGHTS] + p[0])[0]
    for t in range(i32(a[TOKENS])):
        scores, below = i16_at(a[SHARED] + p[1] + i64(t) * rows * 2), i32(-(1 << 15))
        least = highest = scores[0]
        for i in range(rows):
            least, highest = min(least, scores[i]), max(highest, scores[i])
        for bit in range(15, -1, -1):  # bit by bit, the largest that too many reach
            bound = i32(below + (1 << bit))
            if bound <= highest and (bound <= least or count(scores, rows, i16(bound)) > wanted):
                below = bound
        i32_at(a[PRIVATE] + p[3])[t] = i32(below + 1) if wanted < rows else i32(least)


@kernel
def count(scores: Any, rows: Any, bound: Any) -> Any:
    """Return how many scores reach a bound; int16 counts, twice as many at once, are enough for a unit of rows."""
    total = i32(0)
    for start in range(0, rows, op.UNIT):
        some = i16(0)
        for i in range(start, min(start + i32(op.UNIT), rows)):
            some = i16(some + i16(scores[i] >= bound))
        total += i32(some)
    return total


@kernel
def exact(a: Any, p: Any) -> None:
    """z_i = w_i . x for the rows of a range whose score is high enough; no other row is read."""
    first, rows, listed = i32(p[5]), i32(p[6]), i32_at(a[PRIVATE] + 64)
    for t in range(i32(a[TOKENS])):
        scores, lowest, n = (
            i16_at(a[SHARED] + p[9] + i64(t) * p[8] * 2),
            i32_at(a[PRIVATE] + p[10])[t],
            i32(0),
        )
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
    """Compute z of listed rows; return 0."""
    cols, weight, scales = i32(p[2]), a[WEIGHTS] + p[0], f32_at(a[WEIGHTS] + p[1])
    x, s = a[PRIVATE] + p[3] + i64(t) * cols * 2, f32_at(a[PRIVATE] + p[4])[t]
    z = f32_at(a[SHARED] + p[7] + i64(t) * p[8] * 4)
    for i in range(n):
        if i + common.AHEAD < n:
            common.prefetch_row(weight + i64(listed[i + common.AHEAD]) * cols, cols)
        row = listed[i]
        simd.dots_i8(weight + i64(row) * cols, 0, x, 0, cols, a[PRIVATE], 0)
        z[row] = f32(i32_at(a[PRIVATE])[0]) * (scales[row] * s)
    a[TOUCHED] += i64(n) * (cols + 4)
    return i32(0)


@kernel
def gather(a: Any, p: Any) -> None:
    """logits[id] = z of its row, for this thread's part of the ids: to write apart would cost more than to read so."""
    rows, places = i32(p[2]), i32_at(a[WEIGHTS] + p[0])
    first, last = share(a, rows, 1)
    for t in range(i32(a[TOKENS])):
        z, out = f32_at(a[SHARED] + p[1] + i64(t) * rows * 4), f32_at(a[OUT] + i64(t) * rows * 4)
        for i in range(first, last):
            out[i] = z[places[i]]
