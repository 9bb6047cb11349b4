"""Fuzz checkpoints in several files: shards with an index, parts of a GGUF, folders of hubs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zlib
from typing import Any

from converters.write.convert import convert
from tests.helpers.checkpoint_files import gguf_parts, read_raw, safetensors, with_vocabulary, write
from tests.helpers.checkpoints import VERSIONS, raw_checkpoint
from tests.helpers.dialects import to_fla, to_gguf, to_hugging_face

from .fuzzer import Fuzzer, Random
from .mutate import flipped, json_changed, whole

Files = dict[str, bytes]

VOCAB = b"".join(b"%d %a 1\n" % (b + 1, bytes([b])) for b in range(256))
SIZE = 8, 260  # channels, tokens


def _pack(files: Files) -> bytes:
    """Return several files as the bytes of one input."""
    sizes = [[name, len(data)] for name, data in files.items()]
    return json.dumps(sizes).encode() + b"\n" + b"".join(files.values())


def _unpack(data: bytes) -> Files:
    head, _, rest = data.partition(b"\n")
    files = {}
    for name, size in json.loads(head):
        files[name], rest = rest[:size], rest[size:]
    return files


def _make_hub(rng: Random) -> bytes:
    version = rng.choice(VERSIONS)
    width, vocab_size = SIZE
    raw = raw_checkpoint(version, 1, width, 8, vocab_size, n_ffn=width)
    if version == "v7":
        raw = rng.choice((to_fla, dict))(raw)
    elif rng.random() < 0.5:
        raw = to_hugging_face(raw)
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    places = {name: rng.choice(names) for name in raw}
    files = {
        file: safetensors({name: x for name, x in raw.items() if places[name] == file})
        for file in sorted(set(places.values()))
    }
    index: Any = {"metadata": {"total_size": 1}, "weight_map": places}
    config: Any = {
        **{"model_type": "rwkv7", "hidden_size": width, "num_hidden_layers": 1},
        **{"intermediate_size": width, "vocab_size": vocab_size, "norm_eps": 1e-5},
        "tie_word_embeddings": rng.random() < 0.5,
    }
    part = rng.randrange(6)
    if part == 0:
        index = json_changed(rng, index)
    elif part == 1:
        config = json_changed(rng, config)
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    files["config.json"] = json.dumps(config).encode()
    files["rwkv_vocab_v1.txt"] = VOCAB
    return _pack(_damaged(rng, files))


def _make_parts(rng: Random) -> bytes:
    version = rng.choice(("v6", "v7"))
    width, vocab_size = SIZE
    raw = raw_checkpoint(version, 1, width, 8, vocab_size, n_ffn=width)
    arrays, settings = to_gguf(raw, version)
    said = with_vocabulary(settings, {b + 1: bytes([b]) for b in range(256)}, vocab_size)
    if rng.random() < 0.3:
        tokens = said["tokenizer.ggml.tokens"]
        tokens[rng.randrange(len(tokens))] = rng.choice(("\\", "\\x", "a", "", "\\xff", "é" * 900))
    if rng.random() < 0.2:
        name = rng.choice([name for name, value in said.items() if type(value) is int])
        said[name] = whole(rng, said[name]) % (1 << 32)
    count = rng.choice((2, 3))
    files = {
        f"a-{number:05}-of-{count:05}.gguf": data
        for number, data in enumerate(gguf_parts(arrays, said, count), 1)
    }
    return _pack(_damaged(rng, files))


def _damaged(rng: Random, files: Files) -> Files:
    """Return the files, often with one that is changed, exchanged or gone."""
    kind = rng.randrange(6)
    name, other = rng.choice([*files]), rng.choice([*files])
    if kind <= 1:
        files[name] = flipped(rng, files[name])
    elif kind == 2:
        files[name], files[other] = files[other], files[name]
    elif kind == 3:
        del files[name]
    return files


def _read(data: bytes, folder: str) -> None:
    """Read a folder, or one of its files, which leads to the others."""
    inside = os.path.join(folder, "hub")
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(inside)
    os.mkdir(inside)
    files = _unpack(data)
    for name, content in files.items():
        write(os.path.join(inside, name), content)
    choice = zlib.crc32(data)
    path = inside
    if choice % 3 == 0:
        path = os.path.join(inside, min(files))
    if choice % 4 == 0:
        convert(path, os.path.join(folder, "output"))
    else:
        read_raw(path)


FUZZERS = {
    "hub": Fuzzer(_make_hub, _read),
    "parts": Fuzzer(_make_parts, _read),
}
