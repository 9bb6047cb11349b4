"""The head by a preview: a few bits of every row for a first guess, the exact row where the guess matters.

Exact rows are shared out in units of op.UNIT, spread by `common.mine`: likely rows, which come first, cost most.
"""

from __future__ import annotations

from typing import Any

from . import abi as op
from . import common, simd
from .abi import (
    CHOOSE_AT,
    EXACT_AT,
    GATHER_AT,
    LEVEL_AT,
    OUT,
    PREVIEW_AT,
    PRIVATE,
    ROWS,
    SHARED,
    TOKENS,
    TOUCHED,
    WEIGHTS,
)
from .codes import code_sums, fill_tables_2, fill_tables_4
from .common import FAR, dot, f32, i16, i32, i64, kernel, share
from .simd import bits_from_float, f32_at, i16_at, i32_at, u8_at

LISTED = ROWS * op.MAX_TOKENS - 16  # rows that have room where the results of dot products go


@kernel
def level(a: Any, p: Any) -> None:
    """z_i = s scale_i (c_i . u - (2^bits - 1) / 2 sum(u)) for the rows of one level; added to z_i after the first."""
    rows, n, rank, tables = (
        i32(p[LEVEL_AT.rows]),
        i32(p[LEVEL_AT.bytes]),
        i32(p[LEVEL_AT.rank]),
        a[PRIVATE] + p[LEVEL_AT.sums],
    )
    table, sums, scale = (
        f32_at(a[WEIGHTS] + p[LEVEL_AT.table]),
        i32_at(a[PRIVATE]),
        f32_at(a[PRIVATE] + 4 * op.BLOCK),
    )
    first, last = share(a, i64(rows + op.BLOCK - 1) >> 6, op.BLOCK)
    for t in range(i32(a[TOKENS])):
        x, s = (
            a[PRIVATE] + p[LEVEL_AT.src] + i64(t) * rank * 2,
            f32(128) * f32_at(a[PRIVATE] + p[LEVEL_AT.src_scale])[t],
        )
        if p[LEVEL_AT.bits] == 4:
            fill_tables_4(x, n, tables)
        else:
            fill_tables_2(x, n, tables)
        for start in range(first, last, op.BLOCK):
            # i64: of a plain number Numba makes another form of code_sums, half as fast.
            code_sums(
                a[WEIGHTS] + p[LEVEL_AT.codes] + i64(start) * n, tables, n, a[PRIVATE], i64(FAR)
            )
            scales, m = (
                u8_at(a[WEIGHTS] + p[LEVEL_AT.scales] + start),
                min(i32(op.BLOCK), i32(rows - start)),
            )
            z = f32_at(a[SHARED] + p[LEVEL_AT.dst] + (i64(t) * p[LEVEL_AT.dst_stride] + start) * 4)
            for i in range(m):
                scale[i] = table[scales[i]]
            for i in range(m):
                z[i] = (z[i] if p[LEVEL_AT.add] else f32(0)) + f32(sums[i]) * (scale[i] * s)


@kernel
def preview(a: Any, p: Any) -> None:
    """z_i += mean . x + bias_i; score_i = z_i plus its error's log variance."""
    rows, cols = i32(p[PREVIEW_AT.rows]), i32(p[PREVIEW_AT.cols])
    bias, spread, ranges = (
        u8_at(a[WEIGHTS] + p[PREVIEW_AT.bias]),
        u8_at(a[WEIGHTS] + p[PREVIEW_AT.spread]),
        f32_at(a[WEIGHTS] + p[PREVIEW_AT.ranges]),
    )
    bias_low, bias_step, spread_low, spread_step = ranges[0], ranges[1], ranges[2], ranges[3]
    first, last = share(a, rows, 1)
    for t in range(i32(a[TOKENS])):
        offset = dot(
            a,
            a[PRIVATE] + p[PREVIEW_AT.src] + i64(t) * cols * 4,
            a[WEIGHTS] + p[PREVIEW_AT.mean],
            cols,
        )
        z, score = (
            f32_at(a[SHARED] + p[PREVIEW_AT.dst] + i64(t) * rows * 4),
            i16_at(a[SHARED] + p[PREVIEW_AT.scores] + i64(t) * rows * 2),
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
    rows, wanted = i32(p[CHOOSE_AT.rows]), i32_at(a[WEIGHTS] + p[CHOOSE_AT.wanted])[0]
    for t in range(i32(a[TOKENS])):
        scores, below = i16_at(a[SHARED] + p[CHOOSE_AT.scores] + i64(t) * rows * 2), i32(-(1 << 15))
        least = highest = scores[0]
        for i in range(rows):
            least, highest = min(least, scores[i]), max(highest, scores[i])
        for bit in range(15, -1, -1):  # bit by bit, the largest that too many reach
            bound = i32(below + (1 << bit))
            if bound <= highest and (bound <= least or count(scores, rows, i16(bound)) > wanted):
                below = bound
        i32_at(a[PRIVATE] + p[CHOOSE_AT.dst])[t] = i32(below + 1) if wanted < rows else i32(least)


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
    first, rows, listed = i32(p[EXACT_AT.first]), i32(p[EXACT_AT.rows]), i32_at(a[PRIVATE] + 64)
    for t in range(i32(a[TOKENS])):
        scores, lowest, n = (
            i16_at(a[SHARED] + p[EXACT_AT.scores] + i64(t) * p[EXACT_AT.dst_stride] * 2),
            i32_at(a[PRIVATE] + p[EXACT_AT.lowest])[t],
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
    cols, weight, scales = (
        i32(p[EXACT_AT.cols]),
        a[WEIGHTS] + p[EXACT_AT.weight],
        f32_at(a[WEIGHTS] + p[EXACT_AT.scale]),
    )
    x, s = (
        a[PRIVATE] + p[EXACT_AT.src] + i64(t) * cols * 2,
        f32_at(a[PRIVATE] + p[EXACT_AT.src_scale])[t],
    )
    z = f32_at(a[SHARED] + p[EXACT_AT.dst] + i64(t) * p[EXACT_AT.dst_stride] * 4)
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
    rows, places = i32(p[GATHER_AT.rows]), i32_at(a[WEIGHTS] + p[GATHER_AT.places])
    first, last = share(a, rows, 1)
    for t in range(i32(a[TOKENS])):
        z, out = (
            f32_at(a[SHARED] + p[GATHER_AT.src] + i64(t) * rows * 4),
            f32_at(a[OUT] + i64(t) * rows * 4),
        )
        for i in range(first, last):
            out[i] = z[places[i]]
