"""The names and values of the files of rwkv.cpp and llama.cpp, as those of a BlinkDL .pth."""

from __future__ import annotations

import re

import numpy as np

from ..read.source import Source, SourceTensor
from .rename import LOW_RANK_V7, Renamed, split, transposed


class Ggmf:
    """Translate the tensors of rwkv.cpp.

    Decays and bonuses are already exponentiated there, the small matrices are transposed, and the
    mixes of v7 are joined.

    Parameters
    ----------
    source : Source
    """

    def __init__(self, source: Source) -> None:
        att = "blocks.0.att."
        first = {name.removeprefix(att) for name in source.tensors if name.startswith(att)}
        self.is_v7 = "k_k" in first
        self.is_v6 = "time_maa_x" in first
        self.is_v4 = "ln_x.weight" not in first

    def __call__(self, name: str, tensor: SourceTensor) -> Renamed:
        """Return the raw names and values of a tensor."""
        if self.is_v7:
            if name.endswith(".att.x_rwkvag"):
                return split(tensor, name.removesuffix("rwkvag"), "rwkvag")
            return [(name, transposed(tensor) if LOW_RANK_V7.search(name) else tensor)]
        if self.is_v6:
            is_small = re.search(r"\.time_(maa|decay)_w[12]$", name)
            return [(name, transposed(tensor) if is_small else tensor)]
        if name.endswith(".att.time_decay"):
            return [(name, tensor.map(_undo_decay_v4 if self.is_v4 else _undo_decay_v5))]
        if name.endswith(".att.time_first") and not self.is_v4:
            return [(name, tensor.map(_undo_exp))]
        return [(name, tensor)]


# The smallest normal float32. A decay that underflowed to 0 becomes one that underflows again.
_TINY = 2.0**-126


def _undo_exp(w: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(w.astype(np.float64), _TINY))


def _undo_decay_v4(w: np.ndarray) -> np.ndarray:
    """Invert w = -exp(raw)."""
    return _undo_exp(-w)


def _undo_decay_v5(w: np.ndarray) -> np.ndarray:
    """Invert w = exp(-exp(raw)); 1 came from any raw below -17.4."""
    return np.log(-np.log(np.clip(w.astype(np.float64), _TINY, 1 - 2.0**-26)))


class Gguf:
    """Translate the tensors of llama.cpp.

    It has its own names and joins the mixes; the small matrices are transposed, and the weights of
    v6 are scaled against an overflow of float16.

    Parameters
    ----------
    source : Source
    """

    def __init__(self, source: Source) -> None:
        self.is_v7 = source.about.architecture == "rwkv7"
        self.head_size = source.about.head_size or 0
        self.rescale_every = source.about.rescale_every or 0

    def __call__(self, name: str, tensor: SourceTensor) -> Renamed:
        """Return the raw names and values of a tensor."""
        if name in _GGUF_GLOBAL:
            return [(_GGUF_GLOBAL[name], tensor)]
        match = re.fullmatch(r"blk\.(\d{1,4})\.(.+?)\.(weight|bias)", name)
        if match is None:
            return [(name, tensor)]
        layer, word, end = int(match[1]), match[2], match[3]
        block = f"blocks.{layer}."
        if word in _GGUF_NORMS:
            return [(f"{block}{_GGUF_NORMS[word]}.{end}", tensor)]
        if end == "bias":
            return [(name, tensor)]
        found = self._shared(layer, word, tensor)
        if found is None:
            found = self._v7(word, tensor) if self.is_v7 else _v6(word, tensor)
        if found is None:
            return [(name, tensor)]
        return [(block + new, value) for new, value in found]

    def _shared(self, layer: int, word: str, tensor: SourceTensor) -> Renamed | None:
        """Return what v6 and v7 have in common; None for another word."""
        mix = "x_" if self.is_v7 else "time_maa_"
        if match := re.fullmatch(r"(time|channel)_mix_(receptance|key|value|gate|output)", word):
            part = "att" if match[1] == "time" else "ffn"
            halvings = self._halvings(layer)
            if word in ("time_mix_output", "channel_mix_value") and halvings:
                tensor = tensor.scaled(2.0**halvings)
            return [(f"{part}.{match[2]}.weight", tensor)]
        if match := re.fullmatch(r"channel_mix_lerp_([kr])", word):
            return [(f"ffn.{mix}{match[1]}", tensor)]
        if word == "time_mix_lerp_fused":
            return split(tensor, f"att.{mix}", "rwkvag" if self.is_v7 else "wkvrg")
        return None

    def _halvings(self, layer: int) -> int:
        """Return how often the residual stream of v6 was halved before a layer."""
        if self.is_v7 or self.rescale_every <= 0:
            return 0
        return min(layer // self.rescale_every, 64)

    def _v7(self, word: str, tensor: SourceTensor) -> Renamed | None:
        if not word.startswith("time_mix_"):
            return None
        name = "att." + word.removeprefix("time_mix_")
        if name == "att.r_k":
            tensor = self._in_heads(tensor)
        return [(name, transposed(tensor) if LOW_RANK_V7.search(f".{name}") else tensor)]

    def _in_heads(self, tensor: SourceTensor) -> SourceTensor:
        """Return a vector in the shape (H, N), if its size allows it."""
        if len(tensor.shape) != 1 or self.head_size <= 0:
            return tensor
        (size,) = tensor.shape
        heads = max(1, size // self.head_size)
        if heads * self.head_size != size:
            return tensor
        shape = (heads, self.head_size)
        return tensor.map(lambda w: w.reshape(shape), shape)


def _v6(word: str, tensor: SourceTensor) -> Renamed | None:
    if word not in _GGUF_V6:
        return None
    name = _GGUF_V6[word]
    return [(f"att.{name}", transposed(tensor) if re.search(r"_w[12]$", name) else tensor)]


_GGUF_GLOBAL = {
    "token_embd.weight": "emb.weight",
    "token_embd_norm.weight": "blocks.0.ln0.weight",
    "token_embd_norm.bias": "blocks.0.ln0.bias",
    "output_norm.weight": "ln_out.weight",
    "output_norm.bias": "ln_out.bias",
    "output.weight": "head.weight",
}
_GGUF_NORMS = {"attn_norm": "ln1", "attn_norm_2": "ln2", "time_mix_ln": "att.ln_x"}
_GGUF_V6 = {
    **{f"time_mix_lerp_{letter}": f"time_maa_{letter}" for letter in "xwkvrg"},
    "time_mix_w1": "time_maa_w1",
    "time_mix_w2": "time_maa_w2",
    "time_mix_first": "time_faaaa",
    "time_mix_decay": "time_decay",
    "time_mix_decay_w1": "time_decay_w1",
    "time_mix_decay_w2": "time_decay_w2",
}
