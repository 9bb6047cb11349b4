"""The names and shapes of the tensors of a BlinkDL .pth, version by version."""

from __future__ import annotations

from typing import NamedTuple

from tinyrwkv.file.config import ModelSizes
from tinyrwkv.versions.forms import DEEP_RANK, LIKE_V7
from tinyrwkv.versions.layout import FACTORED

from ..read.source import SourceTensor

Shape = tuple[int, ...]
Shapes = dict[str, Shape]

# The tensors of v6 that show the inner sizes of low-rank matrices, which a checkpoint chooses.
_RANKS_V6 = {"D": "blocks.0.att.time_maa_w2", "E": "blocks.0.att.time_decay_w2"}
# The same for v7; layer 0 has no v2.
_RANKS_V7 = {
    "w": "blocks.0.att.w2",
    "a": "blocks.0.att.a2",
    "v": "blocks.1.att.v2",
    "g": "blocks.0.att.g2",
}


class Sizes(NamedTuple):
    """The version and the sizes of a model, as in the metadata of a model file.

    Attributes
    ----------
    arch : str
        "v4", "v5.0", "v5.1", "v5.2", "v6", "v7", "v7a" or "v8-rc00".
    n_layer, n_embd, n_ffn, n_head, head_size, vocab_size : int
    """

    arch: str
    n_layer: int
    n_embd: int
    n_ffn: int
    n_head: int
    head_size: int
    vocab_size: int

    @classmethod
    def of(cls, config: ModelSizes) -> Sizes:
        """Return the sizes in the metadata of a model."""
        return cls(
            arch=config["arch"],
            n_layer=config["n_layer"],
            n_embd=config["n_embd"],
            n_ffn=config["n_ffn"],
            n_head=config["n_head"],
            head_size=config["head_size"],
            vocab_size=config["vocab_size"],
        )


def ranks_of(tensors: dict[str, SourceTensor], arch: str) -> dict[str, int]:
    """Return the inner sizes of the low-rank matrices, which each checkpoint chooses.

    Parameters
    ----------
    tensors : dict of str to SourceTensor
        Under raw names.
    arch : str

    Returns
    -------
    dict of str to int
        As `raw_shapes` takes them; what can't be told is left out.
    """
    names = _RANKS_V7 if arch in LIKE_V7 else {"v6": _RANKS_V6}.get(arch, {})
    ranks = {}
    for letter, name in names.items():
        if name in tensors and len(tensors[name].shape) >= 2:
            ranks[letter] = tensors[name].shape[-2]
    return ranks


def raw_shapes(sizes: Sizes, ranks: dict[str, int], bonus: str = "time_faaaa") -> Shapes:
    """Return the names and shapes of a BlinkDL .pth.

    Parameters
    ----------
    sizes : Sizes
    ranks : dict of str to int
        ``D`` and ``E`` of v6; ``w``, ``a``, ``v``, ``g`` from v7 on.
    bonus : str
        The name of v5's bonus, "time_first" or "time_faaaa".

    Returns
    -------
    dict of str to tuple of int
    """
    C, V = sizes.n_embd, sizes.vocab_size
    shapes: Shapes = {"emb.weight": (V, C), **_norm("blocks.0.ln0", C)}
    for layer in range(sizes.n_layer):
        block = f"blocks.{layer}."
        shapes |= _norm(block + "ln1", C)
        shapes |= _norm(block + "ln2", C)
        time_mix = _time_mix(sizes, ranks, bonus, layer)
        shapes |= {f"{block}att.{name}": shape for name, shape in time_mix.items()}
        channel_mix = _channel_mix(sizes)
        shapes |= {f"{block}ffn.{name}": shape for name, shape in channel_mix.items()}
    shapes |= _norm("ln_out", C)
    shapes["head.weight"] = (V, C)
    return shapes


def factored(shapes: Shapes, tensors: dict[str, SourceTensor]) -> Shapes:
    """Return the shapes, with factors for the matrices that a checkpoint stores as factors.

    Parameters
    ----------
    shapes : dict of str to tuple of int
    tensors : dict of str to SourceTensor
        Of the checkpoint: ``X.weight.a``, ``X.weight.b`` and perhaps ``X.diag`` for ``X.weight``.

    Returns
    -------
    dict of str to tuple of int
    """
    found: Shapes = {}
    for name, shape in shapes.items():
        first = tensors.get(name + ".a")
        if first is None or not name.endswith(FACTORED):
            found[name] = shape
            continue
        rows, columns = shape
        rank = first.shape[0] if first.shape else 0
        found[name + ".a"] = (rank, columns)
        found[name + ".b"] = (rows, rank)
        diagonal = name.removesuffix("weight") + "diag"
        if diagonal in tensors:
            found[diagonal] = (rows,)
    return found


def _norm(name: str, C: int) -> Shapes:
    return {name + ".weight": (C,), name + ".bias": (C,)}


def _mixes(prefix: str, letters: str, C: int) -> Shapes:
    """Return the coefficients of token shifts."""
    return {prefix + letter: (1, 1, C) for letter in letters}


def _channel_mix(sizes: Sizes) -> Shapes:
    C, F = sizes.n_embd, sizes.n_ffn
    shapes: Shapes = {"key.weight": (F, C), "value.weight": (C, F)}
    if sizes.arch in LIKE_V7:
        return shapes | _mixes("x_", "k", C) | _deep_embedding(sizes)
    prefix = "time_maa_" if sizes.arch == "v6" else "time_mix_"
    return shapes | {"receptance.weight": (C, C)} | _mixes(prefix, "kr", C)


def _deep_embedding(sizes: Sizes) -> Shapes:
    """Return what the channel mix of a layer has for each token, and the matrices beside it."""
    C, F, V, D = sizes.n_embd, sizes.n_ffn, sizes.vocab_size, DEEP_RANK
    if sizes.arch == "v7a":
        table: Shapes = {"s_emb.weight": (V, D * D), "s_emb_x.weight": (D * D, C)}
        return table | {"s0": (1, 1, F), "s1": (C, D), "s2": (D, F)}
    return {"enn.weight": (V, C)} if sizes.arch == "v8-rc00" else {}


def _time_mix(sizes: Sizes, ranks: dict[str, int], bonus: str, layer: int) -> Shapes:
    C = sizes.n_embd
    if sizes.arch == "v4":
        shapes = _time_mix_v4(C)
    elif sizes.arch == "v6":
        shapes = _norm("ln_x", C) | _time_mix_v6(sizes, ranks)
    elif sizes.arch in LIKE_V7:
        shapes = _norm("ln_x", C) | _time_mix_v7(sizes, ranks, layer)
    else:
        shapes = _norm("ln_x", C) | _time_mix_v5(sizes, bonus)
    projections = ("receptance", "key", "value", "output")
    return shapes | {name + ".weight": (C, C) for name in projections}


def _time_mix_v4(C: int) -> Shapes:
    return {"time_decay": (C,), "time_first": (C,), **_mixes("time_mix_", "kvr", C)}


def _time_mix_v5(sizes: Sizes, bonus: str) -> Shapes:
    C, H, N = sizes.n_embd, sizes.n_head, sizes.head_size
    decay = (H, N) if sizes.arch == "v5.2" else (H,)
    shapes: Shapes = {"time_decay": decay, bonus: decay}
    if sizes.arch == "v5.0":
        return shapes | _mixes("time_mix_", "kvr", C)
    return {"gate.weight": (C, C)} | shapes | _mixes("time_mix_", "kvrg", C)


def _time_mix_v6(sizes: Sizes, ranks: dict[str, int]) -> Shapes:
    C, H, N = sizes.n_embd, sizes.n_head, sizes.head_size
    D, E = ranks.get("D", 0), ranks.get("E", 0)
    return {
        "gate.weight": (C, C),
        **_mixes("time_maa_", "xwkvrg", C),
        "time_maa_w1": (C, 5 * D),
        "time_maa_w2": (5, D, C),
        "time_decay": (1, 1, C),
        "time_faaaa": (H, N),
        "time_decay_w1": (C, E),
        "time_decay_w2": (E, C),
    }


def _time_mix_v7(sizes: Sizes, ranks: dict[str, int], layer: int) -> Shapes:
    C, H, N = sizes.n_embd, sizes.n_head, sizes.head_size
    shapes: Shapes = {"r_k": (H, N), **_mixes("x_", "rwkvag", C), **_mixes("k_", "ka", C)}
    # Layer 0 makes the first value, so it has none to mix with.
    for letter in "wag" if layer == 0 else "wavg":
        rank = ranks.get(letter, 0)
        shapes[letter + "1"] = (C, rank)
        shapes[letter + "2"] = (rank, C)
        if letter != "g":
            shapes[letter + "0"] = (1, 1, C)
    return shapes
