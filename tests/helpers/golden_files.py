"""Checkpoints and answers in tests/golden, written by make_golden.py from the official package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FOLDER = Path(__file__).parents[1] / "golden"


class Golden(NamedTuple):
    """One file.

    Attributes
    ----------
    raw : dict of str to ndarray, float32
        Tensors by their names in a BlinkDL checkpoint; every value is a bfloat16.
    tokens : list of int
    logits : dict of int to ndarray, float32, shape (V,)
        After the first 1, 2 and all tokens.
    logits_of_bf16_file : ndarray, float32, shape (V,)
        After all tokens, when the package reads the same values from a file saved as bfloat16.
    state : ndarray, float32, shape (S,)
        After all tokens, as a model file's program lays it out.
    """

    raw: dict[str, np.ndarray]
    tokens: list[int]
    logits: dict[int, np.ndarray]
    logits_of_bf16_file: np.ndarray
    state: np.ndarray


def read_golden(version: str) -> Golden:
    """Read tests/golden/<version>.npz."""
    with np.load(FOLDER / f"{version}.npz") as file:
        arrays = dict(file)
    raw, logits = {}, {}
    for name, x in arrays.items():
        kind, _, rest = name.partition(".")
        if kind == "raw":
            raw[rest] = widen(x)
        elif kind == "logits":
            logits[int(rest)] = x
    tokens, state = arrays["tokens"].tolist(), file_state(arrays, version)
    return Golden(raw, tokens, logits, arrays["bf16_file"], state)


TUNED = ("v5.0", "v5.1", "v5.2", "v6", "v7")
"""The versions whose states can be tuned."""


def time_states(raw: Mapping[str, np.ndarray], heads: int = 4, size: int = 16) -> dict[str, Any]:
    """Return a random tuned state for each layer of a checkpoint, as state tuning names them."""
    random = np.random.default_rng(23)
    layers = sum(name.endswith(".ln1.weight") for name in raw)
    shape = heads, size, size
    return {
        f"blocks.{layer}.att.time_state": bf16(random.standard_normal(shape))
        for layer in range(layers)
    }


def read_tuned(version: str) -> dict[int, np.ndarray]:
    """Return the logits after 1 and 2 tokens and after all, from `time_states` on.

    The checkpoint and the tokens are those of `read_golden`.
    """
    with np.load(FOLDER / "tuned_states.npz") as file:
        names = [name for name in file.files if name.startswith(f"{version}.logits.")]
        return {int(name.rpartition(".")[2]): file[name] for name in names}


def file_state(official: Mapping[str, np.ndarray], version: str) -> np.ndarray:
    """Lay out a state of the official package as ours.

    It is flat, layer by layer: att_x, ffn_x, then the state of the WKV operator.
    """
    if version == "v4":
        wkv = [official[name] for name in ("aa", "bb", "pp")]  # (L, C) each
    elif version in ("v7", "v7a", "v8-rc00"):
        wkv = [official["wkv"].swapaxes(2, 3)]  # (L, H, key, value)
    else:
        wkv = [official["wkv"]]  # (L, H, key, value)
    parts = [official["att_x"], official["ffn_x"], *wkv]
    by_layer = [part.reshape(len(part), -1) for part in parts]
    return np.concatenate(by_layer, axis=1).reshape(-1)


def bf16(x: np.ndarray) -> np.ndarray:
    """Round float32 to the nearest bfloat16, ties to even; the result is float32."""
    bits = x.astype(np.float32).view(np.uint32)
    even = (bits >> 16) & 1
    rounded = (bits + 0x7FFF + even) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)


def narrow(x: np.ndarray) -> np.ndarray:
    """Return the upper halves of float32 numbers whose lower halves are zero."""
    return (x.view(np.uint32) >> 16).astype(np.uint16)


def widen(halves: np.ndarray) -> np.ndarray:
    """Undo `narrow`."""
    return (halves.astype(np.uint32) << 16).view(np.float32)
