"""The tensors of a model file as llama.cpp has them: other names, other orders, Q8_0 blocks."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from tinyrwkv.file.mapped import TensorFile
from tinyrwkv.file.quant import dequantize_rows
from tinyrwkv.versions.layout import KEPT, SHIFTED, tensor_shapes

LN_EPS = 1e-5
BLOCK = 32  # integers that share a scale in Q8_0
ROWS = 4096  # of the embedding at a time

_Q8_0 = np.dtype([("d", "<f2"), ("q", "i1", BLOCK)])
_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("f4"),
    "F16": np.dtype("f2"),
    "Q8_0": np.dtype("u1"),
}
_STEP = {"f32": 2.0**-24, "f16": 2.0**-11, "i8": 1 / 127}  # of a row whose largest number is 1

_GLOBAL = {
    "head.weight": "output.weight",
    **{f"ln_out.{end}": f"output_norm.{end}" for end in ("weight", "bias")},
    **{f"blocks.0.ln0.{end}": f"token_embd_norm.{end}" for end in ("weight", "bias")},
}
_WORDS = {
    **{
        "ln1": "attn_norm",
        "ln2": "attn_norm_2",
        "att.ln_x": "time_mix_ln",
        "att.time_maa_x": "time_mix_lerp_x",
    },
    **{
        "att.time_maa_w1": "time_mix_w1",
        "att.time_maa_w2": "time_mix_w2",
        "att.bonus": "time_mix_first",
    },
    **{f"att.time_decay{end}": f"time_mix_decay{end}" for end in ("", "_w1", "_w2")},
}
# Where the parts of RWKV-6 that llama.cpp stacks in the order w, k, v, r, g are in a model file.
_ORDER_V6 = [SHIFTED["v6"].index(letter) for letter in "wkvrg"]


class Item(NamedTuple):
    """A tensor of the GGUF file: its name, shape and type ("F32", "F16", "Q8_0"), and what makes its data."""

    name: str
    shape: tuple[int, ...]
    kind: str
    make: Callable[[], np.ndarray]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the array that `make` returns; bytes for Q8_0."""
        return _DTYPES[self.kind]

    @property
    def stored(self) -> tuple[int, ...]:
        """Shape of the array that `make` returns."""
        *outer, inner = self.shape
        return (*outer, inner // BLOCK * _Q8_0.itemsize) if self.kind == "Q8_0" else self.shape

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return math.prod(self.stored) * self.dtype.itemsize


def items(file: TensorFile) -> list[Item]:
    """List the tensors of the GGUF file; nothing is read yet.

    Parameters
    ----------
    file : TensorFile
        A model of RWKV-6 or 7.

    Returns
    -------
    list of Item
    """
    shapes = tensor_shapes(file.metadata)
    low_rank = {
        name for name, shape in shapes.items() if any(isinstance(size, str) for size in shape)
    }
    listed = [_embedding(file)]
    for name in file.tensors:
        if name in _GLOBAL or name in shapes.keys() - {"emb.weight"}:
            listed += _renamed(file, name, _kind(file, name, name in low_rank))
    if file.metadata["arch"] == "v7":
        # llama.cpp asks for these in layer 0, in the shapes of a0 to a2, and never uses them.
        for end, like in enumerate(("a0", "a1.weight", "a2.weight")):
            shape = file.tensors[f"blocks.0.att.{like}"].shape
            listed.append(
                Item(
                    f"blk.0.time_mix_v{end}.weight",
                    shape,
                    "F32",
                    partial(np.zeros, shape, np.float32),
                )
            )
    return listed


def unfold_ln0(rows: np.ndarray, weight: np.ndarray, bias: np.ndarray, step: float) -> np.ndarray:
    """Return rows that the layer norm before the first block turns into the given ones.

    Parameters
    ----------
    rows : ndarray, float32, shape (n, C)
        After the norm.
    weight, bias : ndarray, float32, shape (C,)
        Of the norm.
    step : float
        To which the rows are known, relative to the largest number of each.

    Returns
    -------
    ndarray, float32, shape (n, C)

    Examples
    --------
    >>> unfold_ln0(np.array([[-0.8, 0.8]], np.float32), np.ones(2), np.zeros(2), 1e-7).round(6)
    array([[-0.004216,  0.004216]], dtype=float32)
    """
    y = rows.astype(np.float64)
    # Where a weight is below the step of a row, nothing of that channel is left in it.
    known = np.abs(weight) > step * np.abs(y).max(axis=1, keepdims=True)  # (n, C)
    # n = (y - bias) / weight has mean 0 and variance v / (v + eps), where v is that of the row before the norm
    n = np.divide(y - bias, weight, out=np.zeros_like(y), where=known)
    n -= n.mean(axis=1, keepdims=True)
    # x = n sqrt(v + eps) = n sqrt(eps / (1 - var n)); where v is large its rounding matters to nothing
    rest = np.maximum(1 - np.square(n).mean(axis=1, keepdims=True), 1e-6)
    return (n * np.sqrt(LN_EPS / rest)).astype(np.float32)


def q8_0(q: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return rows of int8 as blocks of 32, each with its row's scale in float16.

    Parameters
    ----------
    q : ndarray, int8, shape (n, C)
    scale : ndarray, float32, shape (n,)

    Returns
    -------
    ndarray, uint8, shape (n, C / 32 * 34)
    """
    blocks = np.empty((len(q), q.shape[1] // BLOCK), _Q8_0)
    blocks["d"] = scale[:, None]
    blocks["q"] = q.reshape(len(q), -1, BLOCK)
    return blocks.view(np.uint8).reshape(len(q), -1)


def quantize_q8_0(x: np.ndarray) -> np.ndarray:
    """Round rows of floats to blocks of 32, each with a scale of its own.

    Parameters
    ----------
    x : ndarray, float32, shape (n, C)

    Returns
    -------
    ndarray, uint8, shape (n, C / 32 * 34)
    """
    blocks = x.reshape(-1, BLOCK)
    scale = (np.abs(blocks).max(axis=1) / 127).astype(np.float16).astype(np.float32)
    q = np.divide(blocks, scale[:, None], out=np.zeros_like(blocks), where=scale[:, None] > 0)
    return q8_0(np.rint(q).clip(-127, 127).astype(np.int8), scale).reshape(len(x), -1)


def _kind(file: TensorFile, name: str, low_rank: bool = False) -> str:
    """Return the type in the GGUF file; matrices of low rank stay floats, as where llama.cpp quantises."""
    tensor = file.tensors[name]
    if tensor.dtype != "i8":
        return tensor.dtype.upper()
    return "F16" if low_rank or tensor.shape[1] % BLOCK else "Q8_0"


def _floats(file: TensorFile, name: str, rows: slice = slice(None)) -> np.ndarray:
    """Return rows of a tensor as floats."""
    scale = name + ".scale"
    return (
        dequantize_rows(file[name][rows], file[scale][rows]) if scale in file else file[name][rows]
    )


def _embedding(file: TensorFile) -> Item:
    name = "emb.weight"
    tensor, kind, (weight, bias) = (
        file.tensors[name],
        _kind(file, name),
        (file[one] for one in KEPT),
    )

    def part(first: int) -> np.ndarray:
        y = _floats(file, name, slice(first, first + ROWS))
        x = unfold_ln0(y, weight, bias, _STEP[tensor.dtype])
        return quantize_q8_0(x) if kind == "Q8_0" else x.astype(_DTYPES[kind])

    def make() -> np.ndarray:
        return np.concatenate([part(first) for first in range(0, tensor.shape[0], ROWS)])

    return Item("token_embd.weight", tensor.shape, kind, make)


def _renamed(file: TensorFile, name: str, kind: str) -> list[Item]:
    """Return what a tensor becomes."""
    shape = file.tensors[name].shape

    def item(
        new: str, change: Callable[[np.ndarray], np.ndarray] = np.asarray, *sizes: int
    ) -> Item:
        return Item(new, sizes or shape, kind, lambda: change(_floats(file, name)))

    if kind == "Q8_0":
        new = _GLOBAL.get(name) or _word(name)
        return [Item(new, shape, kind, lambda: q8_0(file[name], file[name + ".scale"]))]
    if name in _GLOBAL:
        return [item(_GLOBAL[name])]
    v6, C = file.metadata["arch"] == "v6", file.metadata["n_embd"]
    if name.endswith("att.token_shift"):
        new = _word(name).replace("token_shift", "lerp_fused")
        return [item(new, lambda x: x[_ORDER_V6] if v6 else x, shape[0], 1, 1, C)]
    if name.endswith("ffn.token_shift"):
        new = _word(name).replace("token_shift", "lerp_{}")
        return [
            item(new.format(letter), itemgetter(i), C) for i, letter in enumerate("kr"[: shape[0]])
        ]
    if name.endswith("att.time_maa_w1.weight"):
        return [item(_word(name), lambda x: x.reshape(5, -1, C)[_ORDER_V6].reshape(-1, C))]
    if name.endswith("att.time_maa_w2.weight"):
        return [item(_word(name), lambda x: x.reshape(5, C, -1)[_ORDER_V6], 5, C, shape[1])]
    if name.endswith("att.bonus"):
        return [item(_word(name), np.asarray, file.metadata["n_head"], file.metadata["head_size"])]
    return [item(_word(name))]


def _word(name: str) -> str:
    """Return llama.cpp's name for a tensor of a block.

    Examples
    --------
    >>> _word("blocks.3.att.w0"), _word("blocks.3.ffn.key.weight")
    ('blk.3.time_mix_w0.weight', 'blk.3.channel_mix_key.weight')
    """
    _, layer, word = name.split(".", 2)
    end = "bias" if word.endswith(".bias") else "weight"
    word = word.removesuffix(f".{end}")
    word = _WORDS.get(word) or word.replace("att.", "time_mix_").replace("ffn.", "channel_mix_")
    return f"blk.{layer}.{word}.{end}"
