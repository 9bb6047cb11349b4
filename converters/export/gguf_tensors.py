"""The tensors of a model file as llama.cpp has them: other names, other orders, Q8_0 blocks."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from tinyrwkv.file.quant import dequantize_rows
from tinyrwkv.file.tensors import TensorFile
from tinyrwkv.versions.forms import SHIFTED
from tinyrwkv.versions.layout import KEPT, tensor_shapes

LN_EPS = 1e-5
BLOCK = 32  # integers that share a scale in Q8_0
ROWS = 4096  # of the embedding at a time

_Q8_0 = np.dtype([("d", "<f2"), ("q", "i1", BLOCK)])
_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("f4"),
    "F16": np.dtype("f2"),
    "Q8_0": np.dtype("u1"),
}
# How exactly a type keeps the numbers of a row whose largest is 1.
_STEP = {"f32": 2.0**-24, "f16": 2.0**-11, "i8": 1 / 127}

_GLOBAL = {
    "blocks.0.ln0.weight": "token_embd_norm.weight",
    "blocks.0.ln0.bias": "token_embd_norm.bias",
    "ln_out.weight": "output_norm.weight",
    "ln_out.bias": "output_norm.bias",
    "head.weight": "output.weight",
}
_WORDS = {
    "ln1": "attn_norm",
    "ln2": "attn_norm_2",
    "att.ln_x": "time_mix_ln",
    "att.time_maa_x": "time_mix_lerp_x",
    "att.time_maa_w1": "time_mix_w1",
    "att.time_maa_w2": "time_mix_w2",
    "att.bonus": "time_mix_first",
    "att.time_decay": "time_mix_decay",
    "att.time_decay_w1": "time_mix_decay_w1",
    "att.time_decay_w2": "time_mix_decay_w2",
}
# llama.cpp stacks the parts of RWKV-6 in the order w, k, v, r, g. Their places in a model file:
_ORDER_V6 = [SHIFTED["v6"].index(letter) for letter in "wkvrg"]


class GgufTensor(NamedTuple):
    """A tensor of the GGUF file.

    Attributes
    ----------
    name : str
    shape : tuple of int
    kind : str
        Its type: "F32", "F16" or "Q8_0".
    make : callable
        Returns the data, an array of `dtype` and of the shape `stored`.
    """

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
        if self.kind != "Q8_0":
            return self.shape
        *outer, inner = self.shape
        return (*outer, inner // BLOCK * _Q8_0.itemsize)

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return math.prod(self.stored) * self.dtype.itemsize


def gguf_tensors(file: TensorFile) -> list[GgufTensor]:
    """List the tensors of the GGUF file; nothing is read yet.

    Parameters
    ----------
    file : TensorFile
        A model of RWKV-6 or 7.

    Returns
    -------
    list of GgufTensor
    """
    found = [_embedding(file)]
    shapes = tensor_shapes(file.metadata)
    others = {*_GLOBAL, *shapes} - {"emb.weight"}
    for name in file.tensors:
        if name in others:
            is_low_rank = any(isinstance(size, str) for size in shapes.get(name, ()))
            found += _renamed(file, name, _kind(file, name, is_low_rank))
    if file.metadata["arch"] == "v7":
        found += _unused(file)
    return found


def _unused(file: TensorFile) -> list[GgufTensor]:
    """Return what llama.cpp asks for in layer 0 of RWKV-7 and never uses: v0 to v2."""
    found = []
    for end, like in enumerate(("a0", "a1.weight", "a2.weight")):
        shape = file.tensors[f"blocks.0.att.{like}"].shape
        zeros = partial(np.zeros, shape, np.float32)
        found.append(GgufTensor(f"blk.0.time_mix_v{end}.weight", shape, "F32", zeros))
    return found


def unfold_ln0(rows: np.ndarray, weight: np.ndarray, bias: np.ndarray, step: float) -> np.ndarray:
    """Return rows that the layer norm before the first block turns into the given ones.

    Parameters
    ----------
    rows : ndarray, float32, shape (n, C)
        After the norm.
    weight, bias : ndarray, float32, shape (C,)
        Of the norm.
    step : float
        How exactly the rows are known, relative to the largest number of each.

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
    # n = (y - bias) / weight has mean 0 and variance v / (v + eps), where v is the variance of the
    # row before the norm
    n = np.divide(y - bias, weight, out=np.zeros_like(y), where=known)
    n -= n.mean(axis=1, keepdims=True)
    # x = n sqrt(v + eps) = n sqrt(eps / (1 - var n)); the rounding of a large v does not matter
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


def _kind(file: TensorFile, name: str, is_low_rank: bool = False) -> str:
    """Return the type in the GGUF file; matrices of low rank stay floats, as in llama.cpp."""
    tensor = file.tensors[name]
    if tensor.dtype != "i8":
        return tensor.dtype.upper()
    return "F16" if is_low_rank or tensor.shape[1] % BLOCK else "Q8_0"


def _floats(file: TensorFile, name: str, rows: slice = slice(None)) -> np.ndarray:
    """Return rows of a tensor as floats."""
    values = file[name][rows]
    scale = name + ".scale"
    return dequantize_rows(values, file[scale][rows]) if scale in file else values


def _embedding(file: TensorFile) -> GgufTensor:
    name = "emb.weight"
    tensor = file.tensors[name]
    kind = _kind(file, name)
    weight, bias = (file[kept] for kept in KEPT)

    def part(first: int) -> np.ndarray:
        y = _floats(file, name, slice(first, first + ROWS))
        x = unfold_ln0(y, weight, bias, _STEP[tensor.dtype])
        return quantize_q8_0(x) if kind == "Q8_0" else x.astype(_DTYPES[kind])

    def make() -> np.ndarray:
        return np.concatenate([part(first) for first in range(0, tensor.shape[0], ROWS)])

    return GgufTensor("token_embd.weight", tensor.shape, kind, make)


def _renamed(file: TensorFile, name: str, kind: str) -> list[GgufTensor]:
    """Return what a tensor becomes: one with another name and perhaps order, or several."""
    shape = file.tensors[name].shape
    new = _GLOBAL.get(name) or _word(name)
    if kind == "Q8_0":
        return [GgufTensor(new, shape, kind, lambda: q8_0(file[name], file[name + ".scale"]))]

    def changed(
        new: str, sizes: tuple[int, ...], change: Callable[[np.ndarray], np.ndarray] = np.asarray
    ) -> GgufTensor:
        return GgufTensor(new, sizes, kind, lambda: change(_floats(file, name)))

    is_v6 = file.metadata["arch"] == "v6"
    C = file.metadata["n_embd"]
    if name.endswith("att.token_shift"):
        new = new.replace("token_shift", "lerp_fused")
        order = _ORDER_V6 if is_v6 else slice(None)
        return [changed(new, (shape[0], 1, 1, C), itemgetter(order))]
    if name.endswith("ffn.token_shift"):
        names = [new.replace("token_shift", f"lerp_{letter}") for letter in "kr"[: shape[0]]]
        return [changed(one, (C,), itemgetter(i)) for i, one in enumerate(names)]
    if name.endswith("att.time_maa_w1.weight"):
        return [changed(new, shape, lambda x: x.reshape(5, -1, C)[_ORDER_V6].reshape(-1, C))]
    if name.endswith("att.time_maa_w2.weight"):
        sizes = (5, C, shape[1])
        return [changed(new, sizes, lambda x: x.reshape(sizes)[_ORDER_V6])]
    if name.endswith("att.bonus"):
        return [changed(new, (file.metadata["n_head"], file.metadata["head_size"]))]
    return [changed(new, shape)]


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
