"""A clock that only the kernels move: deadlines can be tested to the microsecond."""

from __future__ import annotations

from typing import Any

import pytest

import tinyrwkv
from tinyrwkv import generate
from tinyrwkv.engine import reader

OPERATION = 20e-6
"""Seconds that one operation of a program takes for one token."""


class WorkClock:
    """Stands for the module ``time`` in the engine; `now` is in seconds.

    Parameters
    ----------
    model : Model
        Its own, not one that other tests use: it learns how fast the pretended machine is.
    monkeypatch : pytest.MonkeyPatch
    """

    def __init__(self, model: tinyrwkv.Model, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.largest_step = 0.0
        self._run = model.backend.run
        monkeypatch.setattr(model.backend, "run", self.run)
        for module in (generate, reader):
            monkeypatch.setattr(module, "time", self)

    def monotonic(self) -> float:
        return self.now

    perf_counter = monotonic

    def run(self, workspace: Any, first: int, last: int, ids: Any, *rest: Any) -> None:
        """Run operations, and let their time pass."""
        self._run(workspace, first, last, ids, *rest)
        seconds = OPERATION * (last - first) * len(ids)
        self.now += seconds
        self.largest_step = max(self.largest_step, seconds)
