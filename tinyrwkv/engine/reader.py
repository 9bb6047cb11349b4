"""Read tokens: each group in as many calls of the kernels as a deadline and a limit ask for."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from ..kernels.abi import HEAD_OF_ALL, HEAD_OF_LAST, NO_HEAD
from .limit import Limit
from .pace import Pace
from .steps import Steps
from .workspace import Backend, Workspace

MOST_AT_ONCE = 8
"""Tokens of a chunk that is read ahead; a state and logits are kept for each."""


class Reader:
    """Runs a program for a few tokens at a time; threads may share it.

    Parameters
    ----------
    steps : Steps
    backend : Backend
    limit : Limit

    Attributes
    ----------
    workspaces : list of Workspace
        Those that nobody is using.
    chunks : list
        Memory for the chunks of generations that nobody is using, see `reading.ChunkMemory`.
    chunks_made : list of weak references
        To the states in each of these, whoever has it.
    pace : Pace
    """

    def __init__(self, steps: Steps, backend: Backend, limit: Limit) -> None:
        self.steps = steps
        self.program = steps.program
        self.file = steps.file
        self.backend = backend
        self.limit = limit
        self.workspaces: list[Workspace] = []
        self.chunks: list[Any] = []
        self.chunks_made: list[weakref.ref[np.ndarray]] = []
        self.pace = Pace(steps)

    def read(
        self,
        ids: np.ndarray,
        old: np.ndarray,
        new: np.ndarray,
        out: np.ndarray | None = None,
        stopped: Callable[[], Any] | None = None,
        hidden: np.ndarray | None = None,
    ) -> bool:
        """Read up to 16 tokens at once, in as many calls as `stopped` and the limit ask for.

        Parameters
        ----------
        ids : ndarray, int32, shape (T,), 1 <= T <= 16
        old : ndarray, float32, shape (state_size,)
            The state before.
        new : ndarray, float32, shape (state_size,) or (T, state_size)
            Memory for the state after the last token, or after each. It lies apart from `old`.
        out : ndarray, float32, shape (V,), (1, V) or (T, V), optional
            Memory for the logits after the last token, or after each.
        stopped : callable, optional
            Asked every few milliseconds; a true answer ends the call.
        hidden : ndarray, float32, shape (C + 1,) or (T, C + 1), optional
            Memory for what went into the head after the last token, or after each whose logits are
            wanted, for ``Model.exact_logits``.

        Returns
        -------
        bool
            False if `stopped` ended it. Then `new` and `out` hold nothing of use.
        """
        self.file.check_open(look=False)
        workspace = self._take_workspace()
        cuts = self.steps.cuts
        head_cut = self.steps.head_cut
        head = self._head_mode(out)
        end = head_cut if head == NO_HEAD else len(cuts) - 1
        tokens = len(ids)
        seconds = 0.0
        work = 0.0
        at = 0
        while at < end:
            until = self.limit.until(at, end)
            if stopped is not None:
                if stopped():
                    break
                until = min(until, self.pace.until(at, end, len(ids)))
            touched_before = workspace.touched
            begin = time.perf_counter()
            with self.limit.step(at, until, ids):
                self.backend.run(workspace, cuts[at], cuts[until], ids, old, new, out, head)
            seconds += time.perf_counter() - begin
            work += self.steps.bytes_between(at, until) * len(ids)
            work += workspace.touched - touched_before
            if head == HEAD_OF_LAST and at <= head_cut < until:
                ids = ids[-1:]  # SELECT has run and kept the last token only
            at = until
        if hidden is not None:
            self._copy_head_input(workspace, hidden, len(ids))
        # Not after an exception: threads of the pool may still be using it.
        self.workspaces.append(workspace)
        complete = at == end
        if complete:  # a part would mislead: the time of a step does not depend on bytes alone
            self.pace.learn(tokens, seconds, work)
        return complete

    def _take_workspace(self) -> Workspace:
        """Return a workspace that nobody else is using."""
        try:
            return self.workspaces.pop()
        except IndexError:
            return Workspace(self.program, self.backend.threads)

    def _head_mode(self, out: np.ndarray | None) -> int:
        """Tell from the size of the memory for logits for which tokens the head is run."""
        if out is None:
            return NO_HEAD
        return HEAD_OF_LAST if out.size == self.program.config["vocab_size"] else HEAD_OF_ALL

    def _copy_head_input(self, workspace: Workspace, hidden: np.ndarray, tokens: int) -> None:
        """Copy the input of a head with a preview: for each token, C activations and their scale.

        The head has read some tokens; `hidden` has rows for the last of them.
        """
        if "head.rows.weight" not in self.file:
            return
        x = self.program.head_input
        C = self.program.config["n_embd"]
        private = workspace.private[0]
        q = private[x.src :].view(np.int16)[: tokens * C].reshape(tokens, C)
        scale = private[x.scale :].view(np.float32)[:tokens]
        rows = hidden.reshape(-1, C + 1)
        rows[:, :C] = q[-len(rows) :]
        rows[:, C] = scale[-len(rows) :]
