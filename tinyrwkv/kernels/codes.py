"""Sums over codes of a few bits: of every half byte of codes a table of 16 sums, looked up for 64 rows at a time."""

from __future__ import annotations

from typing import Any

from . import abi as op
from . import simd
from .common import i32, i64, kernel, prefetch_row
from .simd import i32_at


def _fill_tables(bits: int) -> Any:
    """Make the kernel of the tables for n bytes of codes of so many bits: 64 bytes for each."""
    table = simd.code_table(bits)

    @kernel
    def fill(x: Any, n: Any, tables: Any) -> None:
        for i in range(2 * n):
            table(x + i64(i) * (8 // bits), tables + i64(i) * 32)

    return fill


fill_tables_1, fill_tables_2, fill_tables_4 = _fill_tables(1), _fill_tables(2), _fill_tables(4)


@kernel
def code_sums(codes: Any, tables: Any, n: Any, out: Any, ahead: Any) -> None:
    """sums_i = sum_j (2 c_ij - (2^bits - 1)) u_j for a block of rows of n bytes of codes, n a multiple of 4.

    What lies so many bytes `ahead` is sent for.
    """
    for i in range(op.BLOCK):
        i32_at(out)[i] = i32(-1024 * n)  # what tables have more than the sums, twice for each byte
    for start in range(0, n, 32):
        counts = simd.no_counts(0)
        for j in range(start, min(i32(start + 32), n), 4):
            prefetch_row(codes + i64(j) * op.BLOCK + ahead, 4 * op.BLOCK)
            counts = simd.add_codes(counts, codes + i64(j) * op.BLOCK, tables + i64(j) * 64)
        simd.add_counts(out, counts)
