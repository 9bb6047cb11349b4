"""A raw checkpoint under the names, shapes and values that other programs give it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]

_LOW_RANK_V7 = re.compile(r"\.att\.[wavg][12]$")
_SMALL_V6 = re.compile(r"\.time_(maa|decay)_w[12]$")


def n_layers(raw: Arrays) -> int:
    """Count the layers."""
    return sum(name.endswith(".ln1.weight") for name in raw)


def _renamed(name: str, words: Mapping[str, str]) -> str:
    """Replace the parts of a name that have another word."""
    return ".".join(words.get(part, part) for part in name.split("."))


_HUGGING_FACE = {
    "emb": "embeddings",
    "ln0": "pre_ln",
    "att": "attention",
    "ffn": "feed_forward",
    "time_mix_k": "time_mix_key",
    "time_mix_v": "time_mix_value",
    "time_mix_r": "time_mix_receptance",
    "time_mix_g": "time_mix_gate",
}


def to_hugging_face(raw: Arrays) -> Arrays:
    """transformers: longer names, the same values."""
    out = {}
    for name, array in raw.items():
        prefix = "" if name == "head.weight" else "rwkv."
        out[prefix + _renamed(name, _HUGGING_FACE)] = array
    return out


_FLA = {
    "blocks": "layers",
    "emb": "embeddings",
    "ln_out": "norm",
    "ln0": "pre_norm",
    "ln1": "attn_norm",
    "ln2": "ffn_norm",
    "att": "attn",
}
_FLA_ATT = {
    "att": "attn",
    "receptance": "r_proj",
    "key": "k_proj",
    "value": "v_proj",
    "output": "o_proj",
    "ln_x": "g_norm",
}


def to_fla(raw: Arrays, fused: bool = False) -> Arrays:
    """flash-linear-attention's RWKV-7: low-rank pairs are linear layers; older files fuse mixes."""
    out: Arrays = {}
    for name, array in raw.items():
        if name == "head.weight":
            out["lm_head.weight"] = array
        elif not re.search(r"blocks\.0\.att\.v[012]$", name):  # those are never there
            words = {**_FLA, **_FLA_ATT} if ".att." in name else _FLA
            new, array = _fla_low_rank("model." + _renamed(name, words), array)
            keeps_shape = ".attn.x_" in new or "r_k" in new
            out[new] = array if keeps_shape else np.squeeze(array)
    if fused:
        for i in range(n_layers(raw)):
            x = f"model.layers.{i}.attn.x_"
            mixes = np.stack([out.pop(x + letter) for letter in "rwkvag"])
            out[x + "x"] = mixes.reshape(6, 1, 1, -1)
    return out


def _fla_low_rank(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """Make w0, w1, w2 and the like parts of a linear layer."""
    match = re.search(r"\.([wavg])([012])$", name)
    if match is None:
        return name, array
    end = {"0": "2.bias", "1": "0.weight", "2": "2.weight"}[match[2]]
    new = f"{name.removesuffix(match[0])}.{match[1]}_lora.lora.{end}"
    return new, array if match[2] == "0" else array.T


def to_web_rwkv(raw: Arrays) -> Arrays:
    """web-rwkv's .st of RWKV-6 and 7: float16, two other words, small matrices transposed."""
    out = {}
    for name, array in raw.items():
        if _SMALL_V6.search(name) or _LOW_RANK_V7.search(name):
            array = array.swapaxes(-1, -2)
        out[name.replace("time_faaaa", "time_first").replace("time_maa", "time_mix")] = array
    return out


def to_ggmf(raw: Arrays, version: str) -> Arrays:
    """rwkv.cpp: values exponentiated, small matrices transposed, the mixes of v7 joined."""
    if version == "v7":
        return _to_ggmf_v7(raw)
    heads = len(raw["blocks.0.att.time_faaaa"]) if version == "v6" else 0
    out: Arrays = {}
    for name, array in raw.items():
        if ".time_" in name:
            array = np.squeeze(array)
            word = name.rpartition(".")[2]
            if version == "v6":
                array = _ggmf_v6(word, array, heads)
            elif version == "v4":
                array = -np.exp(array) if word == "time_decay" else array
            else:
                array = _ggmf_v5(word, array, version)
        out[name] = array
    return out


def _to_ggmf_v7(raw: Arrays) -> Arrays:
    out: Arrays = {}
    for name, array in raw.items():
        if ".att.x_" in name:
            joined = name.rpartition(".")[0] + ".x_rwkvag"
            out[joined] = np.concatenate([out[joined], array]) if joined in out else array
        else:
            out[name] = array.T if _LOW_RANK_V7.search(name) else array
    return out


def _ggmf_v6(word: str, array: np.ndarray, heads: int) -> np.ndarray:
    if word == "time_faaaa":
        return array[..., None]
    if word == "time_decay":
        return array.reshape(heads, -1, 1)
    return array.swapaxes(-1, -2) if word.endswith(("_w1", "_w2")) else array


def _ggmf_v5(word: str, array: np.ndarray, version: str) -> np.ndarray:
    if word == "time_decay":
        array = np.exp(-np.exp(array))
        return array.reshape(-1, 1, 1) if version == "v5.0" else array[..., None]
    if word == "time_first":
        return np.exp(array).reshape(-1, 1, 1)
    return array[..., None] if word == "time_faaaa" else array


_GGUF_GLOBAL = {
    "emb.weight": "token_embd.weight",
    "blocks.0.ln0.weight": "token_embd_norm.weight",
    "blocks.0.ln0.bias": "token_embd_norm.bias",
    "ln_out.weight": "output_norm.weight",
    "ln_out.bias": "output_norm.bias",
    "head.weight": "output.weight",
}
# Beginnings of words; the first that fits counts.
_GGUF_WORDS = {
    "ln1.": "attn_norm.",
    "ln2.": "attn_norm_2.",
    "att.ln_x.": "time_mix_ln.",
    "att.time_maa_x": "time_mix_lerp_x",
    "att.time_maa_w": "time_mix_w",
    "att.time_decay": "time_mix_decay",
    "att.time_faaaa": "time_mix_first",
    "att.": "time_mix_",
    "ffn.time_maa_": "channel_mix_lerp_",
    "ffn.x_": "channel_mix_lerp_",
    "ffn.": "channel_mix_",
}


def to_gguf(raw: Arrays, version: str, rescale_every: int = 0) -> tuple[Arrays, dict[str, Any]]:
    """llama.cpp: its names and settings; RWKV-6 and 7."""
    mixes = ("x_", "rwkvag") if version == "v7" else ("time_maa_", "wkvrg")
    out: Arrays = {}
    for name, array in raw.items():
        if name in _GGUF_GLOBAL:
            out[_GGUF_GLOBAL[name]] = array
            continue
        _, number, word = name.split(".", 2)
        blk = f"blk.{number}."
        if word in [f"att.{mixes[0]}{letter}" for letter in mixes[1]]:
            att = f"blocks.{number}.att.{mixes[0]}"
            fused = [raw[att + letter].reshape(1, 1, -1) for letter in mixes[1]]
            out[blk + "time_mix_lerp_fused.weight"] = np.stack(fused)
            continue
        if rescale_every and word in ("att.output.weight", "ffn.value.weight"):
            array = array / 2 ** (int(number) // rescale_every)
        out[blk + _gguf_word(word)] = _gguf_shape(word, array, version)
    if version == "v7":
        for i in "012":  # llama.cpp has copies of a there
            out[f"blk.0.time_mix_v{i}.weight"] = out[f"blk.0.time_mix_a{i}.weight"]
    return out, _gguf_settings(raw, version, rescale_every)


def _gguf_word(word: str) -> str:
    old = next(old for old in _GGUF_WORDS if word.startswith(old))
    new = _GGUF_WORDS[old] + word.removeprefix(old)
    return new if new.endswith((".weight", ".bias")) else new + ".weight"


def _gguf_shape(word: str, array: np.ndarray, version: str) -> np.ndarray:
    if word.endswith((".weight", ".bias")):
        return array
    if _LOW_RANK_V7.search("." + word) or _SMALL_V6.search("." + word):
        return array.swapaxes(-1, -2)
    # v6 keeps the heads of its bonus, v7 does not.
    return array.squeeze() if version == "v6" else array.reshape(-1)


def _gguf_settings(raw: Arrays, version: str, rescale_every: int) -> dict[str, Any]:
    arch = {"v6": "rwkv6", "v7": "rwkv7"}[version]
    bonus = {"v6": "time_faaaa", "v7": "r_k"}[version]
    heads, size = raw[f"blocks.0.att.{bonus}"].shape
    settings = {
        "general.architecture": arch,
        "general.license": "apache-2.0",
        f"{arch}.block_count": n_layers(raw),
        f"{arch}.wkv.head_size": size,
        f"{arch}.embedding_length": heads * size,
        "general.alignment": 32,
        f"{arch}.attention.layer_norm_epsilon": 1e-5,
        "tokenizer.ggml.tokens": ["<s>", "a", "b"],
        "tokenizer.ggml.token_type": [1, 2, 3],
    }
    if version == "v6":
        settings[f"{arch}.rescale_every_n_layers"] = rescale_every
    return settings
