"""Translate the tensors of every checkpoint format to raw ones, as a BlinkDL .pth has them."""

from __future__ import annotations

import re
from collections.abc import Callable

from tinyrwkv.errors import FormatError, show

from ..read.source import Source, SourceTensor
from .names_ggml import Ggmf, Gguf
from .rename import LOW_RANK_V7, Renamed, split, transposed

# RWKV-Lite's factors: y = W2 @ W1 @ x ("5.8"), or W2 @ relu(W1 @ x)^2 + diag * x ("5.9").
_FACTOR = re.compile(
    r"(\.(?:att\.(?:receptance|key|value|gate)|ffn\.receptance))(1\.weight|2\.weight|_diag)$"
)
_FACTORS = {"1.weight": ".weight.a", "2.weight": ".weight.b", "_diag": ".diag"}

# Prefixes that training wrappers put before every name.
_WRAPPER = re.compile(r"^(_forward_module|module|_orig_mod)\.")


def raw_tensors(source: Source) -> dict[str, SourceTensor]:
    """Return the tensors of a checkpoint with raw names and values: those of a BlinkDL .pth.

    Factors of RWKV-Lite get the names that they have in a model file. Names that no rule knows stay
    as they are: `check` refuses them. Sizes of 1 may be missing or
    extra.

    Parameters
    ----------
    source : Source

    Returns
    -------
    dict of str to SourceTensor

    Raises
    ------
    FormatError
        A fused tensor has the wrong shape, or two tensors mean the same.
    """
    translate = _dialect(source)
    result: dict[str, SourceTensor] = {}
    for old, tensor in source.tensors.items():
        for raw, value in translate(old, tensor):
            name = _FACTOR.sub(lambda m: m[1] + _FACTORS[m[2]], raw)
            if name in result:
                what, found = f"tensor {show(old)}", f"a second {show(name)}"
                fix = "give a checkpoint that has it once"
                sentence = f"{source.path}: {what} is {found}"
                raise FormatError(source.path, what, found, "one", fix, sentence)
            result[name] = value
    return result


def is_flash_linear_attention(source: Source) -> bool:
    """Tell whether a checkpoint has the names of flash-linear-attention."""
    return any(name.startswith("model.layers.") for name in source.tensors)


def _dialect(source: Source) -> Callable[[str, SourceTensor], Renamed]:
    names = source.tensors
    if source.kind == "gguf":
        return Gguf(source)
    if source.kind == "ggmf":
        return Ggmf(source)
    if any(name.startswith("rwkv.blocks.") for name in names):
        return _hugging_face
    if is_flash_linear_attention(source):
        return _flash_linear_attention
    if "blocks.0.att.time_mix_w1" in names:
        return _web_rwkv6
    emb = names.get("emb.weight")
    if source.kind == "safetensors" and emb is not None and len(emb.shape) == 2:
        return _Safetensors(emb.shape[1])
    return lambda name, tensor: [(_WRAPPER.sub("", name), tensor)]


def _hugging_face(name: str, tensor: SourceTensor) -> Renamed:
    """Translate the RWKV-4 of transformers, and the RWKV-5 and 6 that bring their own code."""
    parts = name.removeprefix("rwkv.").split(".")
    return [(".".join(_HUGGING_FACE.get(part, part) for part in parts), tensor)]


_HUGGING_FACE = {
    "embeddings": "emb",
    "pre_ln": "ln0",
    "attention": "att",
    "feed_forward": "ffn",
    "time_mix_key": "time_mix_k",
    "time_mix_value": "time_mix_v",
    "time_mix_receptance": "time_mix_r",
    "time_mix_gate": "time_mix_g",
}


def _flash_linear_attention(name: str, tensor: SourceTensor) -> Renamed:
    """Translate RWKV-7 of flash-linear-attention.

    Its low-rank matrices are linear layers, [out, in]; older files have all mixes in one tensor.
    """
    name = _LORA.sub(lambda m: m[1] + _LORA_NUMBERS[m[2]], name.removeprefix("model."))
    name = ".".join(_FLASH_LINEAR_ATTENTION.get(part, part) for part in name.split("."))
    if name.endswith(".att.x_x"):
        return split(tensor, name[:-1], "rwkvag")
    return [(name, transposed(tensor) if LOW_RANK_V7.search(name) else tensor)]


_LORA = re.compile(r"([wavg])_lora\.lora\.(0\.weight|2\.weight|2\.bias)$")
_LORA_NUMBERS = {"0.weight": "1", "2.weight": "2", "2.bias": "0"}
_FLASH_LINEAR_ATTENTION = {
    "embeddings": "emb",
    "layers": "blocks",
    "pre_norm": "ln0",
    "attn_norm": "ln1",
    "ffn_norm": "ln2",
    "attn": "att",
    "r_proj": "receptance",
    "k_proj": "key",
    "v_proj": "value",
    "o_proj": "output",
    "g_norm": "ln_x",
    "norm": "ln_out",
    "lm_head": "head",
}


def _web_rwkv6(name: str, tensor: SourceTensor) -> Renamed:
    """Translate web-rwkv's .st of RWKV-6: two other words, small matrices transposed."""
    name = name.replace(".time_mix_", ".time_maa_").replace(".time_first", ".time_faaaa")
    return [(name, transposed(tensor) if re.search(r"\.time_(maa|decay)_w[12]$", name) else tensor)]


class _Safetensors:
    """Translate raw names in a safetensors file.

    It is a plain copy of a .pth, or web-rwkv's .st of RWKV-7, in which the low-rank matrices are
    transposed: their shapes tell.
    """

    def __init__(self, n_embd: int) -> None:
        self.n_embd = n_embd

    def __call__(self, name: str, tensor: SourceTensor) -> Renamed:
        """Return the raw names and values of a tensor."""
        if LOW_RANK_V7.search(name) and self._is_transposed(name, tensor.shape):
            tensor = transposed(tensor)
        return [(_WRAPPER.sub("", name), tensor)]

    def _is_transposed(self, name: str, shape: tuple[int, ...]) -> bool:
        if len(shape) != 2 or shape[0] == shape[1]:
            return False
        rank_axis = 1 if name.endswith("1") else 0  # raw: [C, rank], [rank, C]
        return shape[rank_axis] == self.n_embd
