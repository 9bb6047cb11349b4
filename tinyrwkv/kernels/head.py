"""The head by a preview: codes of a few bits give a guess of every logit, exact rows follow.

Rows are in the order of how likely their tokens are; GATHER brings their logits z into the order of
ids. z and scores are shared, with a row for each token. Exact rows are shared out in units of UNIT,
spread by `common.mine`: the likely rows, which come first, cost most. `run` calls these kernels in
the order in which they stand here.
"""

from __future__ import annotations

from . import simd
from .abi import (
    BLOCK,
    CHOOSE_AT,
    EXACT_AT,
    GATHER_AT,
    INT4,
    LEVEL_AT,
    OUT,
    PREVIEW_AT,
    PRIVATE,
    SCRATCH,
    SHARED,
    TOKENS,
    TOUCHED,
    UNIT,
    WEIGHTS,
)
from .byte_products import split_offset
from .codes import code_sums, fill_tables_2, fill_tables_4
from .common import AHEAD, FAR, GROUP, dot, f32, i16, i32, i64, kernel, mine, prefetch_row, share
from .int4 import one_of_four, row_bytes
from .scalars import TO_NEAREST
from .simd import bits_from_float, f32_at, i16_at, i32_at, u8_at, u16_at
from .types import Arguments, Fields, Float, Inputs, Int, Ints

FOUR_ROWS, LIST = 64, 128
"""Where `one_of_four` has its addresses in the private workspace, and the list of exact rows."""

LISTED = (SCRATCH - LIST) // 4
"""Rows that have room in the list, which lies where the results of dot products go."""


@kernel
def level(args: Arguments, fields: Fields) -> None:
    """z_i (+)= s scale_i (c_i . u - (2^bits - 1) / 2 sum(u)) for the rows of one level.

    c_i are the `rank` codes of row i and scale_i = table[scales_i]. u = round(q / 256) for the
    quantised q at src, whose scale at src_scale gives s. z is dst: `add` says whether it is added
    to or, in the first level, set.
    """
    rows, n = i32(fields[LEVEL_AT.rows]), i32(fields[LEVEL_AT.bytes])
    rank, tables = i32(fields[LEVEL_AT.rank]), args[PRIVATE] + fields[LEVEL_AT.sums]
    table = f32_at(args[WEIGHTS] + fields[LEVEL_AT.table])
    sums = i32_at(args[PRIVATE])  # 2 (c_i . u) - (2^bits - 1) sum(u) for a block of rows
    scale = f32_at(args[PRIVATE] + 4 * BLOCK)
    first, last = share(args, i64(rows + BLOCK - 1) >> 6, BLOCK)
    for t in range(i32(args[TOKENS])):
        x = args[PRIVATE] + fields[LEVEL_AT.src] + i64(t) * rank * 2
        # 256, as u is 256 times too small, and half, as the sums are twice too large.
        s = f32(128) * f32_at(args[PRIVATE] + fields[LEVEL_AT.src_scale])[t]
        if fields[LEVEL_AT.bits] == 4:
            fill_tables_4(x, n, tables)
        else:
            fill_tables_2(x, n, tables)
        for start in range(first, last, BLOCK):
            codes = args[WEIGHTS] + fields[LEVEL_AT.codes] + i64(start) * n
            # i64: of a plain number Numba makes another form of code_sums, half as fast.
            code_sums(codes, tables, n, args[PRIVATE], i64(FAR))
            scales = u8_at(args[WEIGHTS] + fields[LEVEL_AT.scales] + start)
            m = min(i32(BLOCK), i32(rows - start))
            dst = args[SHARED] + fields[LEVEL_AT.dst]
            z = f32_at(dst + (i64(t) * fields[LEVEL_AT.dst_stride] + start) * 4)
            for i in range(m):
                scale[i] = table[scales[i]]
            for i in range(m):
                before = z[i] if fields[LEVEL_AT.add] else f32(0)
                z[i] = before + f32(sums[i]) * (scale[i] * s)


@kernel
def preview(args: Arguments, fields: Fields) -> None:
    """z_i += mean . x + bias_i; score_i = z_i + spread_i.

    x is src, private float32; z is dst. spread_i is the logarithm of the variance of the error of
    z_i. bias and spread are bytes: `ranges` has the least value and the step of each.
    """
    rows, cols = i32(fields[PREVIEW_AT.rows]), i32(fields[PREVIEW_AT.cols])
    bias = u8_at(args[WEIGHTS] + fields[PREVIEW_AT.bias])
    spread = u8_at(args[WEIGHTS] + fields[PREVIEW_AT.spread])
    ranges = f32_at(args[WEIGHTS] + fields[PREVIEW_AT.ranges])
    bias_low, bias_step = ranges[0], ranges[1]
    spread_low, spread_step = ranges[2], ranges[3]
    first, last = share(args, rows, 1)
    for t in range(i32(args[TOKENS])):
        x = args[PRIVATE] + fields[PREVIEW_AT.src] + i64(t) * cols * 4
        offset = dot(args, x, args[WEIGHTS] + fields[PREVIEW_AT.mean], cols)
        z = f32_at(args[SHARED] + fields[PREVIEW_AT.dst] + i64(t) * rows * 4)
        score = i16_at(args[SHARED] + fields[PREVIEW_AT.scores] + i64(t) * rows * 2)
        for i in range(first, last):
            z[i] = z[i] + (offset + (bias_low + bias_step * f32(bias[i])))
            score[i] = steps(z[i] + (spread_low + spread_step * f32(spread[i])))


@kernel
def steps(x: Float) -> Int:
    """Return round(16 x) as int16; beyond -2047 and 2047 it stays the same."""
    x = min(max(x * f32(16), f32(-32752.0)), f32(32752.0))
    return i16(bits_from_float(x + f32(TO_NEAREST)) - i32(0x4B400000))


@kernel
def choose(args: Arguments, fields: Fields) -> None:
    """lowest = the least score that at most `wanted` rows reach; dst, private int32.

    Where even the highest score has more rows than that, it is one above the highest. Where all
    rows are wanted, it is the least score.
    """
    rows = i32(fields[CHOOSE_AT.rows])
    wanted = i32_at(args[WEIGHTS] + fields[CHOOSE_AT.wanted])[0]
    for t in range(i32(args[TOKENS])):
        scores = i16_at(args[SHARED] + fields[CHOOSE_AT.scores] + i64(t) * rows * 2)
        below = i32(-(1 << 15))
        least = highest = scores[0]
        for i in range(rows):
            least, highest = min(least, scores[i]), max(highest, scores[i])
        # Find bit by bit the largest bound that too many rows reach.
        for bit in range(15, -1, -1):
            bound = i32(below + (1 << bit))
            if bound <= highest and (bound <= least or count(scores, rows, i16(bound)) > wanted):
                below = bound
        lowest = i32(below + 1) if wanted < rows else i32(least)
        i32_at(args[PRIVATE] + fields[CHOOSE_AT.dst])[t] = lowest


@kernel
def count(scores: Ints, rows: Int, bound: Int) -> Int:
    """Return how many scores reach a bound."""
    # Counts in int16, of which a processor adds twice as many at once; they have room for a unit.
    total = i32(0)
    for start in range(0, rows, UNIT):
        some = i16(0)
        for i in range(start, min(start + i32(UNIT), rows)):
            some = i16(some + i16(scores[i] >= bound))
        total += i32(some)
    return total


@kernel
def exact(args: Arguments, fields: Fields) -> None:
    """z_i = scale_i s (w_i . q) for the rows i of a range with score_i >= lowest.

    q, at src, are quantised activations and s their scale. No other row is read. z is dst. Rows of
    int4 have their scales inside.
    """
    first, rows = i32(fields[EXACT_AT.first]), i32(fields[EXACT_AT.rows])
    listed = i32_at(args[PRIVATE] + LIST)
    for t in range(i32(args[TOKENS])):
        place = args[SHARED] + fields[EXACT_AT.scores]
        scores = i16_at(place + i64(t) * fields[EXACT_AT.dst_stride] * 2)
        lowest = i32_at(args[PRIVATE] + fields[EXACT_AT.lowest])[t]
        n = i32(0)
        for start in range(first, first + rows, UNIT):
            if mine(args, start >> 8):
                for i in range(start, min(start + i32(UNIT), first + rows)):
                    listed[n] = i32(i)
                    n = i32(n + (scores[i] >= lowest))
            if n > i32(LISTED - UNIT):
                n = read_listed(args, fields, t, listed, n)
        read_listed(args, fields, t, listed, n)


@kernel
def read_listed(args: Arguments, fields: Fields, t: Int, listed: Ints, n: Int) -> Int:
    """Compute z of n listed rows for token t; return 0, the rows that the list has after that."""
    cols, weight = i32(fields[EXACT_AT.cols]), args[WEIGHTS] + fields[EXACT_AT.weight]
    scales = f32_at(args[WEIGHTS] + fields[EXACT_AT.scale])
    x = args[PRIVATE] + fields[EXACT_AT.src] + i64(t) * cols * 2
    s = f32_at(args[PRIVATE] + fields[EXACT_AT.src_scale])[t]
    z_at = args[SHARED] + fields[EXACT_AT.dst] + i64(t) * fields[EXACT_AT.dst_stride] * 4
    z, is_int4 = f32_at(z_at), fields[EXACT_AT.kind] == INT4
    sums = args[PRIVATE] + fields[EXACT_AT.src_sums] + i64(t) * (cols >> 6) * 4
    w_bytes = row_bytes(cols) if is_int4 else i64(cols)
    ahead = i32(GROUP if is_int4 else AHEAD)
    split = split_offset(cols, i32(args[TOKENS]))
    inputs = Inputs(x, 0, 1, cols, sums, split, 0)
    for i in range(n):
        if i + ahead < n:
            prefetch_row(weight + i64(listed[i + ahead]) * w_bytes, w_bytes)
        row = listed[i]
        w = weight + i64(row) * w_bytes
        if is_int4:
            one_of_four(args[PRIVATE] + FOUR_ROWS, i, n, w, z_at + 4 * i64(row), inputs)
        else:
            simd.dots_i8(w, 0, x, 0, cols, args[PRIVATE], 0)
            z[row] = f32(i32_at(args[PRIVATE])[0]) * (scales[row] * s)
    if is_int4:
        for i in range(n):
            z[listed[i]] = z[listed[i]] * s
    args[TOUCHED] += i64(n) * (w_bytes if is_int4 else w_bytes + 4)
    return i32(0)


@kernel
def gather(args: Arguments, fields: Fields) -> None:
    """logits[id] = z[places[id]], for this thread's part of the ids; z is src.

    A place has `place_bytes` bytes: 2, or 4 if there are more rows than 2 can tell.
    """
    # Threads share out the ids and not the rows: to write apart would cost more than to read so.
    rows, places = i32(fields[GATHER_AT.rows]), args[WEIGHTS] + fields[GATHER_AT.places]
    short, long = u16_at(places), i32_at(places)
    first, last = share(args, rows, 1)
    for t in range(i32(args[TOKENS])):
        z = f32_at(args[SHARED] + fields[GATHER_AT.src] + i64(t) * rows * 4)
        out = f32_at(args[OUT] + i64(t) * rows * 4)
        if fields[GATHER_AT.place_bytes] == 2:
            for i in range(first, last):
                out[i] = z[short[i]]
        else:
            for i in range(first, last):
                out[i] = z[long[i]]
