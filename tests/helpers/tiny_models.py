"""Tiny random model files of every version and type, and copies with something changed."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.random_model import is_packed, packed, sizes, write
from converters.techniques.pack_codes import pack_codes
from converters.techniques.preview_head import fit_preview, places_of
from tests.helpers.vocabularies import pack, single_bytes
from tinyrwkv.file import quant
from tinyrwkv.file.mapped import open_file
from tinyrwkv.file.quant import dequantize_rows, quantize_rows
from tinyrwkv.file.writer import Writer
from tinyrwkv.versions import reference
from tinyrwkv.versions.forms import LIKELY
from tinyrwkv.versions.layout import bundle_shape

DTYPES = ("f32", "f16", "int8", "int4")
BACKENDS = ("native", "numba", "numpy")

# Entries that overlap, begin with each other and cut characters in two.
WORDS = {
    **{
        257 + i: word.encode()
        for i, word in enumerate(
            ["ab", "abc", "bc", "ca", "\n\n", "User:", " the", "é", "日本", "aab"]
        )
    },
    270: "日".encode()[:2],
    271: b"\xa5a",  # the last byte of U+65E5 and a letter
    272: "🙂".encode()[1:],
}
VOCABULARY = single_bytes() | WORDS
VOCAB_SIZE = 300  # more ids than entries: some stand for no text


def tokenizer_tensors(vocabulary: Mapping[int, bytes] = VOCABULARY) -> dict[str, np.ndarray]:
    """Return a vocabulary as the tensors of a model file."""
    data, starts, ids = pack(dict(vocabulary))
    return {
        "tokenizer.bytes": np.frombuffer(data, np.uint8),
        "tokenizer.starts": starts,
        "tokenizer.ids": ids,
    }


def shape_of(
    arch: str,
    layers: int = 2,
    width: int = 64,
    vocab: int = VOCAB_SIZE,
    head_size: int = 16,
    ffn: int = 96,
) -> dict:
    """Return the metadata of a tiny model."""
    return sizes(arch, layers, width, vocab, head_size, ffn)


def read_tensors(path: str | pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the metadata and copies of the tensors of a file."""
    with open_file(path) as file:
        return dict(file.metadata), {name: file[name].copy() for name in file.tensors}


def write_tensors(
    path: str | pathlib.Path, metadata: dict[str, Any], tensors: Mapping[str, np.ndarray]
) -> str:
    """Write a file; return its path."""
    with Writer(path, metadata) as writer:
        for name, array in tensors.items():
            writer.add(name, array)
    return str(path)


def write_model(
    path: str | pathlib.Path, config: dict[str, Any], dtype: str, seed: int = 0, low: int = 16
) -> str:
    """Write a random model with a vocabulary; return its path."""
    write(str(path), config, dtype, seed, low)
    if config["vocab_size"] < VOCAB_SIZE:
        return str(path)
    metadata, tensors = read_tensors(path)
    return write_tensors(path, metadata, tensors | tokenizer_tensors())


def rewrite(
    source: str | pathlib.Path,
    target: str | pathlib.Path,
    change: Callable[[dict[str, Any], dict[str, np.ndarray]], None],
) -> str:
    """Write a copy of a file after ``change(metadata, tensors)``; return its path."""
    metadata, tensors = read_tensors(source)
    change(metadata, tensors)
    return write_tensors(target, metadata, tensors)


def compress(metadata: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    """Put factors and sparse values in the place of dense matrices.

    All factored projections but the key are of the enhanced form.
    """
    rng = np.random.default_rng(3)
    C = metadata["n_embd"]

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    def add(name: str, array: np.ndarray) -> None:
        if metadata["dtype"] == "int8":
            tensors[name], tensors[name + ".scale"] = quantize_rows(array)
        else:
            tensors[name] = array.astype({"f32": np.float32, "f16": np.float16}[metadata["dtype"]])

    for layer in range(metadata["n_layer"]):
        rank = 9 + layer
        for part in ("att.receptance", "att.key", "att.gate", "ffn.receptance"):
            name = f"blocks.{layer}.{part}"
            if tensors.pop(f"{name}.weight", None) is None:
                continue
            tensors.pop(f"{name}.weight.scale", None)
            add(f"{name}.weight.a", normal(rank, C) / np.float32(C**0.5))
            add(f"{name}.weight.b", normal(C, rank) / np.float32(3))
            if part != "att.key":
                tensors[f"{name}.diag"] = normal(C)
        if metadata["dtype"] == "int8":
            name = f"blocks.{layer}.ffn.value."
            dense = dequantize_rows(
                tensors.pop(name + "weight"), tensors.pop(name + "weight.scale")
            )
            q, scale = quantize_rows(dense)
            tensors[name + "rows"] = np.ascontiguousarray(q.T)
            tensors[name + "rows.scale"] = scale


def predict(
    metadata: dict[str, Any], tensors: dict[str, np.ndarray], threshold: float = -np.inf
) -> None:
    """Put bundles of neurons, and a 1-bit predictor, in the place of int8 matrices.

    By default the predictor chooses all neurons.
    """
    C, F = metadata["n_embd"], metadata["n_ffn"]
    for layer in range(metadata["n_layer"]):
        ffn = f"blocks.{layer}.ffn."
        key = tensors.pop(ffn + "key.weight")  # (F, C)
        value = tensors.pop(ffn + "value.weight")  # (C, F)
        tensors[ffn + "predictor.signs"] = pack_codes((key >= 0).astype(np.uint8), 1)
        tensors[ffn + "predictor.threshold"] = np.full(F, threshold, np.float32)
        bundles = np.zeros(bundle_shape(F, C), np.int8)
        per_page = max(bundles.shape[1] // (2 * C), 1)
        for f in range(F):
            page, place = divmod(f, per_page)
            neuron = np.concatenate([key[f], value[:, f]])
            bundles[page, 2 * C * place : 2 * C * (place + 1)] = neuron
        tensors[ffn + "bundles"] = bundles
        tensors[ffn + "bundles.key_scale"] = tensors.pop(ffn + "key.weight.scale")
        tensors[ffn + "bundles.value_scale"] = tensors.pop(ffn + "value.weight.scale")


def network(
    metadata: dict[str, Any], tensors: dict[str, np.ndarray], threshold: float = -np.inf
) -> None:
    """Do as `predict`, with small networks besides the 1-bit weights.

    The 1-bit weights choose no neuron; by default the networks choose all.
    """
    rng = np.random.default_rng(4)
    C, F = metadata["n_embd"], metadata["n_ffn"]
    predict(metadata, tensors, np.inf)
    for layer in range(metadata["n_layer"]):
        predictor = f"blocks.{layer}.ffn.predictor."
        hidden = 11 + layer
        for name, shape in (("fc1.weight", (hidden, C)), ("fc2.weight", (F, hidden))):
            scale = predictor + name + ".scale"
            tensors[predictor + name] = rng.integers(-127, 128, shape).astype(np.int8)
            tensors[scale] = rng.uniform(1e-3, 1e-2, shape[0]).astype(np.float32)
        tensors[predictor + "mlp_threshold"] = np.full(F, threshold, np.float32)


def preview(metadata: dict[str, Any], tensors: dict[str, np.ndarray], rows: int = 40) -> None:
    """Put a preview and exact rows in the place of an int8 head."""
    V, C = metadata["vocab_size"], metadata["n_embd"]
    weight = dequantize_rows(tensors.pop("head.weight"), tensors.pop("head.weight.scale"))
    states = np.random.default_rng(4).standard_normal((500, C)).astype(np.float32)
    levels = ((V, 8, 4), (min(V, V // 2 + 3), 16, 2))
    parts, _ = fit_preview(weight, states, levels=levels, rows=rows)
    tensors |= {f"head.{name}": array for name, array in parts.items()}


def sort_head(metadata: dict[str, Any], tensors: dict[str, np.ndarray], likely: int = 40) -> None:
    """Put the rows of some tokens of the head into a matrix of their own."""
    order = np.random.default_rng(5).permutation(metadata["vocab_size"])
    for end in ("weight", "weight.scale"):
        if f"head.{end}" in tensors:
            rows = tensors[f"head.{end}"]
            tensors[f"head.likely.{end}"] = rows[order[:likely]]
            tensors[f"head.{end}"] = rows[order[likely:]]
    tensors["head.places"] = places_of(order)


def pack_int4(metadata: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    """Pack matrices of int8 as int4, in whatever form they are; `is_packed` says which.

    The likely rows of a head keep their int8.
    """
    metadata["dtype"] = "int4"
    for name in [*tensors]:
        in_int8 = f"{name}.scale" in tensors and name != LIKELY
        if in_int8 and is_packed(name, tensors[name].shape):
            scale = tensors.pop(f"{name}.scale")
            of_rows = scale if name.endswith(".rows") else scale[:, None]
            tensors[name] = packed((tensors[name] * of_rows).astype(np.float32))
        elif name.endswith("ffn.bundles"):
            tensors[name] = _packed_bundles(metadata, tensors, name)


def _packed_bundles(
    metadata: dict[str, Any], tensors: dict[str, np.ndarray], name: str
) -> np.ndarray:
    C, F = metadata["n_embd"], metadata["n_ffn"]
    key_scale, value_scale = tensors.pop(name + ".key_scale"), tensors.pop(name + ".value_scale")
    bundles = tensors[name]
    per_page = max(bundles.shape[1] // (2 * C), 1)
    neurons = bundles[:, : 2 * C * per_page].reshape(-1, 2, C)[:F].astype(np.float32)
    rows = np.concatenate(
        [packed(neurons[:, 0] * key_scale[:, None]), packed(neurons[:, 1] * value_scale)], axis=1
    )  # (F, bytes of a neuron)
    pages, width = bundle_shape(F, rows.shape[1] // 2)
    per_page = max(width // rows.shape[1], 1)
    padded = np.zeros((pages * per_page, rows.shape[1]), np.uint8)
    padded[:F] = rows
    found = np.zeros((pages, width), np.uint8)
    found[:, : per_page * rows.shape[1]] = padded.reshape(pages, -1)
    return found


class Oracle:
    """The reference over a model file, token by token."""

    def __init__(self, path: str | pathlib.Path) -> None:
        with open_file(path) as file:
            self.config = dict(file.metadata)
            self.weights = quant.dequantize(file)

    def run(self, tokens: Any, state: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the logits after each token (T, V) and the last state."""
        state = reference.new_state(self.config) if state is None else state
        rows = []
        for token in tokens:
            logits, state = reference.forward(self.weights, self.config, int(token), state)
            rows.append(logits)
        return np.stack(rows), state


def error(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference in standard deviations of what is expected."""
    # v4's state begins with -1e30
    found = np.clip(found.astype(np.float64), -1e6, 1e6)
    expected = np.clip(expected.astype(np.float64), -1e6, 1e6)
    return float(np.abs(found - expected).max() / max(expected.std(), 1e-30))


# Largest errors of logits in standard deviations, about three times what was measured over these
# models. Floats are added in another order; float16 is widened without loss; int8 rounds
# activations to 16 bits.
BOUNDS = {"f32": 5e-5, "f16": 5e-5, "int8": 5e-3, "int4": 5e-3}


def is_exact(backend: str) -> bool:
    """Tell whether a backend computes the same bits for all cuts into calls and threads."""
    return backend != "numpy"


FORMS = {
    "compressed": compress,
    "predicted": predict,
    "networked": network,
    "previewed": preview,
    "sorted": sort_head,
}
"""What may be done to a tiny model after it was made, by name."""
