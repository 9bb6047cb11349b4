"""From raw checkpoint tensors to those of a .trwkv file.

Whatever can be computed beforehand is computed here. Matrices become [out, in]. The first layer
norm goes into the embedding. Decays lose their exponentials. The coefficients of a token shift
stand in one matrix; all of them mean ``x + (x_prev - x) * mu``.
"""

from __future__ import annotations

import re
from functools import partial
from typing import NamedTuple

import numpy as np

from tinyrwkv.versions.forms import DEEP_TABLE, LIKE_V7, SHIFTED
from tinyrwkv.versions.layout import KEPT, MATRIX, tensor_shapes

from ..checkpoint.raw_shapes import Sizes
from ..checkpoint.versions import Checkpoint, Tensors
from .content import DeepTable, Function, Recipe
from .deep_table import deep_table
from .fold import fold_ln0

# The order in which RWKV-6 checkpoints stack the five mixes.
RAW_MIXES_V6 = "wkvrg"
# Their places, in the order of a model file.
_ORDER_V6 = [RAW_MIXES_V6.index(letter) for letter in SHIFTED["v6"]]


def recipes(checkpoint: Checkpoint) -> list[Recipe | DeepTable]:
    """List the tensors of the model file in their order, each with the raw ones it is made from.

    Parameters
    ----------
    checkpoint : Checkpoint

    Returns
    -------
    list of Recipe or DeepTable
    """
    tensors = checkpoint.tensors
    found: list[Recipe | DeepTable] = []
    for name, shape in tensor_shapes(checkpoint.config, tensors).items():
        if name == DEEP_TABLE:
            found.append(deep_table(checkpoint))
            continue
        names, function = _way(name, checkpoint.sizes, tensors)
        raw = tuple(tensors[one] for one in names)
        # Big matrices keep their rows; small ones, transposed or stacked, are made in one piece.
        by_rows = function in (_same, fold_ln0) and len(shape) == 2
        found.append(Recipe(name, raw, function, by_rows))
    for name in KEPT:
        found.append(Recipe(name, (tensors[name],), np.ravel))
    return found


class _Way(NamedTuple):
    """How a tensor of the file is made: the raw names, and the function of their arrays."""

    names: list[str]
    function: Function


def _way(name: str, sizes: Sizes, tensors: Tensors) -> _Way:
    """Return how a tensor of the file is made."""
    if name == "emb.weight":
        return _Way(["emb.weight", "blocks.0.ln0.weight", "blocks.0.ln0.bias"], fold_ln0)
    if name.endswith("ffn.token_shift"):
        return _token_shift(name, sizes.arch, "k" if sizes.arch in LIKE_V7 else "kr")
    if name.endswith("att.token_shift"):
        return _token_shift(name, sizes.arch, SHIFTED[sizes.arch])
    if re.search(r"\.ffn\.s[12]\.weight$", name):
        return _Way([name.removesuffix(".weight")], np.transpose)
    block, att, word = name.rpartition("att.")
    if att:
        found = _time_mix(word, block + att, sizes, tensors)
        if found is not None:
            return found
    return _Way([name], _same if MATRIX.search(name) else np.ravel)


def _token_shift(name: str, arch: str, letters: str) -> _Way:
    """Return the raw coefficients of a token shift, a vector for each letter."""
    prefix = "x_" if arch in LIKE_V7 else {"v6": "time_maa_"}.get(arch, "time_mix_")
    part = name.removesuffix("token_shift")
    function = _stack if arch in ("v6", *LIKE_V7) else _shift
    return _Way([part + prefix + letter for letter in letters], function)


def _time_mix(word: str, att: str, sizes: Sizes, tensors: Tensors) -> _Way | None:
    """Return how a part of the time mix is computed beforehand; None if it stays as it is."""
    raw = att + word.removesuffix(".weight")
    if word == "time_decay" and sizes.arch == "v4":
        return _Way([raw], _decay_v4)
    if word == "time_decay" and sizes.arch != "v6":
        return _Way([raw], partial(_decay_v5, sizes))
    if word == "bonus":
        if att + "time_faaaa" in tensors:
            return _Way([att + "time_faaaa"], partial(_per_channel, sizes))
        return _Way([att + "time_first"], partial(_exp_per_channel, sizes))
    if word == "time_maa_w1.weight":
        return _Way([raw], _mixes_down)
    if word == "time_maa_w2.weight":
        return _Way([raw], _mixes_up)
    if re.fullmatch(r"(time_decay_w|[wavg])[12]\.weight", word):
        return _Way([raw], np.transpose)
    return None


def _same(w: np.ndarray) -> np.ndarray:
    return w


def _stack(*mixes: np.ndarray) -> np.ndarray:
    return np.stack([mix.reshape(-1) for mix in mixes])  # (n, C)


def _shift(*mixes: np.ndarray) -> np.ndarray:
    """Use that x * mix + x_prev * (1 - mix) = x + (x_prev - x) * (1 - mix)."""
    return 1 - _stack(*mixes)


def _decay_v4(raw: np.ndarray) -> np.ndarray:
    w = -np.exp(raw.astype(np.float64))
    return w.reshape(-1)


def _decay_v5(sizes: Sizes, raw: np.ndarray) -> np.ndarray:
    w = np.exp(-np.exp(raw.astype(np.float64)))
    return _per_channel(sizes, w)


def _exp_per_channel(sizes: Sizes, raw: np.ndarray) -> np.ndarray:
    u = np.exp(raw.astype(np.float64))
    return _per_channel(sizes, u)


def _per_channel(sizes: Sizes, w: np.ndarray) -> np.ndarray:
    """Repeat what a head has once for each of its channels: (H,) or (H, N) to (C,)."""
    H, N = sizes.n_head, sizes.head_size
    by_head = np.broadcast_to(w.reshape(H, -1), (H, N))
    return by_head.reshape(-1)  # (C,)


def _mixes_down(w1: np.ndarray) -> np.ndarray:
    """Put the first factors of the mixes in the order of the file.

    (C, 5 D), used as x @ w1, becomes (5 D, C).
    """
    C = w1.shape[0]
    factors = w1.T.reshape(5, -1, C)  # (5, D, C)
    return factors[_ORDER_V6].reshape(-1, C)


def _mixes_up(w2: np.ndarray) -> np.ndarray:
    """Put the second factors of the mixes in the order of the file.

    (5, D, C), used as m_j @ w2[j], becomes (5 C, D).
    """
    D = w2.shape[1]
    factors = w2.swapaxes(1, 2)  # (5, C, D)
    return factors[_ORDER_V6].reshape(-1, D)
