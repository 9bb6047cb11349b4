"""The names and values of the files of rwkv.cpp and llama.cpp, as those of a BlinkDL .pth."""

from __future__ import annotations

import re

import numpy as np

from ..read.source import Source, SourceTensor
from .rename import LOW_RANK_V7, Renamed, split, transposed


class Ggmf:
    """rwkv.cpp: decays and bonuses already exponentiated, small matrices transposed, mixes of v7 joined."""

    def __init__(self, source: Source) -> None:
        first = {
            name[len("blocks.0.att.") :]
            for name in source.tensors
            if name.startswith("blocks.0.att.")
        }
        self.v7, self.v6, self.v4 = (
            "k_k" in first,
            "time_maa_x" in first,
            "ln_x.weight" not in first,
        )

    def __call__(self, name: str, tensor: SourceTensor) -> Renamed:
        """Return the raw names and values of a tensor."""
        if self.v7:
            if name.endswith(".att.x_rwkvag"):
                return split(tensor, name[: -len("rwkvag")], "rwkvag")
            return [(name, transposed(tensor) if LOW_RANK_V7.search(name) else tensor)]
        if self.v6:
            if re.search(r"\.time_(maa|decay)_w[12]$", name):
                return [(name, transposed(tensor))]
        elif name.endswith(".att.time_decay"):
            return [(name, tensor.map(_undo_decay_v4 if self.v4 else _undo_decay_v5))]
        elif name.endswith(".att.time_first") and not self.v4:
            return [(name, tensor.map(_undo_exp))]
        return [(name, tensor)]


# The smallest normal float32: a decay that underflowed to 0 comes back as one that does so again.
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
    """llama.cpp: its own names, small matrices transposed, mixes joined, v6 rescaled against float16 overflow."""

    def __init__(self, source: Source) -> None:
        self.v7 = source.settings["architecture"] == "rwkv7"
        self.head_size, self.every = (
            source.settings.get("head_size"),
            source.settings.get("rescale_every"),
        )

    def __call__(self, name: str, tensor: SourceTensor) -> Renamed:
        """Return the raw names and values of a tensor."""
        if name in _GGUF_GLOBAL:
            return [(_GGUF_GLOBAL[name], tensor)]
        match = re.fullmatch(r"blk\.(\d{1,4})\.(.+?)(\.weight|\.bias)", name)
        if not match:
            return [(name, tensor)]
        block, word, end = f"blocks.{int(match[1])}.", match[2], match[3]
        if word in ("attn_norm", "attn_norm_2"):
            return [(f"{block}ln{2 if word.endswith('2') else 1}{end}", tensor)]
        if word == "time_mix_ln":
            return [(f"{block}att.ln_x{end}", tensor)]
        if end == ".bias":
            return [(name, tensor)]
        if match := re.fullmatch(r"(time|channel)_mix_(receptance|key|value|gate|output)", word):
            if (
                word in ("time_mix_output", "channel_mix_value")
                and not self.v7
                and self._halved(block)
            ):
                tensor = tensor.scaled(2.0 ** self._halved(block))
            return [(f"{block}{'att' if match[1] == 'time' else 'ffn'}.{match[2]}.weight", tensor)]
        if match := re.fullmatch(r"channel_mix_lerp_([kr])", word):
            return [(f"{block}ffn.{'x_' if self.v7 else 'time_maa_'}{match[1]}", tensor)]
        if word == "time_mix_lerp_fused":
            return split(
                tensor,
                f"{block}att.{'x_' if self.v7 else 'time_maa_'}",
                "rwkvag" if self.v7 else "wkvrg",
            )
        if self.v7 and word.startswith("time_mix_"):
            return [self._v7(f"{block}att.{word[len('time_mix_') :]}", tensor)]
        if self.v7 or word not in _GGUF_V6:
            return [(name, tensor)]
        word = _GGUF_V6[word]
        return [
            (f"{block}att.{word}", transposed(tensor) if re.search(r"_w[12]$", word) else tensor)
        ]

    def _v7(self, name: str, tensor: SourceTensor) -> tuple[str, SourceTensor]:
        if (
            name.endswith(".r_k")
            and len(tensor.shape) == 1
            and isinstance(self.head_size, int)
            and self.head_size > 0
        ):
            heads = max(1, tensor.shape[0] // self.head_size)
            if heads * self.head_size == tensor.shape[0]:
                shape = (heads, self.head_size)
                tensor = tensor.map(lambda w: w.reshape(shape), shape)
        return name, transposed(tensor) if LOW_RANK_V7.search(name) else tensor

    def _halved(self, block: str) -> int:
        """Return how often the residual stream was halved before this block."""
        every = self.every if isinstance(self.every, int) else 0
        return min(int(block.split(".")[1]) // every, 64) if every > 0 else 0


_GGUF_GLOBAL = {
    **{"token_embd.weight": "emb.weight", "output.weight": "head.weight"},
    **{f"token_embd_norm.{end}": f"blocks.0.ln0.{end}" for end in ("weight", "bias")},
    **{f"output_norm.{end}": f"ln_out.{end}" for end in ("weight", "bias")},
}
_GGUF_V6 = {
    **{f"time_mix_lerp_{letter}": f"time_maa_{letter}" for letter in "xwkvrg"},
    **{"time_mix_w1": "time_maa_w1", "time_mix_w2": "time_maa_w2", "time_mix_first": "time_faaaa"},
    **{
        "time_mix_decay": "time_decay",
        "time_mix_decay_w1": "time_decay_w1",
        "time_mix_decay_w2": "time_decay_w2",
    },
}
