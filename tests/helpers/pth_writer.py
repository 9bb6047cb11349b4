"""Write .pth files without torch, as torch.save does.

The files are the same byte for byte, but for torch's random serialization id.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

STORAGES = {
    "f32": "FloatStorage",
    "f16": "HalfStorage",
    "bf16": "BFloat16Storage",
    "f64": "DoubleStorage",
}


def bf16(array: np.ndarray) -> np.ndarray:
    """Round to bfloat16, to nearest even, as uint16 patterns."""
    bits = np.ascontiguousarray(array, "<f4").view("<u4").astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def stored(array: np.ndarray, dtype: str) -> bytes:
    """Return the bytes of an array stored as f32, f16, bf16 or f64."""
    if dtype == "bf16":
        return bf16(array).tobytes()
    return np.ascontiguousarray(array, {"f32": "<f4", "f16": "<f2", "f64": "<f8"}[dtype]).tobytes()


class View(NamedTuple):
    """A tensor that is not its whole storage in C order.

    ``storage`` is flat; offset and stride count elements.
    """

    storage: np.ndarray
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Pickle:
    """The opcodes of protocol 2 that a state dict needs, memoised as Python's own pickler does."""

    def __init__(self) -> None:
        self.out = bytearray(b"\x80\x02")
        self.memo: dict[Any, int] = {}
        self.count = 0

    def put(self, key: Any = None) -> None:
        if key is not None:
            self.memo[key] = self.count
        short = self.count < 256
        self.out += b"q" + bytes([self.count]) if short else b"r" + struct.pack("<I", self.count)
        self.count += 1

    def got(self, key: Any) -> bool:
        index = self.memo.get(key)
        if index is None:
            return False
        self.out += b"h" + bytes([index]) if index < 256 else b"j" + struct.pack("<I", index)
        return True

    def name(self, module: str, attribute: str) -> None:
        if not self.got((module, attribute)):
            self.out += f"c{module}\n{attribute}\n".encode()
            self.put((module, attribute))

    def text(self, text: str) -> None:
        if not self.got(text):
            data = text.encode("utf-8", "surrogatepass")
            self.out += b"X" + struct.pack("<I", len(data)) + data
            self.put(text)

    def number(self, n: int) -> None:
        if 0 <= n < 256:
            self.out += b"K" + bytes([n])
        elif 0 <= n < 65536:
            self.out += b"M" + struct.pack("<H", n)
        elif -(2**31) <= n < 2**31:
            self.out += b"J" + struct.pack("<i", n)
        else:
            data = n.to_bytes(n.bit_length() // 8 + 1, "little", signed=True)
            self.out += b"\x8a" + bytes([len(data)]) + data

    def numbers(self, numbers: tuple[int, ...]) -> None:
        if not numbers:
            self.out += b")"
            return
        self.out += b"(" * (len(numbers) > 3)
        for n in numbers:
            self.number(n)
        self.out += b"t" if len(numbers) > 3 else bytes([0x84 + len(numbers)])
        self.put()

    def ordered_dict(self) -> None:
        self.name("collections", "OrderedDict")
        self.out += b")R"
        self.put()

    def tensor(self, key: str, storage: str, numel: int, view: View, parameter: bool) -> None:
        if parameter:
            self.name("torch._utils", "_rebuild_parameter")
        self.name("torch._utils", "_rebuild_tensor_v2")
        self.out += b"(("
        self.text("storage")
        self.name("torch", storage)
        self.text(key)
        self.text("cpu")
        self.number(numel)
        self.out += b"t"
        self.put()
        self.out += b"Q"
        self.number(view.offset)
        self.numbers(view.shape)
        self.numbers(view.stride)
        self.out += b"\x89"
        self.ordered_dict()
        self.out += b"t"
        self.put()
        self.out += b"R"
        self.put()
        if parameter:
            self.out += b"\x88"
            self.ordered_dict()
            self.out += b"\x87"
            self.put()
            self.out += b"R"
            self.put()


def c_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides, in elements, of a C-ordered array."""
    return tuple(int(np.prod(shape[i + 1 :], dtype=int)) for i in range(len(shape)))


def pickle_and_storages(
    tensors: Mapping[str, Any],
    dtype: str = "f32",
    ordered: bool = False,
    parameters: bool = False,
    wrap: str = "",
) -> tuple[bytes, list[bytes]]:
    """Return data.pkl and the bytes of each storage.

    The tensors are arrays, or `View`s that share storages by identity.
    """
    pickle = Pickle()
    storages: list[bytes] = []
    keys: dict[int, str] = {}
    if wrap:
        pickle.out += b"}"
        pickle.put()
        pickle.text(wrap)
    if ordered:
        pickle.ordered_dict()
    else:
        pickle.out += b"}"
        pickle.put()
    items = list(tensors.items())
    for start in range(0, len(items), 1000):  # Python's pickler sets a thousand items at a time
        batch = items[start : start + 1000]
        pickle.out += b"(" * (len(batch) > 1)
        for name, value in batch:
            view = value
            if not isinstance(value, View):
                view = View(value, 0, value.shape, c_stride(value.shape))
            storage = view.storage
            if id(storage) not in keys:
                keys[id(storage)] = str(len(storages))
                storages.append(stored(storage, dtype))
            pickle.text(name)
            pickle.tensor(keys[id(storage)], STORAGES[dtype], storage.size, view, parameters)
        pickle.out += b"u" if len(batch) > 1 else b"s"
    pickle.out += b"s" * bool(wrap) + b"."
    return bytes(pickle.out), storages


def zip_archive(members: Mapping[str, bytes], crc: bool = True, align: int = 64) -> bytes:
    """Return an archive as torch's writer makes it: stored members, at multiples of `align`."""
    out, directory = bytearray(), bytearray()
    for name, data in members.items():
        start, encoded = len(out), name.encode()
        check = zlib.crc32(data) if crc else 0
        sizes = (check, len(data), len(data))
        padding = -(start + 30 + len(encoded) + 4) % align
        # Signature, version, flags (the sizes come after the data; UTF-8), 12 bytes that don't
        # matter, sizes of 0, lengths of the name and of the extra field.
        out += struct.pack("<4s2H6x12x", b"PK\3\4", 0, 0x808)
        out += struct.pack("<2H", len(encoded), padding + 4)
        out += encoded + b"FB" + struct.pack("<H", padding) + b"Z" * padding + data
        out += struct.pack("<4s3L", b"PK\7\10", *sizes)
        directory += struct.pack("<4s2H", b"PK\1\2", 0, 0)
        directory += struct.pack("<H6x3LH12xL", 0x808, *sizes, len(encoded), start) + encoded
    count, offset = len(members), len(out)
    out += directory
    end64 = len(out)
    out += struct.pack("<4sQ2H2L", b"PK\6\6", 44, 0x31E, 45, 0, 0)
    out += struct.pack("<4Q", count, count, len(directory), offset)
    out += struct.pack("<4sLQL", b"PK\6\7", 0, end64, 1)
    out += struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(directory), offset, 0)
    return bytes(out)


def members(pickle: bytes, storages: list[bytes], root: str = "archive") -> dict[str, bytes]:
    """Return the members of a checkpoint in torch's order."""
    found = {
        "data.pkl": pickle,
        ".format_version": b"1",
        ".storage_alignment": b"64",
        "byteorder": b"little",
        **{f"data/{i}": storage for i, storage in enumerate(storages)},
        "version": b"3\n",
        ".data/serialization_id": b"0" * 40,
    }
    return {f"{root}/{name}": value for name, value in found.items()}


def write_pth(
    path: str | os.PathLike[str], tensors: Mapping[str, Any], dtype: str = "f32", **options: Any
) -> None:
    """Write a checkpoint; options as for `pickle_and_storages`."""
    with open(path, "wb") as file:
        file.write(zip_archive(members(*pickle_and_storages(tensors, dtype, **options))))
