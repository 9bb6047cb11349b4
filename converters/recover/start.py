"""Where training begins: for each group, the scale and zero point that round it best."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from tinyrwkv.file.int4 import LARGEST

from .body import by_groups
from .scan import Tensor

SHRINK = tuple(np.linspace(1.0, 0.5, 26))
"""The scales that are tried, by the one that spans all weights of a group."""

Start = tuple[Tensor, Tensor, Tensor]
"""d (rows, groups, 64), s and z (rows, groups, 1), as in `student.Grid`."""


def starts(
    tensors: Mapping[str, np.ndarray], matrices: Mapping[str, bool], device: str
) -> dict[str, Start]:
    """Return where the training of each matrix begins.

    Parameters
    ----------
    tensors : mapping of str to ndarray, float32
        A checkpoint's, by raw names.
    matrices : mapping of str to bool
        See `body`.
    device : str
    """
    found = {}
    for name, transposed in matrices.items():
        groups = torch.from_numpy(by_groups(tensors[name], transposed)).to(device)
        scale, zero = fit_groups(groups)
        found[name] = groups / scale, scale, zero
    return found


def fit_groups(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scale and zero point of each group that leave the least squared error.

    A smaller scale clips the largest weights and places the others more finely.

    Parameters
    ----------
    groups : Tensor, float32, shape (rows, groups, 64)

    Returns
    -------
    scale : Tensor, float32, shape (rows, groups, 1)
        Float16 numbers above 0.
    zero : Tensor, float32, shape (rows, groups, 1)
        Whole numbers from 0 to 15.
    """
    low = groups.amin(-1, keepdim=True).clamp(max=0)
    span = groups.amax(-1, keepdim=True).clamp(min=0) - low
    best_scale, best_zero = torch.ones_like(low), torch.zeros_like(low)
    best_error = torch.full_like(low, torch.inf)
    for shrink in SHRINK:
        scale = (span * (shrink / LARGEST)).clamp(2**-24, 65504).half().float()
        zero = (-shrink * low / scale).round().clamp(0, LARGEST)
        steps = (groups / scale).round().clamp(-zero, LARGEST - zero)
        error = (scale * steps - groups).square().sum(-1, keepdim=True)
        is_better = error < best_error
        best_error = torch.where(is_better, error, best_error)
        best_scale = torch.where(is_better, scale, best_scale)
        best_zero = torch.where(is_better, zero, best_zero)
    return best_scale, best_zero
