"""The model that is trained: its body is rounded to int4 in each forward pass.

::

    W = s clip(round(d), -z, 15 - z)                       per group of 64 weights

Trained are d, the weights in steps of the scale; s, through its logarithm; and z. The forward pass
takes s rounded to float16 and z rounded to a whole number from 0 to 15, as a file has them. The
gradients pass all roundings as if they were not there (straight-through), and those of d stop where
a weight is clipped, so they are those of learned step sizes (arXiv:1902.08153) with a zero point
(arXiv:2004.09576).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from tinyrwkv.file import int4

from .body import FROZEN
from .network import Weights
from .scan import Tensor
from .start import Start

LARGEST = int4.LARGEST


class Grid(NamedTuple):
    """A matrix of the body as it is trained."""

    steps: Tensor
    """d, (rows, groups, 64)"""

    scale: Tensor
    """s at the start, (rows, groups, 1); it is not trained."""

    growth: Tensor
    """The logarithm of what s has been multiplied by, (rows, groups, 1)."""

    zero: Tensor
    """z, (rows, groups, 1)"""

    places: Tensor
    """Where each column is among the groups of a row, (columns,)."""

    transposed: bool
    """Whether the rows are the columns of the matrix."""

    def weight(self) -> Tensor:
        """Return the matrix as int4 has it: float32, (out, in)."""
        scale = _straight_through(self.exact_scale(), self.scale * self.growth.exp())
        zero = _straight_through(self.exact_zero(), self.zero)
        steps = _straight_through(self.steps.round(), self.steps)
        groups = scale * steps.clamp(-zero, LARGEST - zero)
        rows = groups.flatten(1).index_select(1, self.places)
        return rows.T if self.transposed else rows

    def exact_scale(self) -> Tensor:
        """Return the scales, float16 numbers in float32."""
        scale = self.scale * self.growth.exp()
        return scale.clamp(0, 65504).half().float()

    def exact_zero(self) -> Tensor:
        """Return the zero points, whole numbers in float32."""
        return self.zero.round().clamp(0, LARGEST)

    def packed(self) -> np.ndarray:
        """Return the rows as a file has them, see `tinyrwkv.file.int4.pack`."""
        with torch.no_grad():
            zero = self.exact_zero()
            q = (self.steps.round().clamp(-zero, LARGEST - zero) + zero).flatten(1)
            q = q.index_select(1, self.places)
            scale = self.exact_scale().squeeze(-1)
            q, scale, zero = (each.cpu().numpy() for each in (q, scale, zero.squeeze(-1)))
        return int4.pack(q.astype(np.uint8), scale.astype(np.float16), zero.astype(np.uint8))


class Student:
    """The trained copy of a checkpoint.

    Parameters
    ----------
    frozen : mapping of str to Tensor
        The checkpoint's tensors, on the device; those that are not trained are shared.
    start : mapping of str to (d, s, z)
        For each matrix of the body, see `starts`.
    matrices : mapping of str to bool
        See `body`.
    """

    def __init__(
        self,
        frozen: Weights,
        start: Mapping[str, Start],
        matrices: Mapping[str, bool],
    ) -> None:
        self.grids: dict[str, Grid] = {}
        for name, transposed in matrices.items():
            steps, scale, zero = start[name]
            columns = steps[0].numel()
            places = torch.from_numpy(np.argsort(int4.order(columns))).to(steps.device)
            growth = torch.zeros_like(scale)
            self.grids[name] = Grid(steps.clone(), scale, growth, zero.clone(), places, transposed)
        self.frozen = {name: one for name, one in frozen.items() if FROZEN.fullmatch(name)}
        self.vectors = {
            name: one.clone()
            for name, one in frozen.items()
            if name not in self.grids and name not in self.frozen
        }
        for parameter in self.parameters().values():
            parameter.requires_grad_(True)

    def parameters(self) -> dict[str, Tensor]:
        """Return what is trained, by name; those of a grid have its name and their own."""
        found = dict(self.vectors)
        for name, grid in self.grids.items():
            for part in ("steps", "growth", "zero"):
                found[f"{name}:{part}"] = getattr(grid, part)
        return found

    def weights(self) -> dict[str, Tensor]:
        """Return the checkpoint's tensors as the student has them now."""
        grids = {name: grid.weight() for name, grid in self.grids.items()}
        return {**self.frozen, **self.vectors, **grids}

    def restore(self, saved: dict[str, Any]) -> None:
        """Take over the values of `parameters` that were saved."""
        with torch.no_grad():
            for name, parameter in self.parameters().items():
                parameter.copy_(saved[name])

    def rows(self) -> dict[str, np.ndarray]:
        """Return the packed matrices."""
        return {name: grid.packed() for name, grid in self.grids.items()}

    def trained_vectors(self) -> dict[str, np.ndarray]:
        """Return the other tensors that were trained."""
        return {name: one.detach().cpu().numpy().copy() for name, one in self.vectors.items()}


def _straight_through(exact: Tensor, x: Tensor) -> Tensor:
    """Return `exact`, with the gradient of x."""
    return exact.detach() + (x - x.detach())
