"""Small inputs that once failed, or cost too much, each under a name: they stay refused or read."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np

from tests.helpers.checkpoint_files import gguf
from tests.helpers.pth_writer import View, members, pickle_and_storages, zip_archive

from . import model_files
from .model_files import Parts


def _model(dtype: str, change: Callable[[Parts], None], vocabulary: bool = False) -> bytes:
    parts = model_files.model("v7", dtype, "dense", vocabulary).copy()
    change(parts)
    return parts.build()


def _replaced(parts: Parts, name: str, array: np.ndarray) -> None:
    parts.tensors = [(one, array if one == name else old) for one, old in parts.tensors]


def says_f32_and_holds_int8(parts: Parts) -> None:
    """Change the type in the metadata alone."""
    parts.metadata["dtype"] = "f32"


def announces_thousands_of_layers(parts: Parts) -> None:
    """Change the number of layers in the metadata alone."""
    parts.metadata["n_layer"] = 4096


def lacks_its_last_tensor(parts: Parts) -> None:
    """Leave a tensor out."""
    parts.tensors = [one for one in parts.tensors if one[0] != "ln_out.bias"]


def holds_nan(parts: Parts) -> None:
    """Put a weight that is no number into a vector."""
    _replaced(parts, "ln_out.weight", np.full(16, np.nan, np.float32))


def has_a_token_of_2000_bytes(parts: Parts) -> None:
    """Add a token that is longer than a tokenizer takes."""
    arrays = dict(parts.tensors)
    data, starts = arrays["tokenizer.bytes"], arrays["tokenizer.starts"]
    _replaced(parts, "tokenizer.bytes", np.append(data, np.full(2000, 255, np.uint8)))
    end = np.int32(starts[-1] + 2000)
    _replaced(parts, "tokenizer.starts", np.append(starts, end).astype(np.int32))


def has_half_a_tokenizer(parts: Parts) -> None:
    """Leave out where the tokens start."""
    parts.tensors = [one for one in parts.tensors if one[0] != "tokenizer.starts"]


def _shared_storage() -> bytes:
    view = View(np.zeros(1000, np.float32), 0, (2, 2), (998, 1))
    return zip_archive(members(*pickle_and_storages({f"x{i}": view for i in range(200)})))


def _overlapping_members() -> bytes:
    tensors = {name: np.zeros((3, 4), np.float32) for name in "ab"}
    data = bytearray(zip_archive(members(*pickle_and_storages(tensors))))
    first, second = (data.rindex(b"archive/data/" + digit) for digit in (b"0", b"1"))
    data[second - 4 : second] = data[first - 4 : first]
    return bytes(data)


def _many_tensors() -> bytes:
    tensors = (struct.pack("<4i5s4x", 1, 5, 0, 1, b"%05d" % i) for i in range(70_000))
    return struct.pack("<4s5i", b"fmgg", 101, 4, 8, 1, 0) + b"".join(tensors)


def _two_names_for_one_tensor() -> bytes:
    settings = {"general.architecture": "rwkv7"}
    data = gguf({name: np.ones((4, 8), np.float32) for name in ("x", "y")}, settings)
    at = data.index(struct.pack("<IQ", 0, 128))
    return data[: at + 4] + bytes(8) + data[at + 12 :]


CASES: dict[str, tuple[str, Callable[[], bytes]]] = {
    **{
        change.__name__: ("convert", lambda change=change: _model("int8", change))
        for change in (
            says_f32_and_holds_int8,
            announces_thousands_of_layers,
            lacks_its_last_tensor,
            holds_nan,
        )
    },
    **{
        change.__name__: ("convert", lambda change=change: _model("f32", change, True))
        for change in (has_a_token_of_2000_bytes, has_half_a_tokenizer)
    },
    "tensors that share one storage": ("pth", _shared_storage),
    "members that overlap": ("pth", _overlapping_members),
    "an opcode with a long number": (
        "pth",
        lambda: zip_archive(members(b"\x80\2L" + b"7" * 5000 + b"L\n.", [])),
    ),
    "tens of thousands of tensors": ("ggmf", _many_tensors),
    "two names for one tensor": ("gguf", _two_names_for_one_tensor),
    "a vocabulary of empty lines": ("vocab", lambda: b"\n" * 4_000_000),
    "a vocabulary with a long token": (
        "vocab",
        lambda: (
            b"".join(b"%d %r 1\n" % (i + 1, bytes([i])) for i in range(256))
            + b"257 b'"
            + b"a" * 1025
            + b"' 1025\n"
        ),
    ),
}
"""By name, the fuzzer whose parser reads it, and what makes it; all of these are refused."""
