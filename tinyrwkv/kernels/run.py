"""Walk a range of a program's operations: the one function that a token calls."""

from __future__ import annotations

from typing import Any

from . import abi as op
from .abi import BARRIER, FIRST, HEAD, HEAD_OF_LAST, LAST, PROGRAM, THREADS, TOKENS
from .common import i32, kernel
from .head import choose, exact, gather, level, preview
from .matmul import matmul
from .pointwise import embed, norm, quantize, select, shift
from .simd import atomic_add, atomic_load, atomic_store, i32_at, i64_at, yield_processor
from .sparse import predict, sparse
from .wkv import wkv4, wkv5, wkv7


@kernel
def wait(a: Any) -> None:
    """Meet the other threads: the last to arrive starts the next generation, the others spin, then yield."""
    arrived, generation = i32_at(a[BARRIER]), i32_at(a[BARRIER] + 64)
    mine = atomic_load(generation)
    if atomic_add(arrived, i32(1)) == i32(a[THREADS]) - i32(1):
        atomic_store(arrived, i32(0))
        atomic_store(generation, i32(mine + i32(1)))
        return
    spins = i32(0)
    while atomic_load(generation) == mine:
        spins += i32(1)
        if spins > i32(2000):
            yield_processor()


@kernel
def run(a: Any) -> None:
    """Run operations FIRST .. LAST - 1 of PROGRAM for TOKENS tokens, as one of THREADS threads.

    The arguments are 17 int64: WEIGHTS, the address of the mapped file; PROGRAM, of the table; FIRST, LAST; TOKENS,
    1 to 16; IDS, of the token ids (int32); OLD and NEW, of the states; SHARED and PRIVATE, of the workspaces; OUT, of
    the logits; HEAD, whether SELECT keeps the last token or all; BEGIN and END, the part of the rows that is this
    thread's, in 65536ths; THREADS; BARRIER, of 128 zero bytes; TOUCHED, to which the bytes of weights are added that
    only some tokens need.
    """
    for i in range(a[FIRST], a[LAST]):
        row = a[PROGRAM] + i * op.ROW_BYTES
        code, p = i64_at(row)[0], i64_at(row + 8)
        if code == op.MATMUL:
            matmul(a, p)
        elif code == op.QUANTIZE:
            quantize(a, p)
        elif code == op.NORM:
            norm(a, p)
        elif code == op.SHIFT:
            shift(a, p)
        elif code == op.PREDICT:
            predict(a, p)
        elif code == op.SPARSE:
            sparse(a, p)
        elif code == op.SYNC:
            wait(a)
        elif code == op.WKV7:
            wkv7(a, p)
        elif code == op.WKV5:
            wkv5(a, p)
        elif code == op.WKV4:
            wkv4(a, p)
        elif code == op.LEVEL:
            level(a, p)
        elif code == op.PREVIEW:
            preview(a, p)
        elif code == op.CHOOSE:
            choose(a, p)
        elif code == op.EXACT:
            exact(a, p)
        elif code == op.GATHER:
            gather(a, p)
        elif code == op.EMBED:
            embed(a, p)
        elif code == op.SELECT and a[HEAD] == HEAD_OF_LAST and a[TOKENS] > 1:
            select(a, p)
            wait(a)
            a[TOKENS] = 1
