"""Which matrices are trained in int4, and how their weights are grouped."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tinyrwkv.file.int4 import GROUP, order

BODY = re.compile(
    r"blocks\.\d+\.(att\.(receptance|key|value|gate|output)|ffn\.(receptance|key|value))\.weight"
)
"""The matrices that a model file has in int4; the small factors of RWKV-6 and 7 are not."""

FROZEN = re.compile(r"(emb|head)\.weight|blocks\.0\.ln0\..*")
"""What is not trained: most of a small model's weights, and the layer norm folded into them."""

VALUES = ("neurons", "rows")
"""How the values of a channel mix are grouped: along each neuron's outputs, or along its rows."""


def body(tensors: Mapping[str, Any], values: str) -> dict[str, bool]:
    """Return the matrices to train in int4, and whether their groups lie along the columns.

    Parameters
    ----------
    tensors : mapping of str to array
        A checkpoint's, by raw names.
    values : str
        One of `VALUES`. A sparse channel mix reads the values of single neurons, so each neuron
        has groups of its own.

    Returns
    -------
    dict of str to bool
        A matrix whose groups would not be whole is left out.
    """
    found = {}
    for name, tensor in tensors.items():
        if BODY.fullmatch(name):
            transposed = values == "neurons" and name.endswith("ffn.value.weight")
            if tensor.shape[0 if transposed else 1] % GROUP == 0:
                found[name] = transposed
    return found


def by_groups(matrix: np.ndarray, transposed: bool) -> np.ndarray:
    """Cut a matrix into its groups, in the order of int4: float32, (rows, groups, 64)."""
    rows = matrix.T if transposed else matrix
    groups = rows[:, order(rows.shape[1])].reshape(len(rows), -1, GROUP)
    return np.ascontiguousarray(groups, np.float32)
