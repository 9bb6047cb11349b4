"""Write safetensors, GGUF and rwkv.cpp files, and read checkpoints of any kind.

The readers are tested with these.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from converters.checkpoint.identify import identify
from converters.read.open import open_source
from converters.write.recipe import recipes
from tests.helpers.pth_writer import stored
from tinyrwkv.errors import TinyRWKVError

Arrays = Mapping[str, np.ndarray]


def safetensors(
    arrays: Arrays, dtype: str = "f32", metadata: dict[str, str] | None = None
) -> bytes:
    """Return a safetensors file."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    data = b""
    for name, array in arrays.items():
        raw = stored(array, dtype)
        shape, offsets = list(array.shape), [len(data), len(data) + len(raw)]
        header[name] = {"dtype": dtype.upper(), "shape": shape, "data_offsets": offsets}
        data += raw
    return with_header(header, data)


def with_header(header: Any, data: bytes = b"") -> bytes:
    """Return a safetensors file with any header at all."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def blocks(array: np.ndarray, kind: str) -> bytes:
    """Return an array as ggml stores it: floats, or blocks of 32 or 256 small numbers.

    The types of blocks of 256 are not fitted to the array: it only chooses the random bytes.
    """
    if kind in ("f32", "f16", "bf16"):
        return stored(array, kind)
    if kind in K_TYPES:
        return _random_blocks(array, kind)
    x = np.asarray(array, np.float32).reshape(-1, 32)
    if kind == "q8_0":
        d = (np.abs(x).max(axis=1) / 127).astype("<f2")
        q = np.rint(x / _divisor(d)).astype("i1")
        return b"".join(d[i].tobytes() + q[i].tobytes() for i in range(len(x)))
    top = 15 if kind.startswith("q4") else 31
    if kind.endswith("_1"):
        low, high = x.min(axis=1), x.max(axis=1)
    else:
        high = np.abs(x).max(axis=1)
        low = -high
    d = ((high - low) / top).astype("<f2")
    m = low.astype("<f2") if kind.endswith("_1") else -(top // 2 + 1) * d.astype(np.float32)
    q = np.rint((x - m.astype(np.float32)[:, None]) / _divisor(d))
    out = b""
    for i, row in enumerate(np.clip(q, 0, top).astype(int)):
        offset = m[i].tobytes() if kind.endswith("_1") else b""
        high_bits = struct.pack("<I", sum(int(n >> 4) << j for j, n in enumerate(row)))
        out += d[i].tobytes() + offset + (high_bits if top == 31 else b"") + _nibbles(row & 15)
    return out


def _divisor(d: np.ndarray) -> np.ndarray:
    """Return scales to divide rows by; 1 for 0."""
    return np.where(d, d, 1).astype(np.float32)[:, None]


def _nibbles(low: np.ndarray) -> bytes:
    """Return 32 numbers of 4 bits."""
    return bytes(int(low[j] | low[j + 16] << 4) for j in range(16))


# The bytes of a block of 256, and where its scales are, which are float16.
K_TYPES = {
    "q2_k": (84, (80, 82)),
    "q3_k": (110, (108,)),
    "q4_k": (144, (0, 2)),
    "q5_k": (176, (0, 2)),
    "q6_k": (210, (208,)),
}


def _random_blocks(array: np.ndarray, kind: str) -> bytes:
    """Return random blocks for an array of a size, with usual scales."""
    nbytes, scales = K_TYPES[kind]
    rng = np.random.default_rng(zlib.crc32(np.ascontiguousarray(array).tobytes()))
    raw = rng.integers(0, 256, (array.size // 256, nbytes), dtype=np.uint8)
    for at in scales:
        raw[:, at : at + 2] = np.array([2**-12], "<f2").view(np.uint8)
    return raw.tobytes()


GGMF_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 7, "q5_1": 8, "q8_0": 9}
GGUF_TYPES = {
    **{"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8},
    **{"q2_k": 10, "q3_k": 11, "q4_k": 12, "q5_k": 13, "q6_k": 14, "bf16": 30},
}


def kinds(arrays: Arrays, kind: str) -> dict[str, str]:
    """Return the kind of every tensor: big matrices as `kind`, the rest float32."""
    width = 256 if kind in K_TYPES else 32
    found = {}
    for name, array in arrays.items():
        is_big = array.ndim == 2 and name.endswith(".weight") and array.shape[1] % width == 0
        found[name] = kind if is_big else "f32"
    return found


def ggmf(arrays: Arrays, n_layer: int, kind: str = "f32", version: int = 101) -> bytes:
    """Return an rwkv.cpp file."""
    n_vocab, n_embed = arrays["emb.weight"].shape
    out = struct.pack("<6i", 0x67676D66, version, n_vocab, n_embed, n_layer, GGMF_TYPES[kind])
    for name, one in kinds(arrays, kind).items():
        array = arrays[name]
        out += struct.pack("<3i", array.ndim, len(name), GGMF_TYPES[one])
        out += struct.pack(f"<{array.ndim}i", *array.shape[::-1])
        out += name.encode() + blocks(array, one)
    return out


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _setting(name: str, value: Any) -> bytes:
    """Return a setting with its type: whole number, decimal number, text or list."""
    if isinstance(value, str):
        data = struct.pack("<I", 8) + _text(value)
    elif isinstance(value, float):
        data = struct.pack("<If", 6, value)
    elif isinstance(value, int):
        data = struct.pack("<II", 4, value)
    elif isinstance(value[0], str):
        data = struct.pack("<IIQ", 9, 8, len(value)) + b"".join(_text(one) for one in value)
    else:
        data = struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)
    return _text(name) + data


def gguf(
    arrays: Arrays, settings: Mapping[str, Any], kind: str = "f32", alignment: int = 32
) -> bytes:
    """Return a GGUF file."""
    out = struct.pack("<4sIQQ", b"GGUF", 3, len(arrays), len(settings))
    out += b"".join(_setting(name, value) for name, value in settings.items())
    data = b""
    for name, one in kinds(arrays, kind).items():
        array = arrays[name]
        out += _text(name) + struct.pack(f"<I{array.ndim}Q", array.ndim, *array.shape[::-1])
        out += struct.pack("<IQ", GGUF_TYPES[one], len(data))
        data += blocks(array, one)
        data += bytes(-len(data) % alignment)
    return out + bytes(-len(out) % alignment) + data


def with_vocabulary(
    settings: Mapping[str, Any], tokens: Mapping[int, bytes], vocab_size: int
) -> dict[str, Any]:
    """Return the settings of a GGUF file with a vocabulary as llama.cpp writes it.

    The ids of the tokens are 1, 2, ...; the rest is padding.
    """
    written = ["<s>", *(repr(tokens[id])[2:-1] for id in sorted(tokens))]
    padding = range(len(written), vocab_size)
    return {
        **settings,
        "tokenizer.ggml.model": "rwkv",
        "tokenizer.ggml.tokens": [*written, *(f"[PAD{i}]" for i in padding)],
        "tokenizer.ggml.token_type": [3] + [1] * len(tokens) + [5] * len(padding),
    }


def gguf_parts(
    arrays: Arrays, settings: Mapping[str, Any], count: int, kind: str = "f32"
) -> list[bytes]:
    """Return the files of a model that is split: the first has the settings, and no tensor."""
    names = [*arrays]
    step = -(-len(names) // max(1, count - 1))
    shares = [[], *(names[first : first + step] for first in range(0, len(names), step))]
    parts = []
    for number in range(count):
        split = {
            "split.no": number,
            "split.count": count,
            "split.tensors.count": len(names),
        }
        said = {**settings, **split} if number == 0 else split
        parts.append(gguf({name: arrays[name] for name in shares[number]}, said, kind))
    return parts


def write(path: str | os.PathLike[str], data: bytes) -> str:
    """Write a file and return its name."""
    with open(path, "wb") as file:
        file.write(data)
    return os.fspath(path)


def read_plain(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the tensors of a checkpoint as the file names them."""
    with open_source(path) as source:
        return {name: tensor.load() for name, tensor in source.tensors.items()}


def read_raw(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the sizes and the raw tensors of a checkpoint of any format."""
    with open_source(path) as source:
        checkpoint = identify(source)
        return checkpoint.config, {
            name: tensor.load() for name, tensor in checkpoint.tensors.items()
        }


def model_tensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the tensors that a model file made from a checkpoint has."""
    with open_source(path) as source:
        checkpoint = identify(source)
        return {one.name: np.concatenate(list(one.blocks())) for one in recipes(checkpoint)}


def survives(path: str, data: bytes) -> str:
    """Read hostile bytes to the end; return the message of the refusal, "" where there is none."""
    write(path, data)
    try:
        read_raw(path)
    except TinyRWKVError as error:
        assert path in str(error)
        return str(error)
    return ""


def flipped(data: bytes, flips: list[tuple[float, int]]) -> bytes:
    """Return `data` with bytes changed: each flip is a place from 0 to 1 and a mask."""
    out = bytearray(data)
    for place, mask in flips:
        out[int(place * (len(out) - 1))] ^= mask
    return bytes(out)
