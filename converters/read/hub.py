"""Read the config.json that lies beside the weights of a model from a hub."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from tinyrwkv.errors import UnsupportedError, show

from .json_text import read_object
from .source import InputFile, Stated

CONFIG = "config.json"
MAX_CONFIG = 1 << 20  # bytes; a real one has 2 kB

# What the settings of transformers and of flash-linear-attention say about sizes.
_STATED = {
    "num_hidden_layers": "n_layer",
    "hidden_size": "n_embd",
    "intermediate_size": "n_ffn",
    "head_size": "head_size",
    "head_dim": "head_size",
    "vocab_size": "vocab_size",
    "layer_norm_epsilon": "ln_eps",
    "layer_norm_eps": "ln_eps",
    "norm_eps": "ln_eps",
}


def read_config(folder: str, open_file: Callable[[str], InputFile]) -> dict[str, Any]:
    """Return the settings of the model in a folder; none if it has no config.json.

    Raises
    ------
    FormatError
        The file is damaged or too large.
    UnsupportedError
        It is the model of another architecture.
    """
    path = os.path.join(folder, CONFIG)
    if not os.path.exists(path):
        return {}
    with open_file(path) as file:
        config = read_object(file, "configuration", MAX_CONFIG)
    kind = config.get("model_type")
    if isinstance(kind, str) and "rwkv" not in kind.lower():
        found, expected = f"a model of the type {show(kind)}", "an RWKV"
        sentence = f"{path} describes {found}, not {expected}"
        fix = "give the folder of an RWKV model"
        raise UnsupportedError(path, "'model_type'", found, expected, fix, sentence)
    return config


def stated(config: dict[str, Any]) -> tuple[Stated, ...]:
    """Return what the settings say about sizes that the tensors have too."""
    return tuple(
        Stated(size, f"'{key}' in {CONFIG}", config[key])
        for key, size in _STATED.items()
        if config.get(key) is not None
    )
