"""What every kernel uses: the arguments of a call, a thread's share of the rows, dot products of float32.

Every kernel takes `a`, the arguments of the call, and most take `p`, the fields of their operation in the order of
``abi.FIELDS``. Sizes are int32, because 32-bit processors are slow with more; offsets are int64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from .abi import BEGIN, END, ONES, PRIVATE, SHARED
from .simd import dots_f32, f32_at, prefetch, square_root

# Rows that are on their way while others are multiplied: they lie apart, and no prefetcher knows the next.
AHEAD, GROUP = 8, 16
FAR = 4096  # bytes ahead in a stream that the processor follows too closely

kernel = njit(error_model="numpy", nogil=True, boundscheck=False)
f32, i16, i32, i64 = np.float32, np.int16, np.int32, np.int64


@kernel
def dot(a: Any, x: Any, y: Any, n: Any) -> Any:
    """Sum of x_j y_j over float32 at two addresses, in the fixed order of ``simd``."""
    dots_f32(x, 0, y, 0, n, a[PRIVATE], 0)
    return f32_at(a[PRIVATE])[0]


@kernel
def mine(a: Any, i: Any) -> Any:
    """Tell whether unit i is this thread's; multiples of the golden ratio spread them."""
    place = i * 40503 & 65535
    return a[BEGIN] <= place < a[END]


@kernel
def prefetch_row(row: Any, n: Any) -> None:
    """Begin to read n bytes."""
    for j in range(0, n, 64):
        prefetch(row + j)


@kernel
def share(a: Any, units: Any, unit: Any) -> tuple[Any, Any]:
    """Return this thread's part of rows that come in units, from the 65536ths of the work that are its own.

    A division would do without these two arguments, but 32-bit ARM has none.
    """
    return i32((units * a[BEGIN] >> 16) * unit), i32((units * a[END] >> 16) * unit)


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
