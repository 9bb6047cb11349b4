"""From raw checkpoint tensors to those of a .trwkv file: everything that can be computed beforehand is.

Matrices become [out, in], the first layer norm goes into the embedding, decays lose their exponentials, and the
coefficients of a token shift stand in one matrix, all meaning ``x + (x_prev - x) * mu``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tinyrwkv.errors import FormatError
from tinyrwkv.file.table import show
from tinyrwkv.versions.layout import KEPT, MATRIX, SHIFTED, tensor_shapes

from ..checkpoint.versions import Checkpoint
from ..read.source import SourceTensor

# The order in which RWKV-6 checkpoints stack the five mixes.
RAW_MIXES_V6 = "wkvrg"

Function = Callable[..., np.ndarray]


class Entry(NamedTuple):
    """How one tensor of the file is made.

    Attributes
    ----------
    name : str
        In the file.
    raw : tuple of SourceTensor
        What it is made from.
    function : callable
        The arrays of `raw` to the array of the file.
    by_rows : bool
        `function` maps rows of the first array to rows of the result, so that a few can be done at a time.
    """

    name: str
    raw: tuple[SourceTensor, ...]
    function: Function
    by_rows: bool = False

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield float32 arrays of consecutive rows; one array of all, unless `by_rows`.

        Raises
        ------
        FormatError
            A value is not finite, or too large to have a finite result.
        """
        first, *others = self.raw
        arrays = [tensor.load() for tensor in others]
        for block in first.blocks() if self.by_rows else (first.load(),):
            with np.errstate(all="ignore"):  # what overflows is refused just below
                result = np.ascontiguousarray(self.function(block, *arrays), np.float32)
            if not np.isfinite(result).all():
                fix = "the checkpoint is damaged: take another"
                raise FormatError(
                    first.path, f"tensor {show(first.name)}", "huge values", "usual ones", fix
                )
            yield result


def plan(checkpoint: Checkpoint) -> list[Entry]:
    """List the tensors of the model file in their order, each with the raw ones it is made from.

    Parameters
    ----------
    checkpoint : Checkpoint

    Returns
    -------
    list of Entry
    """
    entries = []
    for name, sizes in tensor_shapes(checkpoint.config, checkpoint.tensors).items():
        raw, function = _recipe(name, checkpoint.config, checkpoint.tensors)
        # Big matrices keep their rows; the small ones, transposed or stacked, are made in one piece.
        by_rows = function in (_same, fold_ln0) and len(sizes) == 2
        entries.append(
            Entry(name, tuple(checkpoint.tensors[one] for one in raw), function, by_rows)
        )
    return entries + [Entry(name, (checkpoint.tensors[name],), np.ravel) for name in KEPT]


def _recipe(
    name: str, config: dict[str, Any], tensors: dict[str, SourceTensor]
) -> tuple[list[str], Function]:
    """Return the raw names and the function for a name of the file."""
    if name == "emb.weight":
        return ["emb.weight", "blocks.0.ln0.weight", "blocks.0.ln0.bias"], fold_ln0
    arch, (_, dot, word) = config["arch"], name.rpartition("att.")
    att = name[: len(name) - len(word)]
    if name.endswith(".token_shift"):
        prefix = {"v6": "time_maa_", "v7": "x_"}.get(arch, "time_mix_")
        letters = SHIFTED[arch] if dot else "k" if arch == "v7" else "kr"
        function = _stack if arch in ("v6", "v7") else _shift
        return [name[: -len("token_shift")] + prefix + one for one in letters], function
    if dot and word == "time_decay" and arch != "v6":
        return [name], _decay_v4 if arch == "v4" else partial(_decay_v5, config)
    if dot and word == "bonus":
        raw = att + ("time_faaaa" if att + "time_faaaa" in tensors else "time_first")
        return [raw], partial(_per_channel, config) if raw.endswith("a") else partial(
            _exp_per_channel, config
        )
    if dot and word in ("time_maa_w1.weight", "time_maa_w2.weight"):
        return [att + word[:-7]], _mixes_down if "w1" in word else _mixes_up
    if dot and re.fullmatch(r"(time_decay_w|[wavg])[12]\.weight", word):
        return [att + word[:-7]], np.transpose
    return [name], _same if MATRIX.search(name) else np.ravel


def _same(w: np.ndarray) -> np.ndarray:
    return w


def fold_ln0(rows: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Apply the layer norm before the first block to rows of the embedding.

    Parameters
    ----------
    rows : ndarray, float32, shape (n, C)
    weight, bias : ndarray, float32, shape (C,)

    Returns
    -------
    ndarray, float32, shape (n, C)

    Examples
    --------
    >>> fold_ln0(np.array([[1.0, 3.0]], np.float32), np.ones(2), np.zeros(2)).round(4)
    array([[-1.,  1.]], dtype=float32)
    """
    x = rows.astype(np.float64)
    x -= x.mean(axis=1, keepdims=True)
    # y = (x - mean) / sqrt(var + 1e-5) * weight + bias
    x /= np.sqrt((x * x).mean(axis=1, keepdims=True) + 1e-5)
    return (x * weight + bias).astype(np.float32)


def _stack(*mixes: np.ndarray) -> np.ndarray:
    return np.stack([mix.reshape(-1) for mix in mixes])  # (n, C)


def _shift(*mixes: np.ndarray) -> np.ndarray:
    """Use that x * mix + x_prev * (1 - mix) = x + (x_prev - x) * (1 - mix)."""
    return 1 - _stack(*mixes)


def _decay_v4(raw: np.ndarray) -> np.ndarray:
    return -np.exp(raw.astype(np.float64)).reshape(-1)


def _decay_v5(config: dict[str, Any], raw: np.ndarray) -> np.ndarray:
    return _per_channel(config, np.exp(-np.exp(raw.astype(np.float64))))


def _exp_per_channel(config: dict[str, Any], raw: np.ndarray) -> np.ndarray:
    return _per_channel(config, np.exp(raw.astype(np.float64)))


def _per_channel(config: dict[str, Any], w: np.ndarray) -> np.ndarray:
    """Repeat what a head has once for each of its channels: (H,) or (H, N) to (C,)."""
    H, N = config["n_head"], config["head_size"]
    return np.broadcast_to(w.reshape(H, -1), (H, N)).reshape(-1)


def _order() -> list[int]:
    return [RAW_MIXES_V6.index(letter) for letter in SHIFTED["v6"]]


def _mixes_down(w1: np.ndarray) -> np.ndarray:
    """(C, 5 D), used as x @ w1, to (5 D, C) in the order of the file."""
    C = w1.shape[0]
    return w1.T.reshape(5, -1, C)[_order()].reshape(-1, C)


def _mixes_up(w2: np.ndarray) -> np.ndarray:
    """(5, D, C), used as m_j @ w2[j], to (5 C, D) in the order of the file."""
    return w2.swapaxes(1, 2)[_order()].reshape(-1, w2.shape[1])
