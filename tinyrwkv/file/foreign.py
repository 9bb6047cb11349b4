"""What stands in the place of a .trwkv file, in words, so that the refusal can say what to do."""

from __future__ import annotations

import contextlib
import itertools
import os

from ..errors import FormatError

CHECKPOINTS = (
    (b"GGUF", "a GGUF file of llama.cpp"),
    (b"PK\x03\x04", "a PyTorch checkpoint"),
    (b"fmgg", "a file of rwkv.cpp"),
)
"""The first bytes of files that tinyrwkv-convert reads."""

LISTED = 1000
"""Files of a folder that are looked at."""


def checkpoint_kind(start: bytes) -> str:
    """Return what kind of checkpoint a file is that begins with these bytes; "" if it is none."""
    for magic, kind in CHECKPOINTS:
        if start.startswith(magic):
            return kind
    is_safetensors = start[8:10] in (b'{"', b"{ ") and start[5:8] == bytes(3)
    return "a safetensors file" if is_safetensors else ""


def conversion(path: str) -> str:
    """Return the fix for a checkpoint in the place of a model."""
    return f"convert it first: tinyrwkv-convert {path} model.trwkv"


def folder_error(path: str) -> FormatError:
    """Return the error for a folder in the place of a model."""
    names: list[str] = []
    with contextlib.suppress(OSError), os.scandir(path) as entries:
        names = sorted(entry.name for entry in itertools.islice(entries, LISTED))
    models = [name for name in names if name.endswith(".trwkv")]
    weights = [name for name in names if name.endswith((".safetensors", ".pth", ".gguf"))]
    kind, fix = "a folder", "give the .trwkv file itself"
    if models:
        fix = f"give the file in it: {os.path.join(path, models[0])}"
    elif weights:
        kind, fix = "the folder of a checkpoint", conversion(path)
    sentence = f"cannot read {path}: it is {kind}, not a .trwkv file"
    return FormatError(path, "file", kind, "a file to read", fix, sentence)
