"""Load the kernels that were compiled ahead of time, once their bytes agree with their record."""

from __future__ import annotations

import ctypes
import functools
import json
import os
from typing import Any, NamedTuple

from ..errors import FormatError, UnsupportedError
from ..file.sha256 import sha256
from .targets import runnable

FOLDER = os.path.dirname(__file__)  # no pathlib here: a chat would take 0.6 MB more
RECORD = "build.json"
SYMBOL = "tinyrwkv_run"
BUILD = "build it with tinyrwkv-build-kernels, or use another backend"


def kernel_sources() -> list[str]:
    """Return the files that the kernels' machine code comes from."""
    kernels = os.path.join(os.path.dirname(FOLDER), "kernels")
    intrinsics = [os.path.join(FOLDER, name) for name in ("llvm.py", "lookup.py")]
    names = sorted(name for name in os.listdir(kernels) if name.endswith(".py"))
    return intrinsics + [os.path.join(kernels, name) for name in names]


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


@functools.cache
def source_hash() -> str:
    """Return the SHA-256 of the kernels' sources: objects compiled from others are stale."""
    return sha256(b"\0".join(map(_read, kernel_sources()))).hexdigest()


class KernelObject(NamedTuple):
    """The object to load and why it is the best one, or the reason why there is none."""

    name: str
    path: str | None
    reason: str


def choose(folder: str = FOLDER) -> KernelObject:
    """Return the best object for this processor.

    An object counts only if the record beside it has its SHA-256 and says that the object was made
    from the present sources.
    """
    targets = runnable()
    if not targets:
        return _none("no object is made for this system; they are for Linux")
    path = os.path.join(folder, RECORD)
    try:
        record = json.loads(_read(path))
        sources = record["sources"]
        hashes = {name: entry["sha256"] for name, entry in record["objects"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return _none(f"no objects: {path} is missing or damaged")
    if sources != source_hash():
        found = "the objects were built from other sources than these"
        return _none(f"{found}: run tinyrwkv-build-kernels")
    refused: list[str] = []
    for target in targets:
        path = os.path.join(folder, f"{target.name}.so")
        reason = _refusal(target.name, path, hashes)
        if not reason:
            better = f" ({'; '.join(refused)})" if refused else ""
            best = f"the best of the objects for this processor{better}"
            return KernelObject(target.name, path, best)
        refused.append(reason)
    return _none("; ".join(refused))


def _none(reason: str) -> KernelObject:
    return KernelObject("", None, reason)


def _refusal(name: str, path: str, hashes: dict[str, str]) -> str:
    """Return why an object does not count, "" if it does."""
    try:
        if name not in hashes or not os.path.exists(path):
            return f"{name} is not built"
        if sha256(_read(path)).hexdigest() != hashes[name]:
            return f"{name}.so differs from its record"
    except OSError as error:
        return f"{name}.so cannot be read: {error.strerror}"
    return ""


def native_run(folder: str = FOLDER) -> Any:
    """Return the kernels' ``run`` as a ctypes function of one address; calls release the GIL.

    Raises
    ------
    UnsupportedError
        There is no object for this processor and these sources; the message says why.
    FormatError
        The system refuses to load the object.
    """
    best = choose(folder)
    if best.path is None:
        expected = "an object for this processor"
        raise UnsupportedError("load", "backend 'native'", best.reason, expected, BUILD)
    try:
        function = getattr(ctypes.CDLL(best.path), SYMBOL)
    except (OSError, AttributeError) as error:
        expected = f"one that exports {SYMBOL}"
        raise FormatError(best.path, "shared object", str(error), expected, BUILD) from error
    function.restype, function.argtypes = None, [ctypes.c_void_p]
    return function
