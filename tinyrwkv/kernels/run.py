"""Walk a range of a program's operations: the one function that a token calls."""

from __future__ import annotations

from . import abi as op
from .common import LINE, i32, kernel
from .head import choose, exact, gather, level, preview
from .matmul import matmul
from .pointwise import deep, embed, norm, quantize, select, shift
from .simd import atomic_add, atomic_load, atomic_store, i32_at, i64_at, yield_processor
from .sparse import predict, sparse
from .types import Arguments, Fields, Int
from .wkv import wkv4, wkv5, wkv7


@kernel
def run(args: Arguments) -> None:
    """Run operations FIRST to LAST - 1 of PROGRAM for TOKENS tokens, as one of THREADS threads.

    The arguments are ARGUMENTS int64; `abi` names their places. All threads run the same operations
    at the same time, each for its part of the rows, and meet in each SYNC. If one is late for too
    long, the first goes on alone: see ``wait``.
    """
    i = args[op.FIRST]
    while i < args[op.LAST]:
        row = args[op.PROGRAM] + i * op.ROW_BYTES
        code, fields = i64_at(row)[0], i64_at(row + op.OPCODE_BYTES)
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
        else:
            run_rest(args, code, fields)
        i += 1


@kernel
def run_rest(args: Arguments, code: Int, fields: Fields) -> None:
    """Run an operation that is rarer: the recurrence of v4, or what a token needs once or twice.

    This is a function of its own for the reader; LLVM makes one of the two.
    """
    if code == op.WKV4:
        wkv4(args, fields)
    elif code == op.LEVEL:
        level(args, fields)
    elif code == op.PREVIEW:
        preview(args, fields)
    elif code == op.CHOOSE:
        choose(args, fields)
    elif code == op.EXACT:
        exact(args, fields)
    elif code == op.GATHER:
        gather(args, fields)
    elif code == op.DEEP:
        deep(args, fields)
    elif code == op.EMBED:
        embed(args, fields)
    elif code == op.SELECT and args[op.HEAD] == op.HEAD_OF_LAST and args[op.TOKENS] > 1:
        select(args, fields)
        wait(args)
        args[op.TOKENS] = 1


@kernel
def wait(args: Arguments) -> None:
    """Meet the other threads.

    The last one to arrive starts the next generation. The others look until it does. If one of
    them looks too often, the first thread does the rest of the call alone.
    """
    arrived, late = i32_at(args[op.BARRIER]), i32_at(args[op.BARRIER] + 4)
    generation, alone = i32_at(args[op.BARRIER] + LINE), i32_at(args[op.BARRIER] + LINE + 4)
    mine = atomic_load(generation)
    if atomic_add(arrived, i32(1)) == i32(args[op.THREADS]) - i32(1):
        atomic_store(arrived, i32(0))
        atomic_store(alone, atomic_load(late))
        atomic_store(generation, i32(mine + i32(1)))
    else:
        # Without yields at first: another process that wants the processor would keep it for
        # milliseconds, and the threads that this one waits for need microseconds.
        looks = args[op.LOOKS]
        while atomic_load(generation) == mine:
            if looks < args[op.PATIENCE]:
                looks += 1
                if looks == args[op.PATIENCE]:
                    atomic_store(late, i32(1))
            else:
                yield_processor()
        args[op.LOOKS] = looks
    if atomic_load(alone) != i32(0):
        args[op.THREADS], args[op.END] = 1, op.WORK
        if args[op.RANK] > 0:
            args[op.LAST] = 0
