"""The head by a preview: a few bits of every row for a first guess, the exact row where the guess matters.

Threads take rows in units of op.UNIT, spread by `mine`: likely rows, which come first, cost more than others.
"""

from __future__ import annotations

from typing import Any

from .. import opcodes as op
from . import simd
from .common import BEGIN, END, OUT, PRIVATE, SHARED, TOKENS, TOUCHED, WEIGHTS, dot, f32, i32, i64, kernel
from .simd import bits_from_float, f32_at, i16_at, i32_at, u8_at


def _code_sums(bits: int) -> Any:
    """Make the kernel of out_i = start + sum_j c_ij q_j, in int16, for a block of rows with codes of so many bits."""
    splat, add_codes, store = simd.code_vectors(bits, op.BLOCK)

    @kernel
    def code_sums(codes: Any, words: Any, q: Any, start: Any, out: Any) -> None:
        total = splat(start)
        for w in range(words):
            total = add_codes(total, codes + i64(w) * (2 * op.BLOCK), q + i64(w) * (2 * 16 // bits))
        store(out, total)

    return code_sums


code_sums_2, code_sums_4 = _code_sums(2), _code_sums(4)


@kernel
def mine(a: Any, row: Any) -> Any:
    """Tell whether the unit that begins with this row is this thread's; multiples of the golden ratio spread them."""
    place = (row >> 8) * 40503 & 65535
    return a[BEGIN] <= place < a[END]


@kernel
def level(a: Any, p: Any) -> None:
    """z_i = s scale_i (c_i . q - (2^bits - 1) / 2 sum(q)) for the rows of one level; added to z_i after the first."""
    rows, words, rank, bits = i32(p[3]), i32(p[4]), i32(p[5]), p[6]
    table, sums = f32_at(a[WEIGHTS] + p[2]), i16_at(a[PRIVATE])
    for start in range(0, rows, op.UNIT):
        if not mine(a, start):
            continue
        n, scales = min(i32(op.UNIT), i32(rows - start)), u8_at(a[WEIGHTS] + p[1] + start)
        for t in range(i32(a[TOKENS])):
            q, twice = a[PRIVATE] + p[7] + i64(t) * rank * 2, i32(0)
            for j in range(rank):
                twice += i16_at(q)[j]
            twice = i32(twice * ((i32(1) << i32(bits)) - 1))
            for block in range(0, n, op.BLOCK):
                codes, out = a[WEIGHTS] + p[0] + i64(start + block) * words * 2, a[PRIVATE] + block * 2
                if bits == 4:
                    code_sums_4(codes, words, q, i32(-(twice >> 1)), out)
                else:
                    code_sums_2(codes, words, q, i32(-(twice >> 1)), out)
            half, s = f32(i32(twice & 1)) * f32(0.5), f32_at(a[PRIVATE] + p[8])[t]
            z = f32_at(a[SHARED] + p[9] + (i64(t) * p[10] + start) * 4)
            if p[11]:
                for i in range(n):
                    z[i] += (f32(sums[i]) - half) * (table[scales[i]] * s)
            else:
                for i in range(n):
                    z[i] = (f32(sums[i]) - half) * (table[scales[i]] * s)


@kernel
def preview(a: Any, p: Any) -> None:
    """logits[id_i] = z_i + mean . x + bias_i; z_i makes room for its score: this plus its error's log variance."""
    rows, cols = i32(p[7]), i32(p[8])
    ids, bias, spread = i32_at(a[WEIGHTS] + p[2]), u8_at(a[WEIGHTS] + p[3]), u8_at(a[WEIGHTS] + p[4])
    biases, spreads = f32_at(a[WEIGHTS] + p[5]), f32_at(a[WEIGHTS] + p[5] + 1024)
    for t in range(i32(a[TOKENS])):
        offset = dot(a, a[PRIVATE] + p[0] + i64(t) * cols * 4, a[WEIGHTS] + p[1], cols)
        out, at = f32_at(a[OUT] + i64(t) * rows * 4), a[SHARED] + p[6] + i64(t) * rows * 4
        for start in range(0, rows, op.UNIT):
            if mine(a, start):
                for i in range(start, min(i32(start + op.UNIT), rows)):
                    z = f32_at(at)[i] + (offset + biases[bias[i]])
                    out[ids[i]] = z
                    i32_at(at)[i] = steps(z + spreads[spread[i]])


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
        scores, highest, step = i32_at(a[SHARED] + p[1] + i64(t) * rows * 4), i32(-(1 << 21)), i32(1 << 11)
        for i in range(rows):
            highest = max(highest, scores[i])
        below = i32(highest - (1 << 12) + 1) if wanted < rows else i32(-(1 << 21))
        while step > 0:  # bit by bit, the largest that too many reach
            reach = i32(0)
            for i in range(rows):
                reach += i32(scores[i] >= below + step)
            below = i32(below + step) if reach > wanted else below
            step = i32(step >> 1)
        i32_at(a[PRIVATE] + p[3])[t] = i32(below + 1)


@kernel
def exact(a: Any, p: Any) -> None:
    """logits[id_i] = w_i . x for the rows of a range whose score is high enough; no other row is read."""
    first, rows, cols, vocab = i32(p[6]), i32(p[7]), i32(p[3]), p[8]
    ids, scales = i32_at(a[WEIGHTS] + p[2]), f32_at(a[WEIGHTS] + p[1])
    for start in range(first, first + rows, op.UNIT):
        if not mine(a, start):
            continue
        for t in range(i32(a[TOKENS])):
            x, s = a[PRIVATE] + p[4] + i64(t) * cols * 2, f32_at(a[PRIVATE] + p[5])[t]
            out, score = f32_at(a[OUT] + i64(t) * vocab * 4), i32_at(a[SHARED] + p[9] + i64(t) * vocab * 4)
            lowest = i32_at(a[PRIVATE] + p[10])[t]
            for i in range(start, min(start + i32(op.UNIT), first + rows)):
                if score[i] >= lowest:
                    simd.dots_i8(a[WEIGHTS] + p[0] + i64(i) * cols, 0, x, 0, cols, a[PRIVATE], 0)
                    out[ids[i]] = f32(i32_at(a[PRIVATE])[0]) * (scales[i] * s)
                    a[TOUCHED] += i64(cols) + 4
