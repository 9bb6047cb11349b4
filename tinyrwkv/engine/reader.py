"""Read tokens: each group of them in as many calls of the kernels as a deadline and a memory limit ask for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .backends import HEAD_OF_ALL, HEAD_OF_LAST, NO_HEAD, Backend, Workspace
from .limit import Limit, NoLimit
from .pace import Pace
from .plan import Parts


class Reader:
    """Runs a program for a few tokens at a time; threads may share it.

    Parameters
    ----------
    parts : Parts
    backend : Backend
    limit : Limit or NoLimit
    """

    def __init__(self, parts: Parts, backend: Backend, limit: Limit | NoLimit) -> None:
        self.parts, self.program, self.file, self.backend, self.limit = (
            parts,
            parts.program,
            parts.file,
            backend,
            limit,
        )
        self.workspaces: list[Workspace] = []  # those that nobody is using
        self.pace = Pace(parts)

    def read(
        self,
        ids: np.ndarray,
        old: np.ndarray,
        new: np.ndarray,
        out: np.ndarray | None = None,
        stopped: Callable[[], Any] | None = None,
        hidden: np.ndarray | None = None,
    ) -> bool:
        """Read up to 16 tokens at once, in as many kernel calls as `stopped` and the memory limit ask for.

        Parameters
        ----------
        ids : ndarray, int32, shape (T,), 1 <= T <= 16
        old, new : ndarray, float32
            The state before, and memory for the one after.
        out : ndarray, float32, shape (V,), (1, V) or (T, V), optional
            Memory for the logits after the last token, or after each.
        stopped : callable, optional
            Asked every few milliseconds; a true answer ends the call.
        hidden : ndarray, float32, shape (C + 1,), optional
            Memory for what went into the head after the last token, for ``Model.exact_logits``.

        Returns
        -------
        bool
            False where `stopped` ended it: `new` and `out` then hold nothing of use.
        """
        self.file.check_open()
        try:
            workspace = self.workspaces.pop()
        except IndexError:
            workspace = Workspace(self.program, self.backend.threads)
        cuts, V = self.parts.cuts, self.program.config["vocab_size"]
        head = NO_HEAD if out is None else HEAD_OF_LAST if out.size == V else HEAD_OF_ALL
        end = len(cuts) - 1 if out is not None else self.parts.head_cut
        at, seconds, work, tokens = 0, 0.0, 0.0, len(ids)
        while at < end:
            until = self.limit.until(at, end)
            if stopped is not None:
                if stopped():
                    break
                until = min(until, self.pace.until(at, end, len(ids)))
            begin, before = time.perf_counter(), workspace.touched
            with self.limit.step(at, until, ids):
                self.backend.run(workspace, cuts[at], cuts[until], ids, old, new, out, head)
            seconds += time.perf_counter() - begin
            work += self.parts.bytes_between(at, until) * len(ids) + workspace.touched - before
            if at <= self.parts.head_cut < until and head == HEAD_OF_LAST:
                ids = ids[-1:]
            at = until
        if hidden is not None and "head.rows.weight" in self.file:
            x, C, place = self.program.head_input, self.program.config["n_embd"], len(ids) - 1
            hidden[:C] = workspace.private[0][x.src :].view(np.int16)[place * C : (place + 1) * C]
            hidden[C] = workspace.private[0][x.scale :].view(np.float32)[place]
        self.workspaces.append(
            workspace
        )  # not after an exception: worker threads may still be using it
        if at == end:  # one step alone may take its time for something else than bytes of weights
            self.pace.learn(tokens, seconds, work)
        return at == end
