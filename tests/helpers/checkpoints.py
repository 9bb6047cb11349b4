"""Tiny random checkpoints of every version, in raw BlinkDL names and shapes."""

from __future__ import annotations

import numpy as np

VERSIONS = ("v4", "v5.0", "v5.1", "v5.2", "v6", "v7", "v7a", "v8-rc00")

# Ranks of the low-rank matrices: all different, so that a mix-up of two shows in the shapes.
V6_MIX_RANK, V6_DECAY_RANK = 8, 16
V7_RANKS = {"w": 16, "a": 12, "v": 8, "g": 24}

DEEP = ("v7a", "v8-rc00")
"""Those with a deep embedding."""

LIKE_V7 = ("v7", *DEEP)
"""Those with the time mix of v7."""

Arrays = dict[str, np.ndarray]


def raw_checkpoint(
    version: str,
    n_layer: int = 2,
    n_embd: int = 64,
    head_size: int = 16,
    vocab_size: int = 256,
    seed: int = 0,
    n_ffn: int | None = None,
) -> Arrays:
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
        Width of the channel mix. Default: ``int(3.5 * n_embd) // 32 * 32`` (v5.2, v6), else
        ``4 * n_embd``.

    Returns
    -------
    dict[str, ndarray, float32]
        BlinkDL name to array, in the order of a training checkpoint.
    """
    C, V = n_embd, vocab_size
    F = n_ffn or (int(C * 3.5) // 32 * 32 if version in ("v5.2", "v6") else 4 * C)
    random = _Random(seed)
    raw: Arrays = {"emb.weight": random.normal(V, C, std=0.05)}
    for i in range(n_layer):
        block = f"blocks.{i}."
        raw |= random.layer_norm(block + "ln1", C)
        raw |= random.layer_norm(block + "ln2", C)
        if i == 0:
            raw |= random.layer_norm(block + "ln0", C)
        raw |= _prefixed(block + "att.", _time_mix(random, version, C, head_size))
        raw |= _prefixed(block + "ffn.", _channel_mix(random, version, C, F))
        raw |= _prefixed(block + "ffn.", _deep_embedding(random, version, C, F, V))
    raw |= random.layer_norm("ln_out", C, mean=1.5)
    raw["head.weight"] = random.matrix(V, C, gain=1.5)
    return raw


class _Random:
    """A generator of the arrays that a checkpoint has."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)

    def normal(self, *shape: int, mean: float = 0.0, std: float = 1.0) -> np.ndarray:
        return (mean + std * self.generator.standard_normal(shape)).astype(np.float32)

    def matrix(self, rows: int, columns: int, gain: float = 1.0) -> np.ndarray:
        return self.normal(rows, columns, std=gain / np.sqrt(columns))

    def low_rank(self, rows: int, columns: int, gain: float) -> np.ndarray:
        """Return a matrix that is applied from the right."""
        return self.normal(rows, columns, std=gain / np.sqrt(rows))

    def layer_norm(self, name: str, C: int, mean: float = 1.0) -> Arrays:
        weight = self.normal(C, mean=mean, std=0.1 * mean)
        return {name + ".weight": weight, name + ".bias": self.normal(C, std=0.1)}

    def mixes(self, prefix: str, letters: str, C: int, mean: float = 0.5) -> Arrays:
        """Return the coefficients of token shifts."""
        return {prefix + one: self.normal(1, 1, C, mean=mean, std=0.3) for one in letters}


def _prefixed(prefix: str, arrays: Arrays) -> Arrays:
    return {prefix + name: array for name, array in arrays.items()}


def _time_mix(random: _Random, version: str, C: int, N: int) -> Arrays:
    if version == "v4":
        raw = _v4(random, C)
    elif version == "v6":
        raw = _v6(random, C, N)
    elif version in LIKE_V7:
        raw = _v7(random, C, N)
    else:
        raw = _v5(random, version, C, N)
    for name in ("receptance", "key", "value", "output"):
        raw[name + ".weight"] = random.matrix(C, C)
    if version not in ("v4", "v5.0", *LIKE_V7):
        raw["gate.weight"] = random.matrix(C, C)
    if version != "v4":
        raw |= random.layer_norm("ln_x", C, mean=0.4)
    return raw


def _channel_mix(random: _Random, version: str, C: int, F: int) -> Arrays:
    if version in LIKE_V7:
        raw = random.mixes("x_", "k", C)
    else:
        raw = random.mixes("time_maa_" if version == "v6" else "time_mix_", "kr", C)
    raw["key.weight"] = random.matrix(F, C)
    if version not in LIKE_V7:
        raw["receptance.weight"] = random.matrix(C, C)
    raw["value.weight"] = random.matrix(C, F)
    return raw


def _deep_embedding(random: _Random, version: str, C: int, F: int, V: int) -> Arrays:
    if version == "v8-rc00":
        return {"enn.weight": random.normal(V, C, mean=1.0, std=0.4)}
    if version != "v7a":
        return {}
    return {
        "s_emb.weight": random.normal(V, 32 * 32, std=0.1),
        "s_emb_x.weight": random.matrix(32 * 32, C, gain=0.15),
        "s0": random.normal(1, 1, F, mean=1.0, std=0.2),
        "s1": random.low_rank(C, 32, 1.0),
        "s2": random.low_rank(32, F, 1.0),
    }


def _v4(random: _Random, C: int) -> Arrays:
    return {
        "time_decay": random.normal(C, mean=-2.0, std=1.5),
        "time_first": random.normal(C, mean=0.5, std=0.5),
        **random.mixes("time_mix_", "kvr", C),
    }


def _v5(random: _Random, version: str, C: int, N: int) -> Arrays:
    H = C // N
    shape = (H, N) if version == "v5.2" else (H,)
    raw = random.mixes("time_mix_", "kvr" if version == "v5.0" else "kvrg", C)
    raw["time_decay"] = random.normal(*shape, mean=-2.5, std=1.5)
    # The two names have two meanings: the exponential of time_first, but time_faaaa as it is.
    if version == "v5.0":
        raw["time_first"] = random.normal(*shape, mean=-1.0, std=0.5)
    else:
        raw["time_faaaa"] = random.normal(*shape, mean=0.2, std=0.2)
    return raw


def _v6(random: _Random, C: int, N: int) -> Arrays:
    D, E = V6_MIX_RANK, V6_DECAY_RANK
    return {
        **random.mixes("time_maa_", "xwkvrg", C, mean=0.4),
        "time_maa_w1": random.low_rank(C, 5 * D, 0.7),
        "time_maa_w2": random.normal(5, D, C, std=0.3 / np.sqrt(D)),
        "time_decay": random.normal(1, 1, C, mean=-2.5, std=1.5),
        "time_decay_w1": random.low_rank(C, E, 0.7),
        "time_decay_w2": random.low_rank(E, C, 0.7),
        "time_faaaa": random.normal(C // N, N, mean=0.2, std=0.2),
    }


def _v7(random: _Random, C: int, N: int) -> Arrays:
    raw = random.mixes("x_", "rwkvag", C)
    raw["w0"] = random.normal(1, 1, C, mean=-2.0, std=1.5)
    raw["a0"] = random.normal(1, 1, C, mean=-0.2, std=0.4)
    raw["v0"] = random.normal(1, 1, C, mean=0.7, std=0.3)
    for name, rank in V7_RANKS.items():
        raw[name + "1"] = random.low_rank(C, rank, 0.8)
        raw[name + "2"] = random.low_rank(rank, C, 1.5 if name == "g" else 0.8)
    raw["k_k"] = random.normal(1, 1, C, mean=0.7, std=0.15)
    raw["k_a"] = random.normal(1, 1, C, mean=1.0, std=0.1)
    raw["r_k"] = random.normal(C // N, N, mean=-0.02, std=0.2)
    return raw
