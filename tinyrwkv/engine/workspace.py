"""The memory that a token needs, and what a backend must be able to do."""

from __future__ import annotations

import ctypes
from typing import Protocol

import numpy as np

from ..kernels import abi as op
from ..program.program import Program

CACHE_LINE = 64

GAP = 4096
"""Bytes that private workspaces are rounded up to, and bytes between them."""


class Workspace:
    """The memory of a call: activations, and for each thread a copy of the small ones.

    Parameters
    ----------
    program : Program
    threads : int

    Attributes
    ----------
    shared : ndarray of uint8
    private : list of ndarray of uint8
        One for each thread.
    arguments, addresses : list
        For each thread the arguments of its call, see ``abi``, and where they lie.
    touched : int
        Bytes of weights that only some tokens need, as the backend counted them.
    """

    def __init__(self, program: Program, threads: int) -> None:
        # With a gap between two private workspaces, threads never share a cache line.
        whole_gaps = -(-program.private_bytes // GAP) * GAP
        private_bytes = whole_gaps + GAP
        room_to_align = 3 * CACHE_LINE
        size = program.shared_bytes + threads * private_bytes + room_to_align
        self.memory = np.zeros(size, np.uint8)
        first = self._aligned(0)
        self.shared = self.memory[first : first + program.shared_bytes]
        first = self._aligned(first + program.shared_bytes)
        starts = [first + i * private_bytes for i in range(threads)]
        self.private = [self.memory[start : start + private_bytes] for start in starts]
        self._write_constants(program)

        # Longer than the kernels need, so that nothing else shares its cache lines.
        self.barrier = np.zeros(2 * op.BARRIER_BYTES, np.uint8)
        self.arguments = [(ctypes.c_int64 * op.ARGUMENTS)() for _ in range(threads)]
        self.addresses = [ctypes.addressof(arguments) for arguments in self.arguments]
        self._write_arguments(program)
        self.share_out(threads)
        self.touched = 0
        self._floats = np.zeros(0, np.float32)

    def _aligned(self, offset: int) -> int:
        """Return the first offset from here on whose address begins a cache line."""
        address = self.memory.ctypes.data + offset
        return offset + -address % CACHE_LINE

    def _write_constants(self, program: Program) -> None:
        """Write what kernels find in the fixed places of the shared workspace."""
        end = op.fixed_shared_bytes(program.config["n_embd"])
        self.shared[op.EPSILON : op.EPSILON + 4].view(np.float32)[0] = program.config["ln_x_eps"]
        self.shared[op.ONES : end].view(np.float32)[:] = 1.0

    def _write_arguments(self, program: Program) -> None:
        """Write the arguments that are the same in every call."""
        for i, arguments in enumerate(self.arguments):
            arguments[op.WEIGHTS] = program.weights.ctypes.data
            arguments[op.PROGRAM] = program.table.ctypes.data
            arguments[op.SHARED] = self.shared.ctypes.data
            arguments[op.PRIVATE] = self.private[i].ctypes.data
            arguments[op.RANK] = i
            arguments[op.BARRIER] = self.barrier.ctypes.data

    def share_out(self, threads: int) -> None:
        """Share out the rows of the next calls among the first `threads` threads."""
        for i, arguments in enumerate(self.arguments[:threads]):
            arguments[op.BEGIN] = op.WORK * i // threads
            arguments[op.END] = op.WORK * (i + 1) // threads
            arguments[op.THREADS] = threads

    def floats(self, count: int) -> np.ndarray:
        """Return a buffer of `count` float32 that lasts as long as the workspace."""
        if len(self._floats) < count:
            self._floats = np.empty(count, np.float32)
        return self._floats[:count]


class Backend(Protocol):
    """What runs operations of a program for a few tokens.

    Attributes
    ----------
    name : str
    threads : int
    exact_chunks : bool
        Whether a token has the same bits in every chunk, whatever stands after it.
    """

    name: str
    threads: int
    exact_chunks: bool

    def run(
        self,
        workspace: Workspace,
        first: int,
        last: int,
        ids: np.ndarray,
        old: np.ndarray,
        new: np.ndarray,
        out: np.ndarray | None,
        head: int,
    ) -> None:
        """Run operations ``first`` to ``last - 1``.

        Parameters
        ----------
        workspace : Workspace
            It still holds what earlier operations of the same tokens have written.
        first, last : int
        ids : ndarray, int32, shape (T,), 1 <= T <= 16
            The tokens.
        old : ndarray, float32, shape (state_size,)
            The state before them, which is read.
        new : ndarray, float32, shape (state_size,) or (T, state_size)
            The one after them, which is written; or the one after each of them.
        out : ndarray, float32, shape (V,) or (T, V), or None
            Where the logits go; None if the head is not run.
        head : int
            NO_HEAD, HEAD_OF_LAST or HEAD_OF_ALL: the tokens whose logits are wanted.
        """
