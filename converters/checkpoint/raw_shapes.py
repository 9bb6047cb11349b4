"""The names and shapes of the tensors of a BlinkDL .pth, version by version."""

from __future__ import annotations

from typing import Any

from tinyrwkv.versions.layout import FACTORED

from ..read.source import SourceTensor

Shape = tuple[int, ...]


def ranks_of(tensors: dict[str, SourceTensor], arch: str) -> dict[str, int]:
    """Return the inner sizes of the low-rank matrices, which each checkpoint chooses."""
    names = {"v6": {"D": "0.att.time_maa_w2", "E": "0.att.time_decay_w2"}}.get(arch, {})
    if arch == "v7":
        names = {letter: f"{'1' if letter == 'v' else '0'}.att.{letter}2" for letter in "wavg"}
    shapes = {
        letter: tensors[f"blocks.{name}"].shape
        for letter, name in names.items()
        if f"blocks.{name}" in tensors
    }
    return {letter: shape[-2] for letter, shape in shapes.items() if len(shape) >= 2}


def raw_shapes(
    config: dict[str, Any], ranks: dict[str, int], first: str = "time_faaaa"
) -> dict[str, Shape]:
    """Return the names and shapes of a BlinkDL .pth.

    Parameters
    ----------
    config : dict
    ranks : dict
        ``D`` and ``E`` of v6; ``w``, ``a``, ``v``, ``g`` of v7.
    first : str
        The name of v5's bonus, "time_first" or "time_faaaa".
    """
    arch, C, F, V = config["arch"], config["n_embd"], config["n_ffn"], config["vocab_size"]
    shapes: dict[str, Shape] = {
        "emb.weight": (V, C),
        "blocks.0.ln0.weight": (C,),
        "blocks.0.ln0.bias": (C,),
    }
    for i in range(config["n_layer"]):
        block = f"blocks.{i}."
        shapes |= {
            block + name: (C,) for name in ("ln1.weight", "ln1.bias", "ln2.weight", "ln2.bias")
        }
        att = _att_v7(config, ranks, i) if arch == "v7" else _att(config, ranks, first)
        shapes |= {f"{block}att.{name}": shape for name, shape in att.items()}
        shapes |= {
            f"{block}att.{name}.weight": (C, C) for name in ("receptance", "key", "value", "output")
        }
        ffn: dict[str, Shape] = {"key.weight": (F, C), "value.weight": (C, F)}
        if arch == "v7":
            ffn["x_k"] = (1, 1, C)
        else:
            ffn["receptance.weight"] = (C, C)
            ffn |= {
                f"{'time_maa_' if arch == 'v6' else 'time_mix_'}{letter}": (1, 1, C)
                for letter in "kr"
            }
        shapes |= {f"{block}ffn.{name}": shape for name, shape in ffn.items()}
    return shapes | {"ln_out.weight": (C,), "ln_out.bias": (C,), "head.weight": (V, C)}


def factored(shapes: dict[str, Shape], tensors: dict[str, SourceTensor]) -> dict[str, Shape]:
    """Return the shapes with factors, and perhaps a diagonal, where a checkpoint has them in place of a matrix."""
    found: dict[str, Shape] = {}
    for name, shape in shapes.items():
        first = tensors.get(name + ".a")
        if first is None or not name.endswith(FACTORED):
            found[name] = shape
            continue
        rank, diagonal = first.shape[0] if first.shape else 0, name.removesuffix("weight") + "diag"
        found |= {name + ".a": (rank, shape[1]), name + ".b": (shape[0], rank)}
        found |= {diagonal: (shape[0],)} if diagonal in tensors else {}
    return found


def _att(config: dict[str, Any], ranks: dict[str, int], first: str) -> dict[str, Shape]:
    arch, C, H, N = config["arch"], config["n_embd"], config["n_head"], config["head_size"]
    if arch == "v4":
        shapes: dict[str, Shape] = {"time_decay": (C,), "time_first": (C,)}
        return shapes | {f"time_mix_{letter}": (1, 1, C) for letter in "kvr"}
    shapes = {"ln_x.weight": (C,), "ln_x.bias": (C,)}
    if arch != "v5.0":
        shapes["gate.weight"] = (C, C)
    if arch != "v6":
        decays = (H, N) if arch == "v5.2" else (H,)
        mixes = "kvr" if arch == "v5.0" else "kvrg"
        return (
            shapes
            | {"time_decay": decays, first: decays}
            | {f"time_mix_{m}": (1, 1, C) for m in mixes}
        )
    D, E = ranks.get("D", 0), ranks.get("E", 0)
    shapes |= {f"time_maa_{letter}": (1, 1, C) for letter in "xwkvrg"}
    shapes |= {
        "time_maa_w1": (C, 5 * D),
        "time_maa_w2": (5, D, C),
        "time_decay": (1, 1, C),
        "time_faaaa": (H, N),
    }
    return shapes | {"time_decay_w1": (C, E), "time_decay_w2": (E, C)}


def _att_v7(config: dict[str, Any], ranks: dict[str, int], layer: int) -> dict[str, Shape]:
    C, H, N = config["n_embd"], config["n_head"], config["head_size"]
    shapes: dict[str, Shape] = {"ln_x.weight": (C,), "ln_x.bias": (C,), "r_k": (H, N)}
    shapes |= {name: (1, 1, C) for name in (*(f"x_{letter}" for letter in "rwkvag"), "k_k", "k_a")}
    for letter in "wag" if layer == 0 else "wavg":
        rank = ranks.get(letter, 0)
        shapes |= {f"{letter}1": (C, rank), f"{letter}2": (rank, C)}
        if letter != "g":
            shapes[letter + "0"] = (1, 1, C)
    return shapes
