"""Where training begins: for each group, the scale and zero point that round it best."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from tinyrwkv.errors import FormatError
from tinyrwkv.file import int4
from tinyrwkv.file.int4 import LARGEST
from tinyrwkv.file.mapped import open_file
from tinyrwkv.versions.layout import check_tensors

from ..techniques.sparse_ffn import unbundle
from .body import BODY, by_groups
from .scan import Tensor

SHRINK = tuple(np.linspace(1.0, 0.5, 26))
"""The scales that are tried, by the one that spans all weights of a group."""

SMALLEST = 2.0**-24
"""The smallest float16 above 0: a scale of 0 could never change."""

Start = tuple[Tensor, Tensor, Tensor]
"""d (rows, groups, 64), s and z (rows, groups, 1), as in `student.Grid`."""


NEAR = 0.49
"""How far from a given level a weight may begin, in steps: it is rounded to this level."""


def starts(
    tensors: Mapping[str, np.ndarray],
    matrices: Mapping[str, bool],
    device: str,
    given: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Start]:
    """Return where the training of each matrix begins.

    Parameters
    ----------
    tensors : mapping of str to ndarray, float32
        A checkpoint's, by raw names.
    matrices : mapping of str to bool
        See `body`.
    device : str
    given : mapping of str to ndarray, uint8, optional
        Matrices as `tinyrwkv.file.int4` packs them, see `read_rows`. They are where their training
        begins. The others are rounded to nearest, and so are values that are grouped otherwise.

    Raises
    ------
    FormatError
        A given matrix has another shape, or the checkpoint has none of its name.
    """
    given = _in_order(tensors, given or {})
    for name in given:
        if name not in tensors:
            sentence = f"--start has the matrix {name}, which the checkpoint has not"
            fix = "give a model that was made from this checkpoint"
            raise FormatError("--start", name, "a matrix", "nothing", fix, sentence)
    found = {}
    for name, transposed in matrices.items():
        groups = torch.from_numpy(by_groups(tensors[name], transposed)).to(device)
        if name in given and transposed == (name in _values_by_neuron(given)):
            found[name] = _given_start(name, groups, given[name])
        else:
            scale, zero = fit_groups(groups)
            found[name] = groups / scale, scale, zero
    return found


def read_rows(path: str) -> dict[str, np.ndarray]:
    """Return the int4 matrices of a model file, packed, by their names in a checkpoint.

    The values of a sparse channel mix are transposed: they have a row for each neuron.

    Raises
    ------
    FormatError
        There are none, or the file is damaged or no model.
    UnsupportedError
        An earlier version of tinyrwkv wrote a compressed form that has changed since.
    """
    rows: dict[str, np.ndarray] = {}
    with open_file(path) as file:
        check_tensors(file)
        width = int4.row_bytes(file.metadata["n_embd"])
        for name, tensor in file.tensors.items():
            ffn, _, end = name.partition("ffn.")
            if tensor.dtype != "u8":
                continue
            if end == "bundles":
                key, value = unbundle(file[name], file.metadata["n_ffn"], width)
                rows[f"{ffn}ffn.key.weight"] = key.copy()
                rows[f"{ffn}ffn.value.weight"] = value.copy()
            elif end == "value.rows":
                rows[f"{ffn}ffn.value.weight"] = file[name].copy()
            elif BODY.fullmatch(name):
                rows[name] = file[name].copy()
    if not rows:
        found, expected = "no matrices in int4", "a model of --dtype int4"
        fix = f"give {expected}, or leave --start out"
        raise FormatError(path, "file", found, expected, fix, f"{path} has {found}")
    return rows


def _values_by_neuron(given: Mapping[str, np.ndarray]) -> list[str]:
    """Return the names of values that have a row for each neuron, as the keys do."""
    keys = (name for name in given if name.endswith("ffn.key.weight"))
    pairs = ((key, key.replace("key.weight", "value.weight")) for key in keys)
    return [
        value for key, value in pairs if value in given and len(given[key]) == len(given[value])
    ]


def _in_order(
    tensors: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return given matrices with the neurons in the order of the checkpoint.

    A sparse channel mix sorts its neurons. Each neuron of the checkpoint finds the given one whose
    key and value are most like its own.
    """
    found = dict(given)
    for value in _values_by_neuron(given):
        key = value.replace("value.weight", "key.weight")
        if key not in tensors or given[key].shape != _packed_shape(tensors[key]):
            continue  # it is refused later
        wanted = np.concatenate([_directions(tensors[key]), _directions(tensors[value].T)], axis=1)
        there = [_directions(int4.dequantize(given[name])) for name in (key, value)]
        nearest = (wanted @ np.concatenate(there, axis=1).T).argmax(axis=1)
        found[key], found[value] = given[key][nearest], given[value][nearest]
    return found


def _packed_shape(matrix: np.ndarray) -> tuple[int, int]:
    return len(matrix), int4.row_bytes(matrix.shape[1])


def _directions(rows: np.ndarray) -> np.ndarray:
    """Scale each row to the length 1."""
    found: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(min=1e-30)
    return found


def _given_start(name: str, groups: Tensor, rows: np.ndarray) -> Start:
    """Return the levels of packed rows, each weight as near to its own value as rounding allows."""
    count, expected = groups.shape[0], int4.row_bytes(groups[0].numel())
    if rows.shape != (count, expected):
        sentence = f"--start has another shape of {name}: {rows.shape}, not {(count, expected)}"
        fix = "give a model that was made from this checkpoint"
        what = ("--start", name, f"{rows.shape}", f"{(count, expected)}")
        raise FormatError(*what, fix, sentence)
    q, s, z = int4.unpack(rows)
    levels = torch.from_numpy(by_groups(q, False)).to(groups.device)
    scale = torch.from_numpy(s.astype(np.float32)).to(groups.device)[..., None]
    zero = torch.from_numpy(z.astype(np.float32)).to(groups.device)[..., None]
    scale = scale.clamp(min=SMALLEST)
    steps = levels - zero
    return steps + (groups / scale - steps).clamp(-NEAR, NEAR), scale, zero


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
        scale = (span * (shrink / LARGEST)).clamp(SMALLEST, 65504).half().float()
        zero = (-shrink * low / scale).round().clamp(0, LARGEST)
        steps = (groups / scale).round().clamp(-zero, LARGEST - zero)
        error = (scale * steps - groups).square().sum(-1, keepdim=True)
        is_better = error < best_error
        best_error = torch.where(is_better, error, best_error)
        best_scale = torch.where(is_better, scale, best_scale)
        best_zero = torch.where(is_better, zero, best_zero)
    return best_scale, best_zero
