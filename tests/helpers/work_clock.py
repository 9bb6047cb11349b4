"""A clock that only the kernels move: deadlines can be tested to the microsecond."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

import tinyrwkv
from tinyrwkv import generate
from tinyrwkv.engine import reader


class WorkClock:
    """Stands for the module ``time`` in the engine; `now` is in seconds.

    Parameters
    ----------
    model : Model
        Its own, not one that other tests use: it learns how fast the pretended machine is.
    monkeypatch : pytest.MonkeyPatch
    operation : float
        Seconds that one operation of the program takes for one token.

    Attributes
    ----------
    largest_step : float
        Seconds of the most operations for one token between two places where it can pause.
    """

    def __init__(
        self, model: tinyrwkv.Model, monkeypatch: pytest.MonkeyPatch, operation: float
    ) -> None:
        self.now = 1000.0
        self.operation = operation
        self.largest_step = operation * max(np.diff(model.steps.cuts))
        self._run = model.backend.run
        monkeypatch.setattr(model.backend, "run", self.run)
        for module in (generate, reader):
            monkeypatch.setattr(module, "time", self)

    def monotonic(self) -> float:
        return self.now

    perf_counter = monotonic
    time = staticmethod(time.time)

    def run(self, workspace: Any, first: int, last: int, ids: Any, *rest: Any) -> None:
        """Run operations, and let their time pass."""
        self._run(workspace, first, last, ids, *rest)
        self.now += self.operation * (last - first) * len(ids)
