"""Random channel mixes, and tiny models with other forms of theirs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np

import tinyrwkv
from converters.techniques.predict_ffn import Inputs
from converters.techniques.sparse_ffn import Neurons
from tests.helpers.tiny_models import rewrite
from tinyrwkv.file.quant import quantize_rows

Tensors = dict[str, np.ndarray]
TOKENS = [3, 70, 299, 0, 257, 5, 5, 98, 120, 44, 2, 61, 280, 7, 19, 33, 150, 151, 12, 64]


def channel_mix(seed: int = 0, F: int = 96, C: int = 64, n: int = 400) -> tuple[Neurons, Inputs]:
    """Return random neurons that fire seldom, and inputs that hang together."""
    random = np.random.default_rng(seed)
    mixing = random.standard_normal((C, C)) * 0.85 ** np.arange(C)
    x = random.standard_normal((n, C)) @ mixing.T + random.standard_normal(C) * 0.3
    key = random.standard_normal((F, C)) - 0.5 * x.mean(axis=0)
    value = random.standard_normal((C, F)) * random.uniform(0.5, 2, F)
    scale = (np.abs(x).max(axis=1) / 32512).astype(np.float32)
    inputs = Inputs(np.rint(x / scale[:, None]).astype(np.int16), scale)
    return Neurons(
        *quantize_rows(key.astype(np.float32)), *quantize_rows(value.astype(np.float32))
    ), inputs


def replaced(source: str, target: Any, make: Callable[[str, Neurons], Tensors]) -> str:
    """Write a copy of a model whose channel mixes are what ``make(prefix, neurons)`` returns."""

    def change(metadata: dict[str, Any], tensors: Tensors) -> None:
        for i in range(metadata["n_layer"]):
            ffn = f"blocks.{i}.ffn."
            names = ("key.weight", "key.weight.scale", "value.weight", "value.weight.scale")
            neurons = Neurons(*(tensors.pop(ffn + name) for name in names))
            tensors.update({ffn + end: array for end, array in make(ffn, neurons).items()})

    return rewrite(source, target, change)


def logits(path: str, backend: str, threads: int = 1) -> np.ndarray:
    """Return the logits of a model after each of TOKENS."""
    with contextlib.closing(tinyrwkv.load(path, backend=backend, threads=threads)) as model:
        return model.forward(TOKENS, logits="all")[0]
