"""Model and state files in parts: a part is changed, and what depends on it is repaired."""

from __future__ import annotations

import functools
import json
import os
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tests.helpers.tiny_models import FORMS, pack_int4, read_tensors, rewrite, shape_of, write_model
from tests.helpers.vocabularies import pack, single_bytes
from tinyrwkv.file.header import HEADER_BYTES
from tinyrwkv.file.packed import make_header
from tinyrwkv.file.table import ALIGN, FILE_PAGE
from tinyrwkv.file.tensors import DTYPES
from tinyrwkv.versions.layout import VERSIONS

from .fuzzer import Random
from .mutate import array_changed, flipped, json_changed, whole

Change = Callable[[Random, "Parts"], None]


@dataclass
class Parts:
    """A file before it is put together.

    Attributes
    ----------
    metadata : dict
    tensors : list of (str, ndarray)
    wrong : dict
        Fields of the table that are not repaired: (tensor, key) to value.
    header : dict of int to bytes
        Bytes of the header that are not repaired, by their place.
    table_flip, last_flip : callable or None
        What is done to the text of the table, and to the whole file.
    """

    metadata: Any
    tensors: list[tuple[str, np.ndarray]]
    wrong: dict[tuple[int, str], Any] = field(default_factory=dict)
    header: dict[int, bytes] = field(default_factory=dict)
    table_flip: Callable[[bytes], bytes] | None = None
    last_flip: Callable[[bytes], bytes] | None = None

    def copy(self) -> Parts:
        """Return parts that can be changed."""
        return Parts(dict(self.metadata), list(self.tensors))

    def build(self) -> bytes:
        """Return the file: offsets, sizes and checksums are right but for what is wrong."""
        data = bytearray(FILE_PAGE)
        rows = []
        for number, (name, array) in enumerate(self.tensors):
            data += bytes(-len(data) % ALIGN)
            raw = np.ascontiguousarray(array).tobytes()
            row: Any = {"name": name, "dtype": _dtype(array), "shape": list(array.shape)}
            row |= {"offset": len(data), "nbytes": len(raw), "crc32": zlib.crc32(raw)}
            row |= {key: value for (at, key), value in self.wrong.items() if at == number}
            rows.append(row)
            data += raw
        data += bytes(-len(data) % ALIGN)
        table = {"metadata": self.metadata, "tensors": rows}
        text = json.dumps(table, separators=(",", ":")).encode()
        if self.table_flip is not None:
            text = self.table_flip(text)
        header = bytearray(make_header(text, len(data)))
        for place, value in self.header.items():
            header[place : place + len(value)] = value
        if self.header:
            header[60:HEADER_BYTES] = zlib.crc32(header[:60]).to_bytes(4, "little")
        data[:HEADER_BYTES] = header[:HEADER_BYTES]
        whole_file = bytes(data) + text
        return whole_file if self.last_flip is None else self.last_flip(whole_file)


def _dtype(array: np.ndarray) -> str:
    return next(name for name, dtype in DTYPES.items() if dtype == array.dtype)


def a_key(rng: Random, parts: Parts) -> None:
    """Change the metadata."""
    parts.metadata = json_changed(rng, parts.metadata)


def a_row(rng: Random, parts: Parts) -> None:
    """Change a field of the table."""
    at = rng.randrange(len(parts.tensors))
    _, array = parts.tensors[at]
    key = rng.choice(("name", "dtype", "shape", "offset", "nbytes", "crc32", "other"))
    if key == "shape":
        parts.wrong[at, key] = json_changed(rng, list(array.shape))
    elif key in ("name", "dtype"):
        others = [*(other for other, _ in parts.tensors), "", "a b", "x" * 201, *DTYPES, "f64"]
        parts.wrong[at, key] = rng.choice(others)
    else:
        parts.wrong[at, key] = json_changed(rng, whole(rng, array.nbytes))


def names_and_order(rng: Random, parts: Parts) -> None:
    """Leave a tensor out, repeat one, or exchange two."""
    at, other = (rng.randrange(len(parts.tensors)) for _ in range(2))
    kind = rng.randrange(4)
    if kind == 0 and len(parts.tensors) > 1:
        del parts.tensors[at]
    elif kind == 1:
        parts.tensors.insert(at, parts.tensors[other])
    elif kind == 2:
        parts.tensors[at], parts.tensors[other] = parts.tensors[other], parts.tensors[at]
    else:
        name = parts.tensors[at][0]
        renamed = name.replace("blocks.0", "blocks.1") if rng.random() < 0.5 else name + ".a"
        parts.tensors[at] = (renamed, parts.tensors[at][1])


def a_shape(rng: Random, parts: Parts) -> None:
    """Give a tensor another shape or type, with as many bytes as that needs."""
    at = rng.randrange(len(parts.tensors))
    name, array = parts.tensors[at]
    shape = list(array.shape)
    axis = rng.randrange(len(shape))
    shape[axis] = max(1, shape[axis] + rng.choice((-8, -1, 1, 8, 64)))
    if rng.random() < 0.2:
        shape = shape[::-1] if len(shape) > 1 else [1, *shape]
    dtype = rng.choice([*DTYPES.values()]) if rng.random() < 0.3 else array.dtype
    parts.tensors[at] = (name, np.resize(array, shape).astype(dtype))


def a_number(rng: Random, parts: Parts) -> None:
    """Change the values of a tensor."""
    at = rng.randrange(len(parts.tensors))
    name, array = parts.tensors[at]
    parts.tensors[at] = (name, array_changed(rng, array))


def the_header(rng: Random, parts: Parts) -> None:
    """Change a field of the header; its checksum stays right."""
    place, size = rng.choice(
        ((8, 2), (10, 2), (12, 4), (16, 8), (24, 8), (32, 8), (40, 8), (48, 4), (52, 8))
    )
    value = whole(rng, rng.choice((FILE_PAGE, 64, 1000))) % (1 << 8 * size)
    parts.header[place] = value.to_bytes(size, "little")


def the_text(rng: Random, parts: Parts) -> None:
    """Change the text of the table; the checksums stay right."""
    seed = rng.random()
    parts.table_flip = lambda text: flipped(Random(seed), text)


def any_byte(rng: Random, parts: Parts) -> None:
    """Change bytes of the file; no checksum is repaired."""
    seed = rng.random()
    parts.last_flip = lambda data: flipped(Random(seed), data)


CHANGES: tuple[Change, ...] = (
    *(a_key, a_key, a_row, names_and_order, a_shape, a_shape),
    *(a_number, a_number, the_header, the_text, any_byte),
)


def changed(rng: Random, parts: Parts, changes: tuple[Change, ...] = CHANGES) -> bytes:
    """Return a file with one to three changes."""
    parts = parts.copy()
    for _ in range(rng.choice((1, 1, 1, 2))):
        rng.choice(changes)(rng, parts)
    return parts.build()


def recipes() -> list[tuple[str, str, str]]:
    """Return arch, dtype and form of all tiny models."""
    dense = [(arch, dtype, "dense") for arch in VERSIONS for dtype in ("f32", "f16", "int8")]
    archs = ("v4", "v6", "v7", "v7a", "v8-rc00")
    forms = [(arch, "int8", form) for arch in archs for form in FORMS]
    packed = [(arch, "int4", "dense") for arch in ("v5.2", "v7", "v7a", "v8-rc00")]
    packed += [(arch, "int4", form) for arch in ("v7", "v7a") for form in FORMS]
    return [*dense, *forms, *packed, ("v5.2", "f32", "compressed")]


class Size(NamedTuple):
    """Sizes of a tiny model: heads have 8 channels; `low` is the rank of small matrices."""

    layers: int
    width: int
    ffn: int
    low: int


DENSE = (Size(2, 16, 24, 3), Size(1, 8, 1, 1), Size(3, 40, 65, 9))
COMPRESSED = (Size(2, 64, 24, 3), Size(1, 128, 65, 1))
PACKED = (Size(2, 64, 24, 3), Size(1, 448, 64, 1))
"""Sizes below, at and above what the kernels do in one step."""


@functools.lru_cache(None)
def model(arch: str, dtype: str, form: str, vocabulary: bool = False, variant: int = 0) -> Parts:
    """Return a tiny model in parts."""
    sizes = PACKED if dtype == "int4" else DENSE if form == "dense" else COMPRESSED
    size = sizes[variant % len(sizes)]
    vocab = 260 if vocabulary else 6 if sizes is DENSE else 70
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model")
        shape = shape_of(arch, size.layers, size.width, vocab, 8, size.ffn)
        write_model(path, shape, "int8" if dtype == "int4" else dtype, low=size.low)
        if form != "dense":
            rewrite(path, path, FORMS[form])
        if dtype == "int4":
            rewrite(path, path, pack_int4)
        metadata, tensors = read_tensors(path)
    if vocabulary:
        words = {257: b"ab", 258: b"abc", 259: "é".encode()}
        data, starts, ids = pack(single_bytes() | words)
        tensors |= {"tokenizer.bytes": np.frombuffer(data, np.uint8)}
        tensors |= {"tokenizer.starts": starts, "tokenizer.ids": ids}
    metadata["source"] = {"name": "a.pth", "sha256": 64 * "0", "license": "MIT"}
    step = {"technique": dtype, "params": {}, "report": {"seen_bytes": 5}}
    metadata["compression"] = [step]
    return Parts(metadata, [*tensors.items()])


def any_model(rng: Random) -> Parts:
    """Return one of the tiny models."""
    arch, dtype, form = rng.choice(recipes())
    return model(arch, dtype, form, vocabulary=rng.random() < 0.3, variant=rng.randrange(3))
