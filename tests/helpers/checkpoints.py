"""Tiny random checkpoints of every version, in raw BlinkDL names and shapes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

VERSIONS = ("v4", "v5.0", "v5.1", "v5.2", "v6", "v7")

# Ranks of the low-rank matrices: all different, so that a mix-up of two shows in the shapes.
V6_MIX_RANK, V6_DECAY_RANK = 8, 16
V7_RANKS = {"w": 16, "a": 12, "v": 8, "g": 24}


def raw_checkpoint(
    version: str,
    n_layer: int = 2,
    n_embd: int = 64,
    head_size: int = 16,
    vocab_size: int = 256,
    seed: int = 0,
    n_ffn: int | None = None,
) -> dict[str, np.ndarray]:
    """Make a random checkpoint with the magnitudes of trained ones.

    Decays spread over slow and fast channels, layer norms differ from one, nothing saturates: a
    wrong permutation, sign or orientation anywhere changes the logits by far more than rounding.

    Parameters
    ----------
    version : str
        One of `VERSIONS`.
    n_layer, n_embd, head_size, vocab_size : int
        Sizes; ``head_size`` divides ``n_embd`` and is ignored by v4.
    seed : int
        Of the generator: the same arguments give the same arrays.
    n_ffn : int, optional
        Width of the channel mix. Default: ``4 * n_embd`` (v4, v5.0, v5.1, v7), else
        ``int(3.5 * n_embd) // 32 * 32``.

    Returns
    -------
    dict[str, ndarray, float32]
        BlinkDL name to array, in the order of a training checkpoint.
    """
    rng = np.random.default_rng(seed)
    C, N, V = n_embd, head_size, vocab_size
    F = n_ffn or (int(C * 3.5) // 32 * 32 if version in ("v5.2", "v6") else 4 * C)

    def normal(*shape: int, mean: float = 0.0, std: float = 1.0) -> np.ndarray:
        return (mean + std * rng.standard_normal(shape)).astype(np.float32)

    def matrix(rows: int, columns: int, gain: float = 1.0) -> np.ndarray:
        return normal(rows, columns, std=gain / np.sqrt(columns))

    def layer_norm(name: str, mean: float = 1.0) -> None:
        raw[name + ".weight"] = normal(C, mean=mean, std=0.1 * mean)
        raw[name + ".bias"] = normal(C, std=0.1)

    raw: dict[str, np.ndarray] = {"emb.weight": normal(V, C, std=0.05)}
    time_mix = {"v4": _v4, "v6": _v6, "v7": _v7}.get(version, _v5)
    for i in range(n_layer):
        block = f"blocks.{i}."
        layer_norm(block + "ln1")
        layer_norm(block + "ln2")
        if i == 0:
            layer_norm(block + "ln0")
        time_mix(raw, block + "att.", version, C, N, normal, matrix)
        for name in ("receptance", "key", "value", "output"):
            raw[f"{block}att.{name}.weight"] = matrix(C, C)
        if version not in ("v4", "v5.0", "v7"):
            raw[block + "att.gate.weight"] = matrix(C, C)
        if version != "v4":
            layer_norm(block + "att.ln_x", mean=0.4)
        mixes = {"v6": ("time_maa_k", "time_maa_r"), "v7": ("x_k",)}.get(
            version, ("time_mix_k", "time_mix_r")
        )
        for name in mixes:
            raw[f"{block}ffn.{name}"] = normal(1, 1, C, mean=0.5, std=0.3)
        raw[block + "ffn.key.weight"] = matrix(F, C)
        if version != "v7":
            raw[block + "ffn.receptance.weight"] = matrix(C, C)
        raw[block + "ffn.value.weight"] = matrix(C, F)
    layer_norm("ln_out", mean=1.5)
    raw["head.weight"] = matrix(V, C, gain=1.5)
    return raw


def _v4(
    raw: dict[str, np.ndarray],
    att: str,
    version: str,
    C: int,
    N: int,
    normal: Callable,
    matrix: Callable,
) -> None:
    raw[att + "time_decay"] = normal(C, mean=-2.0, std=1.5)
    raw[att + "time_first"] = normal(C, mean=0.5, std=0.5)
    for name in "kvr":
        raw[f"{att}time_mix_{name}"] = normal(1, 1, C, mean=0.5, std=0.3)


def _v5(
    raw: dict[str, np.ndarray],
    att: str,
    version: str,
    C: int,
    N: int,
    normal: Callable,
    matrix: Callable,
) -> None:
    H = C // N
    shape = (H, N) if version == "v5.2" else (H,)
    for name in "kvr" if version == "v5.0" else "kvrg":
        raw[f"{att}time_mix_{name}"] = normal(1, 1, C, mean=0.5, std=0.3)
    raw[att + "time_decay"] = normal(*shape, mean=-2.5, std=1.5)
    # The two names have two meanings: the exponential of time_first, but time_faaaa as it is.
    if version == "v5.0":
        raw[att + "time_first"] = normal(*shape, mean=-1.0, std=0.5)
    else:
        raw[att + "time_faaaa"] = normal(*shape, mean=0.2, std=0.2)


def _v6(
    raw: dict[str, np.ndarray],
    att: str,
    version: str,
    C: int,
    N: int,
    normal: Callable,
    matrix: Callable,
) -> None:
    for name in "xwkvrg":
        raw[f"{att}time_maa_{name}"] = normal(1, 1, C, mean=0.4, std=0.3)
    D, E = V6_MIX_RANK, V6_DECAY_RANK
    raw[att + "time_maa_w1"] = normal(C, 5 * D, std=0.7 / np.sqrt(C))
    raw[att + "time_maa_w2"] = normal(5, D, C, std=0.3 / np.sqrt(D))
    raw[att + "time_decay"] = normal(1, 1, C, mean=-2.5, std=1.5)
    raw[att + "time_decay_w1"] = normal(C, E, std=0.7 / np.sqrt(C))
    raw[att + "time_decay_w2"] = normal(E, C, std=0.7 / np.sqrt(E))
    raw[att + "time_faaaa"] = normal(C // N, N, mean=0.2, std=0.2)


def _v7(
    raw: dict[str, np.ndarray],
    att: str,
    version: str,
    C: int,
    N: int,
    normal: Callable,
    matrix: Callable,
) -> None:
    for name in "rwkvag":
        raw[f"{att}x_{name}"] = normal(1, 1, C, mean=0.5, std=0.3)
    raw[att + "w0"] = normal(1, 1, C, mean=-2.0, std=1.5)
    raw[att + "a0"] = normal(1, 1, C, mean=-0.2, std=0.4)
    raw[att + "v0"] = normal(1, 1, C, mean=0.7, std=0.3)
    for name, rank in V7_RANKS.items():
        raw[f"{att}{name}1"] = normal(C, rank, std=0.8 / np.sqrt(C))
        raw[f"{att}{name}2"] = normal(rank, C, std=(1.5 if name == "g" else 0.8) / np.sqrt(rank))
    raw[att + "k_k"] = normal(1, 1, C, mean=0.7, std=0.15)
    raw[att + "k_a"] = normal(1, 1, C, mean=1.0, std=0.1)
    raw[att + "r_k"] = normal(C // N, N, mean=-0.02, std=0.2)
