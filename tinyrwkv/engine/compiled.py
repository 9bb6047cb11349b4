"""Run a program with compiled kernels: from the package, or as Numba compiles them here."""

from __future__ import annotations

import ctypes
import itertools
from typing import Any

import numpy as np

from ..kernels import abi as op
from ..program.operations import OPERATIONS
from ..program.program import Program
from .pool import pool
from .workspace import Workspace

LEAST_PATIENCE = 1 << 18
"""How often a thread may look for late ones in any call: less than a millisecond."""


class Compiled:
    """Runs compiled kernels, with one ctypes call for each thread.

    Parameters
    ----------
    name : str
        "native" or "numba".
    program : Program
    function : ctypes function
        The kernels' ``run``, which takes the address of its arguments.
    threads : int
    """

    exact_chunks = True

    def __init__(self, name: str, program: Program, function: Any, threads: int) -> None:
        self.name = name
        self.threads = threads
        self.function = function
        self._keep = program  # kept alive: the kernels only have addresses
        touched = [OPERATIONS[one.opcode].touched(one.fields) for one in program.operations]
        self._touched_sums = [0, *itertools.accumulate(touched)]

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
        """Run operations ``first`` to ``last - 1``, see ``workspace.Backend``."""
        logits = 0 if out is None else out.ctypes.data
        states = old.ctypes.data, new.ctypes.data
        state_step = new.strides[0] if new.ndim == 2 else 0
        tokens = len(ids), ids.ctypes.data
        of_this_call: list[ctypes.c_int64 | int] = [first, last, *tokens, *states]
        for arguments in workspace.arguments:
            arguments[op.FIRST : op.NEW + 1] = of_this_call
            arguments[op.OUT : op.HEAD + 1] = [logits, head]
            arguments[op.STATE_STEP] = state_step
        if self.threads == 1:
            self.function(workspace.addresses[0])
        else:
            memory = (self, workspace, ids, old, new, out)
            self._run_together(workspace, first, last, memory)
        for arguments in workspace.arguments:
            workspace.touched += arguments[op.TOUCHED]
            arguments[op.TOUCHED] = 0

    def _run_together(self, workspace: Workspace, first: int, last: int, memory: Any) -> None:
        """Run a call with as many threads as find a core."""
        workers = pool(self.threads)
        lead = workspace.arguments[0]
        threads = workers.team.size_of_next_call()
        if first > 0:  # a thread that was away in a token lacks its copies of the activations
            threads = min(threads, lead[op.THREADS])
        if threads != lead[op.THREADS]:
            workspace.share_out(threads)
        if threads == 1:
            self.function(workspace.addresses[0])
            return
        patience = self._patience(first, last, lead[op.TOKENS])
        for arguments in workspace.arguments[:threads]:
            arguments[op.PATIENCE : op.LOOKS + 1] = [patience, 0]
        workspace.barrier[:] = 0
        workers.call(self.function, workspace.addresses[:threads], memory)
        workers.team.learn(threads, went_well=lead[op.THREADS] == threads)

    def _patience(self, first: int, last: int, tokens: int) -> int:
        """Return how often a thread may look for late ones in a call.

        That takes less than half of the time that one thread needs for the call.
        """
        touched = self._touched_sums[last] - self._touched_sums[first]
        return LEAST_PATIENCE + (touched * (3 + tokens) >> 8)
