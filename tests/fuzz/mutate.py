"""Change values of every kind into what a parser does not expect."""

from __future__ import annotations

import copy
import struct
from typing import Any

import numpy as np

from .fuzzer import Random

EDGES = (0, 1, 2, 7, 8, 63, 64, 200, 255, 256, 4095, 4096, 65535, 65536, 1 << 20, 1 << 24)
POWERS = (31, 32, 53, 62, 63, 64)

SPECIAL = (0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45, -1e-40, 1e-38, 3e38, -3e38, 1e30, 1e-30, 1.0)
"""Floats at the edges: not numbers, infinite, denormal, huge and tiny."""

WORDS = ("", "a", "model", "state", "v7", "int8", "f32", "\0", "\ud800", "é" * 40, "x" * 300)


def whole(rng: Random, value: int = 0) -> int:
    """Return a whole number at an edge, near another number, or of any size."""
    kind = rng.randrange(4)
    if kind == 0:
        return rng.choice(EDGES)
    if kind == 1:
        return value + rng.choice((-2, -1, 1, 2, 8, 64))
    if kind == 2:
        return int(rng.choice((-1, 1)) * (1 << rng.choice(POWERS)) + rng.randint(-1, 1))
    return value * rng.choice((-1, 2, 3, 16, 4096)) + rng.randrange(16)


def flipped(rng: Random, data: bytes) -> bytes:
    """Return bytes with a few of them changed, moved, added or taken away."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(out) + 1)
        length = rng.choice((1, 1, 2, 4, 8, 40))
        kind = rng.randrange(6)
        if kind <= 1 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif kind == 2 and out:
            out[at % len(out)] = rng.randrange(256)
        elif kind == 3:
            del out[at : at + length]
        elif kind == 4:
            out[at:at] = rng.randbytes(length)
        else:
            out[at:at] = out[rng.randrange(len(out) + 1) :][:length]
    return bytes(out)


def any_json(rng: Random, depth: int = 2) -> Any:
    """Return a JSON value of any kind."""
    kind = rng.randrange(8 if depth else 6)
    if kind == 0:
        return rng.choice((None, True, False))
    if kind == 1:
        return whole(rng)
    if kind == 2:
        return rng.choice((0.5, -1.5, 1e-9, 1e300, 5e-324, 0.0))
    if kind <= 5:
        return rng.choice(WORDS)
    items = [any_json(rng, depth - 1) for _ in range(rng.randrange(4))]
    return items if kind == 6 else {rng.choice(WORDS): item for item in items}


def json_changed(rng: Random, value: Any) -> Any:
    """Return a JSON value with one part of it changed."""
    value = copy.deepcopy(value)
    holder: Any = [value]
    root = holder
    key: Any = 0
    while isinstance(holder[key], (dict, list)) and holder[key] and rng.random() < 0.8:
        holder = holder[key]
        key = rng.choice([*holder]) if isinstance(holder, dict) else rng.randrange(len(holder))
    old = holder[key]
    kind = rng.randrange(5)
    if kind == 0 and type(old) is int:
        holder[key] = whole(rng, old)
    elif kind == 1 and holder is not root:
        del holder[key]
    elif kind == 2 and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(rng.choice(holder)))
    elif kind == 3 and isinstance(holder, dict):
        other = rng.choice([*holder])
        holder[key], holder[other] = holder[other], holder[key]
    else:
        holder[key] = any_json(rng)
    return root[0] if root else None


def array_changed(rng: Random, array: np.ndarray) -> np.ndarray:
    """Return an array with some of its numbers changed."""
    flat = np.array(array).reshape(-1)
    if rng.random() < 0.1:
        count = flat.size
    else:
        count = rng.choice((1, 1, 3, max(flat.size // 4, 1)))
    places = [rng.randrange(flat.size) for _ in range(count)]
    if flat.dtype.kind == "f":
        with np.errstate(all="ignore"):
            special = np.array(SPECIAL, np.float64).astype(flat.dtype)
        values = [special[rng.randrange(len(special))]] * count
        if rng.random() < 0.5:
            values = [special[rng.randrange(len(special))] for _ in places]
    else:
        low, high = int(np.iinfo(flat.dtype).min), int(np.iinfo(flat.dtype).max)
        values = [rng.choice((low, -1 % (high + 1), 0, 1, high, rng.randint(low, high)))] * count
    flat[places] = values
    return flat.reshape(array.shape)


class Fields:
    """The fields of a binary file one after another, so that one can be changed alone.

    A field is a code of `struct` and its number; "s" bytes as they are; "t4" or "t8" bytes with
    their length in so many bytes before them, which stays right.
    """

    def __init__(self) -> None:
        self.items: list[tuple[str, Any]] = []

    def add(self, codes: str, *values: Any) -> None:
        """Add a field for each code; codes are separated by spaces."""
        self.items += zip(codes.split(), values, strict=True)

    def changed(self, rng: Random) -> Fields:
        """Return fields of which one is changed, left out, repeated or moved."""
        found = Fields()
        found.items = list(self.items)
        at = rng.randrange(len(found.items))
        code, value = found.items[at]
        kind = rng.randrange(10)
        if kind == 0:
            del found.items[at]
        elif kind == 1:
            found.items.insert(at, rng.choice(found.items))
        elif kind == 2:
            other = rng.randrange(len(found.items))
            found.items[at], found.items[other] = found.items[other], found.items[at]
        elif isinstance(value, bytes):
            found.items[at] = (code, flipped(rng, value))
        else:
            found.items[at] = (code, whole(rng, int(value)))
        return found

    def pack(self) -> bytes:
        """Return the file; numbers lose the bits that have no room."""
        return b"".join(_packed(code, value) for code, value in self.items)


def _packed(code: str, value: Any) -> bytes:
    if code == "s":
        return bytes(value)
    if code in ("t4", "t8"):
        return len(value).to_bytes(int(code[1]), "little") + bytes(value)
    size = struct.calcsize("<" + code)
    return (int(value) & ((1 << 8 * size) - 1)).to_bytes(size, "little")
