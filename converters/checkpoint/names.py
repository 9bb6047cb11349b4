"""Translate the tensors of every checkpoint format to raw ones, as a BlinkDL .pth has them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

from tinyrwkv.errors import FormatError, show

from ..read.source import Source, SourceTensor
from .names_ggml import Ggmf, Gguf
from .rename import LOW_RANK_V7, Renamed, split, transposed

# RWKV-Lite's factors: y = W2 @ W1 @ x ("5.8"), or W2 @ relu(W1 @ x)^2 + diag * x ("5.9").
_FACTOR = re.compile(
    r"(\.(?:att\.(?:receptance|key|value|gate)|ffn\.receptance))(1\.weight|2\.weight|_diag)$"
)
_FACTORS = {"1.weight": ".weight.a", "2.weight": ".weight.b", "_diag": ".diag"}

# What wrappers of training put into names: these anywhere, these only at the beginning.
_WRAPPERS = ("_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_INNER = re.compile(rf"(?<![^.])({'|'.join(_WRAPPERS)})\.")
_OUTER = re.compile(r"^(module\.)+|^model\.(?=(emb|blocks|ln_out|head)\.)")


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
    source = replace(source, tensors=_unwrapped(source))
    translate = _dialect(source)
    result: dict[str, SourceTensor] = {}
    for old, tensor in source.tensors.items():
        for raw, value in translate(old, tensor):
            name = _FACTOR.sub(lambda m: m[1] + _FACTORS[m[2]], raw)
            if name in result:
                raise _second(source, tensor, name)
            result[name] = value
    if source.about.tied_head and "emb.weight" in result:
        result.setdefault("head.weight", result["emb.weight"])
    return result


def unwrapped(name: str) -> str:
    """Return the name that a tensor had before training wrapped the model.

    Examples
    --------
    >>> unwrapped("_forward_module._orig_mod.blocks.0._orig_mod.att.r_k")
    'blocks.0.att.r_k'
    >>> unwrapped("module.module.emb.weight"), unwrapped("model.head.weight")
    ('emb.weight', 'head.weight')
    >>> unwrapped("model.layers.0.attn.r_k")
    'model.layers.0.attn.r_k'
    """
    before = ""
    while name != before:
        before, name = name, _OUTER.sub("", _INNER.sub("", name))
    return name


def _unwrapped(source: Source) -> dict[str, SourceTensor]:
    """Return the tensors of a checkpoint without what wrappers put into their names."""
    result: dict[str, SourceTensor] = {}
    for old, tensor in source.tensors.items():
        name = unwrapped(old)
        if name in result:
            raise _second(source, tensor, name)
        result[name] = tensor
    return result


def _second(source: Source, tensor: SourceTensor, name: str) -> FormatError:
    """Return the error that two tensors mean the same."""
    what, found = f"tensor {show(tensor.name)}", f"a second {show(name)}"
    fix = "give a checkpoint that has it once"
    sentence = f"{source.path}: {what} is {found}"
    return FormatError(source.path, what, found, "one", fix, sentence)


def is_flash_linear_attention(source: Source) -> bool:
    """Tell whether a checkpoint has the names of flash-linear-attention."""
    return any(unwrapped(name).startswith("model.layers.") for name in source.tensors)


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
        return _Safetensors(emb.shape[1], _is_web_rwkv5(names, emb.shape[1]))
    return lambda name, tensor: [(name, tensor)]


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


def _is_web_rwkv5(names: dict[str, SourceTensor], n_embd: int) -> bool:
    """Tell whether a safetensors file is web-rwkv's .st of RWKV-5.

    It gives time_faaaa the name time_first, which elsewhere stands for its logarithm. Only 5.0 and
    5.1 were trained with a time_first, one for each head. web-rwkv has one for each channel: what
    5.1 has for a head is repeated.
    """
    att = "blocks.0.att."
    bonus = names.get(att + "time_first")
    is_by_channel = bonus is not None and math.prod(bonus.shape) == n_embd
    return is_by_channel and att + "gate.weight" in names


class _Safetensors:
    """Translate raw names in a safetensors file.

    It is a plain copy of a .pth, or web-rwkv's .st. That of RWKV-5 has another word; in that of
    RWKV-7 the low-rank matrices are transposed: their shapes tell.
    """

    def __init__(self, n_embd: int, is_web_rwkv5: bool) -> None:
        self.n_embd = n_embd
        self.is_web_rwkv5 = is_web_rwkv5

    def __call__(self, name: str, tensor: SourceTensor) -> Renamed:
        """Return the raw names and values of a tensor."""
        if LOW_RANK_V7.search(name) and self._is_transposed(name, tensor.shape):
            tensor = transposed(tensor)
        if self.is_web_rwkv5:
            name = name.replace(".att.time_first", ".att.time_faaaa")
        return [(name, tensor)]

    def _is_transposed(self, name: str, shape: tuple[int, ...]) -> bool:
        if len(shape) != 2 or shape[0] == shape[1]:
            return False
        rank_axis = 1 if name.endswith("1") else 0  # raw: [C, rank], [rank, C]
        return shape[rank_axis] == self.n_embd
