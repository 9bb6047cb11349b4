"""Fuzzers of the readers of foreign checkpoints."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pickletools
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

import tinyrwkv
from converters.write.convert import Adapter, convert
from converters.write.tuned_state import write_tuned_state
from tests.helpers.checkpoint_files import (
    GGMF_TYPES,
    GGUF_TYPES,
    K_TYPES,
    blocks,
    kinds,
    read_raw,
    safetensors,
)
from tests.helpers.checkpoints import VERSIONS, raw_checkpoint
from tests.helpers.dialects import to_ggmf, to_gguf
from tests.helpers.pth_writer import pickle_and_storages, write_pth

from .fuzzer import Fuzzer, Random
from .models import convert_and_run, fresh
from .mutate import Fields, array_changed, flipped, json_changed, whole

Arrays = dict[str, np.ndarray]


@functools.lru_cache(None)
def _raw(version: str, width: int = 8) -> Arrays:
    return raw_checkpoint(version, 1, width, 8, 4, n_ffn=width)


def _arrays(rng: Random, arrays: Arrays) -> Arrays:
    """Return the tensors of a checkpoint, now and then with one that is changed."""
    arrays = dict(arrays)
    if rng.random() < 0.6:
        return arrays
    name = rng.choice([*arrays])
    kind = rng.randrange(6)
    if kind == 0:
        arrays[name] = array_changed(rng, arrays[name])
    elif kind == 1:
        shape = [max(1, size + rng.choice((-1, 0, 0, 1))) for size in arrays[name].shape]
        arrays[name] = np.resize(arrays[name], shape)
    elif kind == 2:
        del arrays[name]
    elif kind == 3:
        arrays[rng.choice([*arrays]) + rng.choice(("", "x", ".a"))] = arrays.pop(name)
    return arrays


def _read(data: bytes, folder: str) -> None:
    path = fresh(folder, data)
    if zlib.crc32(data) % 16 == 0:
        convert_and_run(path, folder, "int8")
    else:
        read_raw(path)


def _sometimes(rng: Random, change: Callable[[Random, Any], Any], value: Any, chance: float) -> Any:
    return change(rng, value) if rng.random() < chance else value


def _make_safetensors(rng: Random) -> bytes:
    kind = rng.choice(("f32", "f16", "bf16"))
    data = safetensors(_arrays(rng, _raw(rng.choice(VERSIONS))), kind, {"format": "pt"})
    if rng.random() < 0.2:
        return flipped(rng, data)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    for _ in range(rng.choice((0, 1, 1, 2))):
        header = json_changed(rng, header)
    text = _sometimes(rng, flipped, json.dumps(header).encode(), 0.1)
    length = len(text) if rng.random() < 0.9 else whole(rng, len(text)) % (1 << 64)
    return length.to_bytes(8, "little") + text + _sometimes(rng, flipped, data[8 + length :], 0.1)


def _make_ggmf(rng: Random) -> bytes:
    version = rng.choice(VERSIONS)
    width = rng.choice((8, 32))
    arrays = _arrays(rng, to_ggmf(_raw(version, width), version))
    kinds_of_32 = ("f32", "f16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1")
    kind = rng.choice(kinds_of_32) if width == 32 else "f32"
    fields = Fields()
    fields.add("i i i i i i", 0x67676D66, 101, 4, width, 1, GGMF_TYPES[kind])
    for name, one in kinds(arrays, kind).items():
        array = arrays[name]
        fields.add("i i i", array.ndim, len(name), GGMF_TYPES[one])
        for size in array.shape[::-1]:
            fields.add("i", size)
        if one.startswith("q"):  # what is not finite has no blocks; bytes of them are changed later
            array = np.clip(np.nan_to_num(array), -1e3, 1e3)
        fields.add("s s", name.encode(), blocks(array, one))
    return _finish(rng, fields)


def _finish(rng: Random, fields: Fields) -> bytes:
    """Return a file of fields, with some changes."""
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        fields = fields.changed(rng)
    return _sometimes(rng, flipped, fields.pack(), 0.1)


_GGUF_KINDS: dict[int, tuple[str, ...]] = {
    8: ("f32",),
    32: ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"),
    256: tuple(K_TYPES),
}


def _make_gguf(rng: Random) -> bytes:
    version = rng.choice(("v6", "v7"))
    width = rng.choice((8, 32, 32, 256))
    arrays, settings = to_gguf(_raw(version, width), version)
    arrays = _arrays(rng, arrays)
    kind = rng.choice(_GGUF_KINDS[width])
    fields = Fields()
    fields.add("s I Q Q", b"GGUF", 3, len(arrays), len(settings))
    for name, value in settings.items():
        fields.add("t8", name.encode())
        _add_setting(fields, value)
    data = b""
    for name, one in kinds(arrays, kind).items():
        array = arrays[name]
        fields.add("t8 I", name.encode(), array.ndim)
        for size in array.shape[::-1]:
            fields.add("Q", size)
        fields.add("I Q", GGUF_TYPES[one], len(data))
        if one.startswith("q"):
            array = np.clip(np.nan_to_num(array), -1e3, 1e3)
        data += blocks(array, one)
        data += bytes(-len(data) % 32)
    fields.add("s s", bytes(-len(fields.pack()) % 32), data)
    return _finish(rng, fields)


def _add_setting(fields: Fields, value: Any) -> None:
    if isinstance(value, str):
        fields.add("I t8", 8, value.encode())
    elif isinstance(value, float):
        fields.add("I s", 6, np.float32(value).tobytes())
    elif isinstance(value, int):
        fields.add("I I", 4, value)
    elif isinstance(value[0], str):
        fields.add("I I Q", 9, 8, len(value))
        for text in value:
            fields.add("t8", text.encode())
    else:
        fields.add("I I Q s", 9, 5, len(value), np.array(value, "<i4").tobytes())


def _opcodes(pickle: bytes) -> list[bytes]:
    """Cut a pickle into its opcodes, each with its argument."""
    with warnings.catch_warnings():  # it decodes escapes that Python does not have
        warnings.simplefilter("ignore")
        places = [place for _, _, place in pickletools.genops(pickle)]
    ends = [*places[1:], len(pickle)]
    return [pickle[start:end] for start, end in zip(places, ends, strict=True)]  # type: ignore


PIECES = (
    *(bytes([code]) for code in b"}]()tub.RsaQNe0\x85\x86\x87\x88\x89\x93\x94"),
    *(b"h\0", b"h\1", b"h\5", b"K\0", b"K\1", b"J\xff\xff\xff\xff", b"\x8a\x08" + b"\xff" * 8),
    *(b"j\0\1\0\0", b"X\1\0\0\0a", b"ccollections\nOrderedDict\n", b"\x8b\4\0\0\0\0\0\0\x80"),
)


def _pickle_changed(rng: Random, pickle: bytes) -> bytes:
    """Return a pickle with an opcode changed, left out, repeated or moved."""
    opcodes = _opcodes(pickle)
    at = rng.randrange(len(opcodes))
    kind = rng.randrange(5)
    if kind == 0:
        del opcodes[at]
    elif kind == 1:
        opcodes[at:at] = opcodes[rng.randrange(len(opcodes)) :][: rng.choice((1, 2, 20))]
    elif kind == 2:
        opcodes.insert(at, rng.choice(PIECES))
    elif kind == 3:
        opcodes[at] = rng.choice(PIECES)
    elif len(opcodes[at]) > 1:
        code, argument = opcodes[at][:1], opcodes[at][1:]
        opcodes[at] = code + flipped(rng, argument)[: len(argument)].ljust(len(argument), b"\0")
    return b"".join(opcodes)


def _make_pth(rng: Random) -> bytes:
    kind = rng.choice(("f32", "f16", "bf16"))
    options = {"ordered": rng.random() < 0.3, "parameters": rng.random() < 0.3}
    pickle, storages = pickle_and_storages(
        _arrays(rng, _raw(rng.choice(VERSIONS))), kind, **options
    )
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        try:
            pickle = _pickle_changed(rng, pickle)
        except ValueError:  # an earlier change made it unreadable
            break
    parts = {"data.pkl": pickle, "byteorder": b"little"}
    parts |= {f"data/{i}": storage for i, storage in enumerate(storages)}
    fields, entries = Fields(), Fields()
    offset = 0
    for short, data in parts.items():
        name = f"a/{short}".encode()
        crc = zlib.crc32(data)
        fields.add("s H H H I I I I", b"PK\3\4", 0, 0, 0, 0, crc, len(data), len(data))
        fields.add("H H s s", len(name), 0, name, data)
        entries.add("s H H H H I", b"PK\1\2", 0, 0, 0, 0, 0)
        entries.add("I I I H H H", crc, len(data), len(data), len(name), 0, 0)
        entries.add("H H I I s", 0, 0, 0, offset, name)
        offset += 30 + len(name) + len(data)
    size = len(entries.pack())
    end = Fields()
    count = len(parts)
    end.add("s H H H H I I H", b"PK\5\6", 0, 0, count, count, size, offset, 0)
    if rng.random() < 0.5:
        part = rng.choice((fields, entries, entries, end))
        part.items = part.changed(rng).items
    return _sometimes(rng, flipped, fields.pack() + entries.pack() + end.pack(), 0.1)


LORA_BASE = "v7"


def _adapter(rng: Random) -> Arrays:
    """Return an adapter for the checkpoint of `LORA_BASE`, with a whole tensor in it."""
    raw = _raw(LORA_BASE)
    arrays = {"ln_out.bias": raw["ln_out.bias"]}
    for name in ("blocks.0.att.key", "head"):
        out, inputs = raw[f"{name}.weight"].shape
        arrays[f"{name}.lora_A"] = np.full((2, inputs), rng.random(), np.float32)
        arrays[f"{name}.lora_B"] = np.full((out, 2), 0.1, np.float32)
    return arrays


def _make_adapter(rng: Random) -> bytes:
    data = safetensors(_arrays(rng, _adapter(rng)))
    return _sometimes(rng, flipped, data, 0.2)


def _merge(data: bytes, folder: str) -> None:
    base, output = os.path.join(folder, "base.pth"), os.path.join(folder, "output")
    if not os.path.exists(base):
        write_pth(base, _raw(LORA_BASE))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(output)
    convert(base, output, adapter=Adapter(fresh(folder, data)))
    with tinyrwkv.load(output, verify=True) as model:
        model.forward(0)


def _make_tuned(rng: Random) -> bytes:
    arrays = {"blocks.0.att.time_state": np.full((1, 8, 8), rng.random(), np.float32)}
    arrays["beside"] = np.ones(3, np.float32)
    return _sometimes(rng, flipped, safetensors(_arrays(rng, arrays)), 0.2)


def _write_tuned(data: bytes, folder: str) -> None:
    model, output = os.path.join(folder, "model"), os.path.join(folder, "output")
    if not os.path.exists(model):
        write_pth(f"{model}.pth", _raw(LORA_BASE))
        convert(f"{model}.pth", model)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(output)
    write_tuned_state(fresh(folder, data), output, model)
    with tinyrwkv.load(model) as owner:
        owner.forward(0, tinyrwkv.State.load(output, owner))


FUZZERS = {
    "adapter": Fuzzer(_make_adapter, _merge),
    "tuned": Fuzzer(_make_tuned, _write_tuned),
    "pth": Fuzzer(_make_pth, _read),
    "safetensors": Fuzzer(_make_safetensors, _read),
    "gguf": Fuzzer(_make_gguf, _read),
    "ggmf": Fuzzer(_make_ggmf, _read),
}
