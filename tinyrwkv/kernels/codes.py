"""Sums over codes of a few bits: sum_j (2 c_ij - (2^bits - 1)) u_j for 64 rows i at a time.

Half a byte of codes has 16 values. For each half byte of a row there is a table of the 16 sums that
its codes can give; the tables are made once for each vector u and serve all rows.
"""

from __future__ import annotations

from typing import Any

from . import simd
from .abi import BLOCK, TABLE_BYTES
from .common import i32, i64, kernel, prefetch_row
from .simd import i32_at
from .types import Address, Int, Offset

HALF_TABLE_BYTES = TABLE_BYTES // 2

SUMMED = 32
"""Bytes of codes whose sums fit in int16 counts."""


def _fill_tables(bits: int) -> Any:
    """Make the kernel of the tables for codes of this many bits."""
    code_table = simd.code_table(bits)
    activation_bytes = 8 // bits  # int16 of the activations of half a byte of codes

    @kernel
    def fill(x: Address, n: Int, tables: Address) -> None:
        """Make the tables for n bytes of codes from the int16 activations x."""
        for half in range(2 * n):
            activations = x + i64(half) * activation_bytes
            code_table(activations, tables + i64(half) * HALF_TABLE_BYTES)

    return fill


fill_tables_1 = _fill_tables(1)
fill_tables_2 = _fill_tables(2)
fill_tables_4 = _fill_tables(4)


@kernel
def code_sums(codes: Address, tables: Address, n: Int, out: Address, ahead: Offset) -> None:
    """out_i = sum_j (2 c_ij - (2^bits - 1)) u_j for a block of rows.

    A row has n bytes of codes, a multiple of 4; byte j of all rows lies side by side. The codes
    that are `ahead` bytes further are prefetched.
    """
    for i in range(BLOCK):
        i32_at(out)[i] = i32(-1024 * n)  # tables hold sums plus 512, and a byte has two of them
    for start in range(0, n, SUMMED):
        counts = simd.no_counts(0)
        for j in range(start, min(i32(start + SUMMED), n), 4):
            at = codes + i64(j) * BLOCK
            prefetch_row(at + ahead, 4 * BLOCK)
            counts = simd.add_codes(counts, at, tables + i64(j) * TABLE_BYTES)
        simd.add_counts(out, counts)
