"""Products that read only the rows that some token needs."""

from __future__ import annotations

from typing import Any

from . import abi as op
from . import common, simd
from .abi import PREDICT_AT, PRIVATE, ROWS, SHARED, SPARSE_AT, TOKENS, TOUCHED, WEIGHTS
from .codes import code_sums, fill_tables_1
from .common import GROUP, f32, i32, i64, kernel, prefetch_row
from .matmul import finish
from .simd import f32_at, i16_at, i32_at, i64_at


def _weighted_rows(lanes: int) -> Any:
    """Make the kernel of out += sum_i q_i w_i for `lanes` columns of a list of int8 rows, in int32."""
    load, store, add_row = simd.integer_vectors(lanes)

    @kernel
    def columns(rows: Any, factors: Any, first: Any, last: Any, column: Any, out: Any) -> None:
        total = load(out)
        for i in range(first, last):
            total = add_row(total, rows[i] + column, factors[i])
        store(out, total)

    return columns


weighted_rows_64, weighted_rows_8 = _weighted_rows(64), _weighted_rows(8)


@kernel
def row_address(p: Any, f: Any) -> Any:
    """Offset of row f in a region of pages that hold per_page rows each; one page of any length where that is 0."""
    page = i64(f) * p[SPARSE_AT.reciprocal] >> 32
    return (
        p[SPARSE_AT.weight]
        + page * 4096
        + (i64(f) - page * p[SPARSE_AT.per_page]) * p[SPARSE_AT.row_bytes]
    )


@kernel
def list_high(a: Any, p: Any, t: Any, start: Any, lists: Any) -> Any:
    """List the neurons of a block whose score for token t is high, and return their number.

    Scores are those of 1-bit weights, and where the model has one of a small network too: either will do.
    """
    cols, scale, n = (
        i32(p[PREDICT_AT.cols]),
        f32(256) * f32_at(a[PRIVATE] + p[PREDICT_AT.src_scale])[t],
        i32(0),
    )
    threshold, network_threshold = (
        f32_at(a[WEIGHTS] + p[PREDICT_AT.threshold]),
        f32_at(a[WEIGHTS] + p[PREDICT_AT.network_threshold]),
    )
    listed, sums, scores = (
        i32_at(lists),
        i32_at(a[PRIVATE]),
        f32_at(a[SHARED] + p[PREDICT_AT.network] + i64(t) * p[PREDICT_AT.dst_stride] * 4),
    )
    if start < i32(p[PREDICT_AT.units]):
        ahead = i64(next_block(a, start, i32(p[PREDICT_AT.units])) - start) * (cols >> 3)
        code_sums(
            a[WEIGHTS] + p[PREDICT_AT.signs] + i64(start) * (cols >> 3),
            a[PRIVATE] + p[PREDICT_AT.sums],
            i32(cols >> 3),
            a[PRIVATE],
            ahead,
        )
    for f in range(start, min(i32(start + ROWS), i32(p[PREDICT_AT.units]))):
        high = f32(sums[f - start]) * scale > threshold[f]
        if p[PREDICT_AT.network] != op.NONE:
            high |= not scores[f] <= network_threshold[f]  # NaN is high
        listed[n] = f
        n = i32(n + high)
    return n


@kernel
def predict(a: Any, p: Any) -> None:
    """y_f = relu(K_f . x)^2 for the neurons f with a high score, 0 for the rest, which are not read."""
    cols, neurons = i32(p[PREDICT_AT.cols]), i32(p[PREDICT_AT.units])
    out, lists = a[PRIVATE] + 4 * ROWS, a[PRIVATE] + 8 * ROWS
    for t in range(i32(a[TOKENS])):
        x = a[PRIVATE] + p[PREDICT_AT.src] + i64(t) * p[PREDICT_AT.stride] * 2
        fill_tables_1(x, i32(cols >> 3), a[PRIVATE] + p[PREDICT_AT.sums])
        start, n, listed = i32(-ROWS), i32(0), i32_at(lists)
        while start < neurons:
            following = next_block(a, start, neurons)
            lists = 20 * ROWS + 2 * a[PRIVATE] - lists  # two in turn
            after, coming = list_high(a, p, t, following, lists), i32_at(lists)
            for i in range(ROWS):
                i32_at(out)[i] = i32(0)
            for i in range(
                max(n, after)
            ):  # a key for the next block is sent for as one of this block is used
                if i < after:
                    prefetch_row(a[WEIGHTS] + row_address(p, coming[i]), cols)
                if i < n:
                    key = a[WEIGHTS] + row_address(p, listed[i])
                    simd.dots_i8(key, 0, x, 0, cols, out + 4 * i64(listed[i] - start), 0)
            if start >= 0:
                finish(a, p, start, min(i32(ROWS), i32(neurons - start)), t, out)
            a[TOUCHED] += i64(n) * cols
            start, n, listed = following, after, coming


@kernel
def next_block(a: Any, start: Any, neurons: Any) -> Any:
    """Return the first neuron of this thread's next block; blocks are spread, because the first neurons cost most."""
    start = i32(start + ROWS)
    while start < neurons and not common.mine(a, start >> 6):
        start = i32(start + ROWS)
    return start


@kernel
def sparse(a: Any, p: Any) -> None:
    """x += gate * sum_f x_f W_f, reading only rows W_f with x_f != 0: the others add nothing, bit for bit."""
    neurons = i32(p[SPARSE_AT.cols])
    first, last = common.share(a, p[SPARSE_AT.units], p[SPARSE_AT.unit])
    rows, factors = (
        i64_at(a[PRIVATE] + p[SPARSE_AT.list]),
        i32_at(a[PRIVATE] + p[SPARSE_AT.list] + i64(neurons) * 8),
    )
    sums = a[PRIVATE] + p[SPARSE_AT.list] + i64(neurons) * 12
    for t in range(i32(a[TOKENS])):
        q, n = i16_at(a[PRIVATE] + p[SPARSE_AT.src] + i64(t) * p[SPARSE_AT.stride] * 2), i32(0)
        for f in range(neurons):
            rows[n] = i64(f)
            n = i32(n + (q[f] != 0))
        for i in range(n):
            f = i32(rows[i])
            rows[i], factors[i] = a[WEIGHTS] + row_address(p, f), i32(q[f])
        a[TOUCHED] += i64(n) * (last - first)
        for column in range(first, last):
            i32_at(sums)[column] = i32(0)
        for start in range(-GROUP, n, GROUP):
            begin, stop, column = max(i32(start), i32(0)), min(i32(start + GROUP), n), first
            while column < last:
                if (column & 63) == 0:  # a line of each row of the next group is sent for
                    for i in range(stop, min(i32(stop + GROUP), n)):
                        simd.prefetch(rows[i] + column)
                if p[SPARSE_AT.unit] == 64:
                    weighted_rows_64(rows, factors, begin, stop, column, sums + 4 * i64(column))
                else:
                    weighted_rows_8(rows, factors, begin, stop, column, sums + 4 * i64(column))
                column = i32(column + p[SPARSE_AT.unit])
        finish(a, p, first, i32(last - first), t, sums + 4 * i64(first))
