"""Which tensors a model of each version has, and with which shapes."""

from __future__ import annotations

from typing import Any

VERSIONS = ("v4", "v5.0", "v5.1", "v5.2", "v6", "v7")

# The inputs of time_mix that token_shift makes, in the order of the rows of att.token_shift.
SHIFTED = {"v4": "rkv", "v5.0": "rkv", "v5.1": "rkvg", "v5.2": "rkvg", "v6": "rkvwg", "v7": "rwkvag"}

Shape = tuple["int | str", ...]


def tensor_shapes(config: dict[str, Any]) -> dict[str, Shape]:
    """List the tensors of a model: name to shape, in the order of first use.

    Parameters
    ----------
    config : dict
        Metadata of the model file: arch, n_layer, n_embd, n_ffn, n_head, head_size, vocab_size.

    Returns
    -------
    dict
        Sizes are numbers, or a string for an inner rank that the file is free to choose; the same string stands for
        the same number. Names that end in ``.weight`` with two sizes are matrices ``[out, in]``, stored in float32,
        float16, or int8 with one float32 scale for each row; the rest are float32 vectors.
    """
    arch, C, F, V = config["arch"], config["n_embd"], config["n_ffn"], config["vocab_size"]
    shapes: dict[str, Shape] = {"emb.weight": (V, C)}
    for layer in range(config["n_layer"]):
        att, ffn = f"blocks.{layer}.att.", f"blocks.{layer}.ffn."
        shapes |= {f"blocks.{layer}.{name}": (C,) for name in ("ln1.weight", "ln1.bias")}
        shapes[att + "token_shift"] = (len(SHIFTED[arch]), C)
        shapes |= {att + name: shape for name, shape in _time_mix(arch, C, first=layer == 0).items()}
        shapes |= {f"blocks.{layer}.{name}": (C,) for name in ("ln2.weight", "ln2.bias")}
        shapes[ffn + "token_shift"] = (1 if arch == "v7" else 2, C)
        shapes |= {ffn + "key.weight": (F, C), ffn + "value.weight": (C, F)}
        if arch != "v7":
            shapes[ffn + "receptance.weight"] = (C, C)
    return shapes | {"ln_out.weight": (C,), "ln_out.bias": (C,), "head.weight": (V, C)}


def _time_mix(arch: str, C: int, first: bool) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {f"{name}.weight": (C, C) for name in ("receptance", "key", "value", "output")}
    if arch == "v4":
        return shapes | {"time_decay": (C,), "time_first": (C,)}
    shapes |= {"ln_x.weight": (C,), "ln_x.bias": (C,)}
    if arch == "v7":
        for name in "wag" if first else "wagv":
            shapes |= {f"{name}1.weight": (f"low {name}", C), f"{name}2.weight": (C, f"low {name}")}
            if name != "g":
                shapes[f"{name}0"] = (C,)
        return shapes | {"k_k": (C,), "k_a": (C,), "r_k": (C,)}
    shapes |= {"time_decay": (C,), "bonus": (C,)}
    if arch != "v5.0":
        shapes["gate.weight"] = (C, C)
    if arch == "v6":
        shapes |= {"time_maa_x": (C,), "time_maa_w1.weight": ("5 low", C), "time_maa_w2.weight": (5 * C, "low")}
        shapes |= {"time_decay_w1.weight": ("low w", C), "time_decay_w2.weight": (C, "low w")}
    return shapes
