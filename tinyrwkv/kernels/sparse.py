"""Products that read only the rows that some token needs: PREDICT and SPARSE.

PREDICT reads the keys of neurons that a cheap score chooses, SPARSE the values of neurons that are
not 0. Rows lie in pages of `per_page` rows each, or, where per_page is 0, one after the other.
"""

from __future__ import annotations

from typing import Any

from . import abi as op
from . import simd
from .byte_products import split_offset
from .codes import code_sums, fill_tables_1
from .common import GROUP, LINE, f32, i32, i64, kernel, mine, prefetch_row, share
from .int4 import one_of_four, row_bytes, scale_rows, span_of, weighted_rows_int4
from .matmul import finish
from .simd import f32_at, i16_at, i32_at, i64_at
from .types import Address, Arguments, Fields, Inputs, Int, Ints, Offset

# PREDICT uses three places in the private workspace, where other kernels have their dot products:
# the sums of codes for ROWS neurons, the dot products of the chosen ones, two lists of the chosen.
# Then come the addresses that `one_of_four` has.
SUMS = 0
CHOSEN_DOTS = SUMS + 4 * op.ROWS
LIST_A = CHOSEN_DOTS + 4 * op.ROWS
LIST_B = LIST_A + 4 * op.ROWS
FOUR_KEYS = LIST_B + 4 * op.ROWS


def _weighted_rows(lanes: int) -> Any:
    """Make the kernel of out += sum_i q_i w_i for `lanes` columns of int8 rows, in int32."""
    load, store, add_row = simd.integer_vectors(lanes)

    @kernel
    def columns(
        rows: Ints, factors: Ints, first: Int, last: Int, column: Int, out: Address
    ) -> None:
        """Add rows `first` to last - 1 of a list of addresses, times their factors q."""
        total = load(out)
        for i in range(first, last):
            total = add_row(total, rows[i] + column, factors[i])
        store(out, total)

    return columns


weighted_rows_64, weighted_rows_8 = _weighted_rows(64), _weighted_rows(8)


@kernel
def row_address(fields: Fields, f: Int) -> Offset:
    """Return where row f lies in the file; the fields of PREDICT or SPARSE, which begin alike."""
    page = i64(f) * fields[op.SPARSE_AT.reciprocal] >> 32  # f // per_page
    start = fields[op.SPARSE_AT.weight] + page * op.PAGE
    row = i64(f) - page * fields[op.SPARSE_AT.per_page]  # in its page
    return start + row * fields[op.SPARSE_AT.row_bytes]


@kernel
def list_high(args: Arguments, fields: Fields, t: Int, start: Int, lists: Address) -> Int:
    """List the neurons of a block whose score for token t is high; return their number.

    score_f = 256 s (signs_f . u) with u = round(q / 256), and a score is high above its threshold.
    Where the model has the scores of a small network too, either of the two will do.
    """
    cols = i32(fields[op.PREDICT_AT.cols])
    scale = f32(256) * f32_at(args[op.PRIVATE] + fields[op.PREDICT_AT.src_scale])[t]
    n = i32(0)
    threshold = f32_at(args[op.WEIGHTS] + fields[op.PREDICT_AT.threshold])
    network_threshold = f32_at(args[op.WEIGHTS] + fields[op.PREDICT_AT.network_threshold])
    listed, sums = i32_at(lists), i32_at(args[op.PRIVATE] + SUMS)
    network = args[op.SHARED] + fields[op.PREDICT_AT.network]
    scores = f32_at(network + i64(t) * fields[op.PREDICT_AT.dst_stride] * 4)
    if start < i32(fields[op.PREDICT_AT.units]):
        following = next_block(args, start, i32(fields[op.PREDICT_AT.units]))
        ahead = i64(following - start) * (cols >> 3)
        signs = args[op.WEIGHTS] + fields[op.PREDICT_AT.signs] + i64(start) * (cols >> 3)
        tables = args[op.PRIVATE] + fields[op.PREDICT_AT.sums]
        code_sums(signs, tables, i32(cols >> 3), args[op.PRIVATE] + SUMS, ahead)
    for f in range(start, min(i32(start + op.ROWS), i32(fields[op.PREDICT_AT.units]))):
        high = f32(sums[f - start]) * scale > threshold[f]
        if fields[op.PREDICT_AT.network] != op.NONE:
            high |= not scores[f] <= network_threshold[f]  # NaN is high
        listed[n] = f
        n = i32(n + high)
    return n


@kernel
def predict(args: Arguments, fields: Fields) -> None:
    """dst_f = relu(K_f . x)^2 for the neurons f with a high score, 0 for the rest.

    Keys K_f of the rest are not read. Blocks of ROWS neurons are shared out among the threads. As
    the keys of one block are used, those of the next one are prefetched. `run` calls
    this.
    """
    cols, neurons = i32(fields[op.PREDICT_AT.cols]), i32(fields[op.PREDICT_AT.units])
    dots, lists = args[op.PRIVATE] + CHOSEN_DOTS, args[op.PRIVATE] + LIST_A
    is_int4, groups = fields[op.PREDICT_AT.kind] == op.INT4, i32(cols >> 6)
    key_bytes = row_bytes(cols) if is_int4 else i64(cols)
    split = split_offset(cols, i32(args[op.TOKENS]))
    for t in range(i32(args[op.TOKENS])):
        x = args[op.PRIVATE] + fields[op.PREDICT_AT.src] + i64(t) * fields[op.PREDICT_AT.stride] * 2
        sums = args[op.PRIVATE] + fields[op.PREDICT_AT.src_sums] + i64(t) * groups * 4
        inputs = Inputs(x, 0, 1, cols, sums, split, 0)
        fill_tables_1(x, i32(cols >> 3), args[op.PRIVATE] + fields[op.PREDICT_AT.sums])
        # Of this block: its first neuron, and how many are listed. The first block is before all.
        start, n, listed = i32(-op.ROWS), i32(0), i32_at(lists)
        while start < neurons:
            following = next_block(args, start, neurons)
            lists = (LIST_A + LIST_B) + 2 * args[op.PRIVATE] - lists  # the other one of the two
            after, coming = list_high(args, fields, t, following, lists), i32_at(lists)
            for i in range(op.ROWS):
                i32_at(dots)[i] = i32(0)
            for i in range(max(n, after)):
                if i < after:
                    prefetch_row(args[op.WEIGHTS] + row_address(fields, coming[i]), key_bytes)
                if i < n:
                    key = args[op.WEIGHTS] + row_address(fields, listed[i])
                    y = dots + 4 * i64(listed[i] - start)
                    if is_int4:
                        one_of_four(args[op.PRIVATE] + FOUR_KEYS, i, n, key, y, inputs)
                    else:
                        simd.dots_i8(key, 0, x, 0, cols, y, 0)
            if start >= 0:
                rows = min(i32(op.ROWS), i32(neurons - start))
                finish(args, fields, start, rows, t, dots)
            args[op.TOUCHED] += i64(n) * key_bytes
            start, n, listed = following, after, coming


@kernel
def next_block(args: Arguments, start: Int, neurons: Int) -> Int:
    """Return the first neuron of this thread's next block, or some number past the last neuron."""
    # Blocks are spread over the threads, because the first neurons cost most.
    start = i32(start + op.ROWS)
    while start < neurons and not mine(args, start >> 6):
        start = i32(start + op.ROWS)
    return start


@kernel
def sparse(args: Arguments, fields: Fields) -> None:
    """x += gate * sum_f q_f W_f, reading only rows W_f with q_f != 0.

    The other rows would add nothing, bit for bit. W has a row of `units * unit` columns for each
    neuron f, and threads share out the columns. `run` calls this.
    """
    neurons = i32(fields[op.SPARSE_AT.cols])
    first, last = share(args, fields[op.SPARSE_AT.units], fields[op.SPARSE_AT.unit])
    rows = i64_at(args[op.PRIVATE] + fields[op.SPARSE_AT.list])
    factors = i32_at(args[op.PRIVATE] + fields[op.SPARSE_AT.list] + i64(neurons) * 8)
    sums = args[op.PRIVATE] + fields[op.SPARSE_AT.list] + i64(neurons) * (8 + 4)
    groups = i32(fields[op.SPARSE_AT.units] * fields[op.SPARSE_AT.unit] >> 6)
    is_int4 = fields[op.SPARSE_AT.kind] == op.INT4
    place = row_bytes(first) if is_int4 else i64(first)  # in each row, of this thread's columns
    value_bytes = row_bytes(last) - place if is_int4 else i64(last - first)
    for t in range(i32(args[op.TOKENS])):
        src = args[op.PRIVATE] + fields[op.SPARSE_AT.src]
        q = i16_at(src + i64(t) * fields[op.SPARSE_AT.stride] * 2)
        n = i32(0)
        for f in range(neurons):
            rows[n] = i64(f)
            n = i32(n + (q[f] != 0))
        for i in range(n):
            f = i32(rows[i])
            rows[i], factors[i] = args[op.WEIGHTS] + row_address(fields, f), i32(q[f])
        args[op.TOUCHED] += i64(n) * value_bytes
        for column in range(first, last):
            i32_at(sums)[column] = i32(0)
        for start in range(-GROUP, n, GROUP):
            begin, stop = max(i32(start), i32(0)), min(i32(start + GROUP), n)
            column = first
            while column < last:
                done = i64(column - first)
                if (done & (LINE - 1)) == 0 and done < value_bytes + LINE - 1:
                    # One line of each row of the next group is prefetched, at last that of its end.
                    at = place + min(done, value_bytes - 1)
                    for i in range(stop, min(i32(stop + GROUP), n)):
                        simd.prefetch(rows[i] + at)
                if is_int4:
                    piece = i32(column >> 6)
                    span = span_of(piece, groups)
                    if piece == span or column == first:
                        scale_rows(rows, factors, begin, stop, span, groups, args[op.PRIVATE])
                    at = row_bytes(i32(span << 6)) + i64(piece - span) * 32
                    out = sums + 4 * i64(column)
                    weighted_rows_int4(rows, args[op.PRIVATE], begin, stop, at, out)
                elif fields[op.SPARSE_AT.unit] == 64:
                    weighted_rows_64(rows, factors, begin, stop, column, sums + 4 * i64(column))
                else:
                    weighted_rows_8(rows, factors, begin, stop, column, sums + 4 * i64(column))
                column = i32(column + fields[op.SPARSE_AT.unit])
        finish(args, fields, first, i32(last - first), t, sums + 4 * i64(first))
