"""A raw checkpoint under the names, shapes and values that other programs give it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]

_LOW_RANK_V7 = re.compile(r"\.att\.[wavg][12]$")


def n_layers(raw: Arrays) -> int:
    """Count the layers."""
    return sum(name.endswith(".ln1.weight") for name in raw)


def to_hugging_face(raw: Arrays) -> Arrays:
    """transformers: longer names, the same values."""
    words = {"emb": "embeddings", "ln0": "pre_ln", "att": "attention", "ffn": "feed_forward"}
    words |= {"time_mix_k": "time_mix_key", "time_mix_v": "time_mix_value"}
    words |= {"time_mix_r": "time_mix_receptance", "time_mix_g": "time_mix_gate"}
    return {
        ("" if name == "head.weight" else "rwkv.")
        + ".".join(words.get(part, part) for part in name.split(".")): array
        for name, array in raw.items()
    }


def to_fla(raw: Arrays, fused: bool = False) -> Arrays:
    """flash-linear-attention's RWKV-7: low-rank pairs are linear layers; older ones fuse the mixes."""
    words = {
        "blocks": "layers",
        "emb": "embeddings",
        "ln_out": "norm",
        "ln0": "pre_norm",
        "ln1": "attn_norm",
    }
    words |= {
        "ln2": "ffn_norm",
        "att": "attn",
        "receptance": "r_proj",
        "output": "o_proj",
        "ln_x": "g_norm",
    }
    projections = {"key": "k_proj", "value": "v_proj"}
    numbers = {"0": "2.bias", "1": "0.weight", "2": "2.weight"}
    out: Arrays = {}
    for name, array in raw.items():
        if name == "head.weight":
            out["lm_head.weight"] = array
            continue
        if re.search(r"blocks\.0\.att\.v[012]$", name):
            continue  # never there
        parts = [words.get(part, part) for part in name.split(".")]
        if "attn" in parts:
            parts = [projections.get(part, part) for part in parts]
        new = "model." + ".".join(parts)
        if low := re.search(r"\.([wavg])([012])$", new):
            new = f"{new[: -len(low[0])]}.{low[1]}_lora.lora.{numbers[low[2]]}"
            array = array.T if low[2] != "0" else array
        out[new] = (
            array
            if ".x_" in new and ".attn." in new
            else np.squeeze(array)
            if "r_k" not in new
            else array
        )
    if fused:
        for i in range(n_layers(raw)):
            x = f"model.layers.{i}.attn.x_"
            out[x + "x"] = np.stack([out.pop(x + letter) for letter in "rwkvag"]).reshape(
                6, 1, 1, -1
            )
    return out


def to_web_rwkv(raw: Arrays) -> Arrays:
    """web-rwkv's .st of RWKV-6 and 7: float16, two other words, small matrices transposed."""
    out = {}
    for name, array in raw.items():
        if re.search(r"time_(maa|decay)_w[12]$", name) or _LOW_RANK_V7.search(name):
            array = array.swapaxes(-1, -2)
        out[name.replace("time_faaaa", "time_first").replace("time_maa", "time_mix")] = array
    return out


def to_ggmf(raw: Arrays, version: str) -> Arrays:
    """rwkv.cpp: values exponentiated, small matrices transposed, the mixes of v7 joined."""
    out: Arrays = {}
    for name, array in raw.items():
        word = name.rpartition(".")[2]
        if ".time_" in name:
            array = np.squeeze(array)
        if version == "v7":
            if ".att.x_" in name:
                joined = name.rpartition(".")[0] + ".x_rwkvag"
                array = np.concatenate([out[joined], array]) if joined in out else array
                name = joined
            elif _LOW_RANK_V7.search(name):
                array = array.T
        elif version == "v6":
            if word == "time_faaaa":
                array = array[..., None]
            elif word in ("time_maa_w1", "time_maa_w2", "time_decay_w1", "time_decay_w2"):
                array = array.swapaxes(-1, -2)
            elif word == "time_decay":
                array = array.reshape(len(raw["blocks.0.att.time_faaaa"]), -1, 1)
        elif version != "v4":
            if word == "time_decay":
                array = np.exp(-np.exp(array))
                array = array.reshape(-1, 1, 1) if version == "v5.0" else array[..., None]
            elif word == "time_first":
                array = np.exp(array).reshape(-1, 1, 1)
            elif word == "time_faaaa":
                array = array[..., None]
        elif word == "time_decay":
            array = -np.exp(array)
        out[name] = array
    return out


def to_gguf(raw: Arrays, version: str, rescale_every: int = 0) -> tuple[Arrays, dict[str, Any]]:
    """llama.cpp: its names and settings; RWKV-6 and 7."""
    words = {"emb.weight": "token_embd.weight", "head.weight": "output.weight"}
    words |= {f"blocks.0.ln0.{end}": f"token_embd_norm.{end}" for end in ("weight", "bias")}
    words |= {f"ln_out.{end}": f"output_norm.{end}" for end in ("weight", "bias")}
    arch, letters = ("rwkv7", "rwkvag") if version == "v7" else ("rwkv6", "wkvrg")
    mix = "x_" if version == "v7" else "time_maa_"
    heads, size = raw["blocks.0.att." + ("r_k" if version == "v7" else "time_faaaa")].shape
    out: Arrays = {}
    for name, array in raw.items():
        if name in words:
            out[words[name]] = array
            continue
        _, number, *rest = name.split(".")
        blk, word = f"blk.{number}.", ".".join(rest)
        if word.startswith(("ln1", "ln2")):
            out[blk + word.replace("ln1", "attn_norm").replace("ln2", "attn_norm_2")] = array
        elif word.startswith("att.ln_x"):
            out[blk + word.replace("att.ln_x", "time_mix_ln")] = array
        elif word.endswith(".weight"):
            if word in ("att.output.weight", "ffn.value.weight") and rescale_every:
                array = array / 2 ** (int(number) // rescale_every)
            out[blk + word.replace("att.", "time_mix_").replace("ffn.", "channel_mix_")] = array
        elif word.startswith("ffn."):
            out[f"{blk}channel_mix_lerp_{word[-1]}.weight"] = array.reshape(-1)
        elif word == "att.time_maa_x":
            out[blk + "time_mix_lerp_x.weight"] = array.reshape(-1)
        elif word in [f"att.{mix}{letter}" for letter in letters]:
            fused = [
                raw[f"blocks.{number}.att.{mix}{letter}"].reshape(1, 1, -1) for letter in letters
            ]
            out[blk + "time_mix_lerp_fused.weight"] = np.stack(fused)
        elif version == "v7":
            array = array.T if _LOW_RANK_V7.search(name) else array.reshape(-1)
            if number == "0" and word[4] == "v":
                word, array = (
                    word,
                    out[f"{blk}time_mix_a{word[5]}.weight"],
                )  # llama.cpp has copies of a there
            out[f"{blk}time_mix_{word[4:]}.weight"] = array
        else:
            word = (
                word[4:].replace("time_maa_w", "time_mix_w").replace("time_decay", "time_mix_decay")
            )
            array = array.swapaxes(-1, -2) if word[-2:] in ("w1", "w2") else array.squeeze()
            out[blk + word.replace("time_faaaa", "time_mix_first") + ".weight"] = array
    settings = {
        "general.architecture": arch,
        "general.license": "apache-2.0",
        f"{arch}.block_count": n_layers(raw),
    }
    settings |= {
        f"{arch}.wkv.head_size": size,
        f"{arch}.embedding_length": heads * size,
        "general.alignment": 32,
    }
    settings |= {
        f"{arch}.attention.layer_norm_epsilon": 1e-5,
        "tokenizer.ggml.tokens": ["<s>", "a", "b"],
    }
    settings |= {"tokenizer.ggml.token_type": [1, 2, 3]}
    if version == "v6":
        settings[f"{arch}.rescale_every_n_layers"] = rescale_every
    return out, settings
