"""Walk a range of a program's operations: the one function that a token calls."""

from __future__ import annotations

from . import abi as op
from .abi import (
    BARRIER,
    FIRST,
    HEAD,
    HEAD_OF_LAST,
    LAST,
    OPCODE_BYTES,
    PROGRAM,
    ROW_BYTES,
    THREADS,
    TOKENS,
)
from .common import LINE, Arguments, Fields, Int, i32, kernel
from .head import choose, exact, gather, level, preview
from .matmul import matmul
from .pointwise import embed, norm, quantize, select, shift
from .simd import atomic_add, atomic_load, atomic_store, i32_at, i64_at, yield_processor
from .sparse import predict, sparse
from .wkv import wkv4, wkv5, wkv7

SPINS = 2000
"""How often a thread looks whether the others have arrived before it yields its processor."""


@kernel
def run(args: Arguments) -> None:
    """Run operations FIRST to LAST - 1 of PROGRAM for TOKENS tokens, as one of THREADS threads.

    The arguments are ARGUMENTS int64; `abi` names their places. All threads run the same operations
    at the same time, each for its part of the rows, and meet in each SYNC.
    """
    for i in range(args[FIRST], args[LAST]):
        row = args[PROGRAM] + i * ROW_BYTES
        code, fields = i64_at(row)[0], i64_at(row + OPCODE_BYTES)
        if code == op.MATMUL:
            matmul(args, fields)
        elif code == op.QUANTIZE:
            quantize(args, fields)
        elif code == op.NORM:
            norm(args, fields)
        elif code == op.SHIFT:
            shift(args, fields)
        elif code == op.PREDICT:
            predict(args, fields)
        elif code == op.SPARSE:
            sparse(args, fields)
        elif code == op.SYNC:
            wait(args)
        elif code == op.WKV7:
            wkv7(args, fields)
        elif code == op.WKV5:
            wkv5(args, fields)
        elif code == op.LEVEL:
            level(args, fields)
        else:
            run_rest(args, code, fields)


@kernel
def run_rest(args: Arguments, code: Int, fields: Fields) -> None:
    """Run an operation that is rarer: the recurrence of v4, or what a token needs once.

    This is a function of its own for the reader; LLVM makes one of the two.
    """
    if code == op.WKV4:
        wkv4(args, fields)
    elif code == op.PREVIEW:
        preview(args, fields)
    elif code == op.CHOOSE:
        choose(args, fields)
    elif code == op.EXACT:
        exact(args, fields)
    elif code == op.GATHER:
        gather(args, fields)
    elif code == op.EMBED:
        embed(args, fields)
    elif code == op.SELECT and args[HEAD] == HEAD_OF_LAST and args[TOKENS] > 1:
        select(args, fields)
        wait(args)
        args[TOKENS] = 1


@kernel
def wait(args: Arguments) -> None:
    """Meet the other threads.

    The last one to arrive starts the next generation. The others spin, then yield, until it does.
    """
    arrived, generation = i32_at(args[BARRIER]), i32_at(args[BARRIER] + LINE)
    mine = atomic_load(generation)
    if atomic_add(arrived, i32(1)) == i32(args[THREADS]) - i32(1):
        atomic_store(arrived, i32(0))
        atomic_store(generation, i32(mine + i32(1)))
        return
    spins = i32(0)
    while atomic_load(generation) == mine:
        spins += i32(1)
        if spins > i32(SPINS):
            yield_processor()
