"""The training itself: batches, learning rates, steps; and what can be saved and continued."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from ..judge.texts import WINDOW
from .graph import Recorded
from .losses import distance, divergence, negative_log_likelihood
from .network import Network, Weights
from .scan import Tensor
from .settings import Settings
from .student import Student
from .windows import Windows

SCALES_FIRST = 0.2
"""Share of the training in which the weights keep their start: scales and vectors settle first."""

WARM_UP = 0.03
"""Share of the training in which a learning rate rises from 0."""

LARGEST_GRADIENT = 1.0
"""Norm to which a gradient is cut."""

JUDGED = 4
"""Windows that are judged at a time."""

Notice = Callable[["Training"], None]


class Loss(NamedTuple):
    """How a model predicts held-out windows, in nats for each token."""

    nll: float
    kl: float
    """From the teacher's predictions."""


class Training:
    """A teacher, a student, and the optimiser between them.

    Parameters
    ----------
    network : Network
        Of the student; all neurons of the teacher count.
    teacher : mapping of str to Tensor
        The checkpoint's tensors on the device.
    student : Student
    windows : Windows
    settings : Settings

    Attributes
    ----------
    step : int
        Steps done.
    seconds : float
        Spent in them, in all runs.
    curve : list of (seconds, loss)
        The mean of the KL divergence since the entry before.
    """

    def __init__(
        self,
        network: Network,
        teacher: Weights,
        student: Student,
        windows: Windows,
        settings: Settings,
    ) -> None:
        self.network = network
        self.teacher = teacher
        self.student = student
        self.settings = settings
        self.step = 0
        self.seconds = 0.0
        self.curve: list[tuple[float, float]] = []
        self._whole = Network(network.arch, network.n_layer, network.n_head, network.ln_x_eps)
        self._windows = windows
        self._size = settings.batch or 1
        self._random = torch.Generator().manual_seed(settings.seed)
        on_gpu = teacher["head.weight"].is_cuda
        groups = self._groups()
        self._rates = [teacher["head.weight"].new_zeros(()) for _ in groups]
        self._optimiser = torch.optim.AdamW(
            groups,
            lr=self._rates[0] if on_gpu else 0.0,
            betas=(0.9, 0.98),
            eps=1e-12,
            weight_decay=0.0,
            capturable=on_gpu,
        )
        self._learn: Callable[[Tensor], Tensor] = self._learn_from
        if on_gpu:  # where Python takes longer to launch the kernels of a step than they run
            self._learn = Recorded(self._learn_from, self._forget)

    def _groups(self) -> list[dict[str, Any]]:
        """Return what is trained, by learning rate."""
        rates = {
            "steps": self.settings.rounding,
            "growth": self.settings.scales,
            "zero": 3 * self.settings.scales,
            "vector": self.settings.vectors,
            "matrix": self.settings.vectors / 5,
        }
        groups: dict[str, list[Tensor]] = {kind: [] for kind in rates}
        for name, parameter in self.student.parameters().items():
            is_vector = max(parameter.shape) == parameter.numel() or "time_" in name
            kind = "vector" if is_vector else "matrix"
            groups[name.partition(":")[2] or kind].append(parameter)
        return [
            {"params": parameters, "kind": kind, "rate": rates[kind]}
            for kind, parameters in groups.items()
        ]

    @property
    def share(self) -> float:
        """What part of the training is done, from 0 to 1."""
        done = self.seconds / (60 * self.settings.minutes)
        if self.settings.steps is not None:
            done = max(done, self.step / self.settings.steps)
        return min(1.0, done)

    def run(self, notice: Notice) -> None:
        """Train to the end, and call `notice` after each step."""
        losses: list[Tensor] = []
        while self.share < 1:
            begin = time.monotonic()
            losses.append(self._step())
            if self.step % 8 == 7:  # waits for the device, so that the clock tells the truth
                losses[-1].item()
            self.step += 1
            self.seconds += time.monotonic() - begin
            if self.step % 32 == 0 or self.share >= 1:
                mean = float(torch.stack(losses).mean())
                self.curve.append((round(self.seconds, 1), mean))
                losses = []
            notice(self)

    def _step(self) -> Tensor:
        """Take one step; return the KL divergence before it."""
        for group, rate in zip(self._optimiser.param_groups, self._rates, strict=True):
            rate.fill_(group["rate"] * self._height(group["kind"] == "steps"))
            group["lr"] = rate
        return self._learn(self._batch())

    def _forget(self) -> None:
        """Free the gradients."""
        self._optimiser.zero_grad(set_to_none=True)

    def _learn_from(self, tokens: Tensor) -> Tensor:
        """Take a step with these tokens; return the KL divergence before it."""
        with torch.no_grad():
            aims, _ = self._whole.forward(self.teacher, tokens)
        streams, _ = self.network.forward(self.student.weights(), tokens)
        head = self.teacher["head.weight"]
        x, y = streams[-1].flatten(0, 1), aims[-1].flatten(0, 1)
        loss, gradient = divergence(x.detach(), y, head, self.settings.rare)
        self._forget()
        if self.settings.hidden:
            apart = self.settings.hidden * distance(streams[:-1], aims[:-1])
            torch.autograd.backward([x, apart], [gradient, torch.ones_like(apart)])
        else:
            x.backward(gradient)
        parameters = list(self.student.parameters().values())
        torch.nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)
        self._optimiser.step()
        return loss

    def _height(self, waits: bool) -> float:
        """Return the share of a learning rate: a short rise, then half a cosine down to 0."""
        share = self.share
        if waits:
            share = max(0.0, (share - SCALES_FIRST) / (1 - SCALES_FIRST))
        return min(1.0, share / WARM_UP) * 0.5 * (1 + math.cos(math.pi * share))

    def _batch(self) -> Tensor:
        """Return some windows: int64, (B, 512)."""
        tokens = self._windows.draw(self._size, self._random)
        return tokens.to(self.teacher["head.weight"].device)

    def judge(self, windows: np.ndarray) -> tuple[Loss, Loss]:
        """Return how the teacher and the student predict held-out windows, in full float32.

        A GPU that trains with shorter products would add their error to the divergence.
        """
        usual = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            return self._judge(windows)
        finally:
            torch.set_float32_matmul_precision(usual)

    def _judge(self, windows: np.ndarray) -> tuple[Loss, Loss]:
        head = self.teacher["head.weight"]
        nll_teacher = nll_student = kl = 0.0
        with torch.no_grad():
            weights = self.student.weights()
            for first in range(0, len(windows), JUDGED):
                part = torch.from_numpy(windows[first : first + JUDGED]).long().to(head.device)
                aims = part[:, 1:].flatten()
                y = self._whole.forward(self.teacher, part)[0][-1][:, :-1].flatten(0, 1)
                x = self.network.forward(weights, part)[0][-1][:, :-1].flatten(0, 1)
                nll_teacher += float(negative_log_likelihood(y, head, aims))
                nll_student += float(negative_log_likelihood(x, head, aims))
                kl += len(aims) * float(divergence(x, y, head, rare=0.0)[0])
        count = windows[:, 1:].size
        return Loss(nll_teacher / count, 0.0), Loss(nll_student / count, kl / count)

    def report(self) -> dict[str, Any]:
        """Return what was done, as plain values."""
        return {
            "steps": self.step,
            "tokens": self.step * self._size * WINDOW,
            "seconds": round(self.seconds, 1),
            "curve": self.curve,
        }

    def saved(self) -> dict[str, Any]:
        """Return all that `restore` needs to go on."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "curve": self.curve,
            "parameters": {name: one.detach() for name, one in self.student.parameters().items()},
            "optimiser": self._optimiser.state_dict(),
            "random": self._random.get_state(),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from what `saved` returned."""
        self.step, self.seconds = saved["step"], saved["seconds"]
        self.curve = list(saved["curve"])
        self.student.restore(saved["parameters"])
        self._optimiser.load_state_dict(saved["optimiser"])
        self._random.set_state(saved["random"])
