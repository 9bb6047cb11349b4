"""What every kernel uses: each thread's share of the rows, and dot products.

Every kernel takes `args`, the arguments of the call, and most take `fields`, those of their
operation; `abi` names the places in both. Numbers of rows, columns and tokens are int32, because
32-bit processors are slow with more. Addresses and offsets are int64.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .abi import BEGIN, END, F16, F32, ONES, PRIVATE, SHARED, WORK, WORK_BITS
from .simd import dots_f32, f32_at, prefetch, square_root
from .types import Address, Arguments, Bool, Float, Int

LINE = 64
"""Bytes that a processor reads from memory at once."""

AHEAD, GROUP = 8, 16
"""Rows that are on their way while others are multiplied; no prefetcher knows rows that lie apart.

AHEAD is for rows that are read one by one, GROUP for rows that are read side by side.
"""

FAR = 4096
"""Bytes to read ahead in a stream that the processor follows too closely."""

kernel = njit(error_model="numpy", nogil=True, boundscheck=False)
# For a part of one kernel that has a name for the reader: Numba puts its lines where it is called,
# so that LLVM sees one function. A kernel in its place can give other machine code.
part = njit(error_model="numpy", nogil=True, boundscheck=False, inline="always")
f32, i8, i16, i32, i64 = np.float32, np.int8, np.int16, np.int32, np.int64


@part
def item_bytes(kind: Int) -> Int:
    """Return the bytes of one weight of a kind."""
    if kind == F32:
        return 4
    if kind == F16:
        return 2
    return 1


@kernel
def dot(args: Arguments, x: Address, y: Address, n: Int) -> Float:
    """Return the sum of x_j y_j over n float32, in the fixed order of ``simd``."""
    dots_f32(x, 0, y, 0, n, args[PRIVATE], 0)
    return f32_at(args[PRIVATE])[0]


@kernel
def mine(args: Arguments, i: Int) -> Bool:
    """Tell whether unit i is this thread's.

    Multiples of the golden ratio spread the units of each thread over all of them.
    """
    place = i * 40503 & (WORK - 1)
    return args[BEGIN] <= place < args[END]


@kernel
def share(args: Arguments, units: Int, unit: Int) -> tuple[Int, Int]:
    """Return this thread's part of rows that come in units: its first row, and the end.

    BEGIN and END are arguments because 32-bit ARM has no division to compute them with.
    """
    first = i32((units * args[BEGIN] >> WORK_BITS) * unit)
    last = i32((units * args[END] >> WORK_BITS) * unit)
    return first, last


@kernel
def prefetch_row(row: Address, n: Int) -> None:
    """Begin to read all lines of n bytes."""
    for line in range(row & -LINE, row + n, LINE):
        prefetch(line)


@kernel
def normalise(args: Arguments, x: Address, out: Address, n: Int, eps: Float) -> None:
    """out = (x - mean(x)) / sqrt(var(x) + eps), for n float32 and their biased variance."""
    mean = dot(args, x, args[SHARED] + ONES, n) / f32(n)
    source, target = f32_at(x), f32_at(out)
    for j in range(n):
        target[j] = source[j] - mean
    variance = dot(args, out, out, n) / f32(n)
    scale = f32(1) / square_root(variance + eps)
    for j in range(n):
        target[j] = target[j] * scale
