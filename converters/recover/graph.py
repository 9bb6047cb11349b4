"""Record the kernels of a training step on a GPU once, and launch them all at one go after that.

A step launches thousands of small kernels. Python needs longer to launch them than the GPU to run
them. A CUDA graph holds all launches of a step: https://pytorch.org/docs/stable/notes/cuda.html
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .scan import Tensor

STEPS_BEFORE = 3
"""Steps that run as usual before one is recorded: libraries prepare themselves in them."""

Compute = Callable[[Tensor], Tensor]


class Recorded:
    """A step on a GPU, recorded after a few.

    Parameters
    ----------
    compute : callable
        Takes tokens, int64, (B, 512), and returns the loss. It allocates no gradients of its own
        before the record, waits for nothing, and takes all that changes from tensors that stay.
    forget : callable
        Frees what a step has left, so that the record has memory of its own for it.
    """

    def __init__(self, compute: Compute, forget: Callable[[], None]) -> None:
        self._compute = compute
        self._forget = forget
        self._stream = torch.cuda.Stream()
        self._done = 0
        self._graph: Any = None
        self._tokens: Tensor = None
        self._loss: Tensor = None

    def __call__(self, tokens: Tensor) -> Tensor:
        """Take a step; return its loss."""
        if self._done < STEPS_BEFORE:
            self._done += 1
            return self._as_usual(tokens)
        if self._graph is None:
            self._record(tokens)
        self._tokens.copy_(tokens)
        self._graph.replay()
        return self._loss.clone()

    def _as_usual(self, tokens: Tensor) -> Tensor:
        """Take a step on a stream of its own, as recording asks for."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            loss = self._compute(tokens)
        torch.cuda.current_stream().wait_stream(self._stream)
        return loss

    def _record(self, tokens: Tensor) -> None:
        self._tokens = tokens.clone()
        self._forget()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._loss = self._compute(self._tokens)
