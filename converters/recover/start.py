"""Where training begins: for each group, the scale and zero point that round it best."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import NamedTuple

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

NEAR = 0.49
"""How far from a given level a weight may begin, in steps: it is rounded to this level."""

_FIX = "give a model that was made from this checkpoint"

APART = 0.5
"""Squared error of a given matrix, by its own square: of this checkpoint 0.02, of others 2."""

Start = tuple[Tensor, Tensor, Tensor]
"""d (rows, groups, 64), s and z (rows, groups, 1), as in `student.Grid`."""


class Given(NamedTuple):
    """Matrices to begin with.

    Attributes
    ----------
    rows : mapping of str to ndarray, uint8
        As `tinyrwkv.file.int4` packs them, by their names in a checkpoint.
    by_neuron : set of str
        The values of channel mixes that are transposed: they have a row for each neuron, and so
        does the key. The neurons may be in any order.
    """

    rows: Mapping[str, np.ndarray] = {}
    by_neuron: AbstractSet[str] = frozenset()


def starts(
    tensors: Mapping[str, np.ndarray],
    matrices: Mapping[str, bool],
    device: str,
    given: Given | None = None,
) -> dict[str, Start]:
    """Return where the training of each matrix begins.

    Parameters
    ----------
    tensors : mapping of str to ndarray, float32
        A checkpoint's, by raw names.
    matrices : mapping of str to bool
        See `body`.
    device : str
    given : Given, optional
        Where the training of these matrices begins. The others are rounded to nearest, and so are
        values that are grouped otherwise.

    Raises
    ------
    FormatError
        A given matrix is not one of the checkpoint, or holds what is no number.
    """
    by_neuron = (given or Given()).by_neuron
    rows = _in_order(tensors, given or Given())
    for name in rows:
        if name not in tensors:
            sentence = f"--start has the matrix {name}, which the checkpoint has not"
            raise FormatError("--start", name, "a matrix", "nothing", _FIX, sentence)
    found = {}
    for name, transposed in matrices.items():
        groups = torch.from_numpy(by_groups(tensors[name], transposed)).to(device)
        if name in rows and transposed == (name in by_neuron):
            found[name] = _given_start(name, groups, rows[name])
        else:
            scale, zero = fit_groups(groups)
            found[name] = groups / scale, scale, zero
    return found


def read_given(path: str) -> Given:
    """Return the int4 matrices of a model file.

    Raises
    ------
    FormatError
        There are none, or the file is damaged or no model.
    UnsupportedError
        An earlier version of tinyrwkv wrote a compressed form that has changed since.
    """
    rows: dict[str, np.ndarray] = {}
    by_neuron: set[str] = set()
    with open_file(path) as file:
        check_tensors(file)
        width = int4.row_bytes(file.metadata["n_embd"])
        for name, tensor in file.tensors.items():
            if tensor.dtype != "u8":
                continue
            start, _, end = name.partition("ffn.")
            key, value = f"{start}ffn.key.weight", f"{start}ffn.value.weight"
            if end == "bundles":
                pair = unbundle(file[name], file.metadata["n_ffn"], width)
                rows[key], rows[value] = (half.copy() for half in pair)
                by_neuron.add(value)
            elif end == "value.rows":
                rows[value] = file[name].copy()
                by_neuron.add(value)
            elif BODY.fullmatch(name):
                rows[name] = file[name].copy()
    if not rows:
        found, expected = (
            "no matrices of layers in int4",
            "a model with --dtype int4, or a lite one",
        )
        fix = f"give {expected}, or leave --start out"
        raise FormatError(path, "file", found, expected, fix, f"{path} has {found}")
    return Given(rows, by_neuron)


def _in_order(tensors: Mapping[str, np.ndarray], given: Given) -> dict[str, np.ndarray]:
    """Return given matrices with the neurons in the order of the checkpoint.

    A sparse channel mix sorts its neurons. Each neuron of the checkpoint finds the given one whose
    key and value are nearest to its own.
    """
    found = dict(given.rows)
    for value in given.by_neuron:
        key = value.replace("value.weight", "key.weight")
        if key not in tensors or found[key].shape != _packed_shape(tensors[key]):
            continue  # it is refused later
        wanted = np.concatenate([tensors[key], tensors[value].T], axis=1)  # (F, 2 C)
        halves = [int4.dequantize(found[name]) for name in (key, value)]
        there = np.concatenate(halves, axis=1)
        # |a - b|^2 = |a|^2 - (2 a . b - |b|^2)
        nearest = (2 * wanted @ there.T - np.square(there).sum(axis=1)).argmax(axis=1)
        found[key], found[value] = found[key][nearest], found[value][nearest]
    return found


def _packed_shape(matrix: np.ndarray) -> tuple[int, int]:
    return len(matrix), int4.row_bytes(matrix.shape[1])


def _given_start(name: str, groups: Tensor, rows: np.ndarray) -> Start:
    """Return the levels of packed rows, each weight as near to its own value as rounding allows."""
    count, expected = groups.shape[0], int4.row_bytes(groups[0].numel())
    if rows.shape != (count, expected):
        sentence = f"--start has another shape of {name}: {rows.shape}, not {(count, expected)}"
        what = ("--start", name, f"{rows.shape}", f"{(count, expected)}")
        raise FormatError(*what, _FIX, sentence)
    q, s, z = int4.unpack(rows)
    if not np.isfinite(s).all():
        sentence = f"--start has scales of {name} that are no numbers"
        raise FormatError("--start", name, "NaN or infinity", "finite scales", _FIX, sentence)
    levels = torch.from_numpy(by_groups(q, False)).to(groups.device)
    scale = torch.from_numpy(s.astype(np.float32)).to(groups.device)[..., None]
    zero = torch.from_numpy(z.astype(np.float32)).to(groups.device)[..., None]
    scale = scale.clamp(min=SMALLEST)
    steps = levels - zero
    apart = float((scale * steps - groups).square().sum() / groups.square().sum().clamp(min=1e-30))
    if apart > APART:
        found, wanted = f"an error of {100 * apart:.0f} %", f"at most {100 * APART:.0f} %"
        sentence = f"--start has another {name} than the checkpoint: it is off by {found[12:]}"
        raise FormatError("--start", name, found, wanted, _FIX, sentence)
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
