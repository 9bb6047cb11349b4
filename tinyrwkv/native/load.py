"""Load the kernels that were compiled ahead of time, once their bytes agree with their record."""

from __future__ import annotations

import ctypes
import functools
import json
import os
from typing import Any, NamedTuple

from ..errors import FormatError, UnsupportedError
from ..file.sha256 import sha256
from .processor import LINUX
from .targets import Target, is_known, runnable

FOLDER = os.path.dirname(__file__)  # no pathlib here: a chat would take 0.6 MB more
RECORD = "build.json"
SYMBOL = "tinyrwkv_run"
BUILD = "build it with tinyrwkv-build-kernels, or use another backend"


def kernel_sources() -> list[str]:
    """Return the files that the kernels' machine code comes from."""
    kernels = os.path.join(os.path.dirname(FOLDER), "kernels")
    own = ("llvm.py", "lookup.py", "products.py")
    intrinsics = [os.path.join(FOLDER, name) for name in own]
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
    from the present sources. On other systems than Linux it must besides have proved itself here.
    """
    targets = runnable()
    if not targets:
        return _none(f"no object is made for {'this processor' if is_known() else 'this system'}")
    path = os.path.join(folder, RECORD)
    try:
        record = json.loads(_read(path))
        sources, answer = record["sources"], record["answer"]
        hashes = {name: entry["sha256"] for name, entry in record["objects"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return _none(f"no objects: {path} is missing or damaged")
    if sources != source_hash():
        found = "the objects were built from other sources than these"
        return _none(f"{found}: run tinyrwkv-build-kernels")
    refused: list[str] = []
    for target in targets:
        path = os.path.join(folder, target.file)
        reason = _refusal(target, path, hashes)
        if not reason and target.system != LINUX:
            from .proof import doubt  # here, because it needs much that Linux does not

            reason = doubt(path, hashes[target.name], answer)
        if not reason:
            better = f" ({'; '.join(refused)})" if refused else ""
            best = f"the best of the objects for this processor{better}"
            return KernelObject(target.name, path, best)
        refused.append(reason)
    return _none("; ".join(refused))


def _none(reason: str) -> KernelObject:
    return KernelObject("", None, reason)


def _refusal(target: Target, path: str, hashes: dict[str, str]) -> str:
    """Return why an object does not count, "" if it does."""
    try:
        if target.name not in hashes or not os.path.exists(path):
            return f"{target.name} is not built"
        if sha256(_read(path)).hexdigest() != hashes[target.name]:
            return f"{target.file} differs from its record"
    except OSError as error:
        return f"{target.file} cannot be read: {error.strerror}"
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
    return run_of(best.path)


def run_of(path: str) -> Any:
    """Return the ``run`` of one object, whether it fits this processor or not.

    Raises
    ------
    FormatError
        The system refuses to load the object.
    """
    try:
        function = getattr(ctypes.CDLL(path), SYMBOL)
    except (OSError, AttributeError) as error:
        expected = f"one that exports {SYMBOL}"
        raise FormatError(path, "shared object", str(error), expected, BUILD) from error
    function.restype, function.argtypes = None, [ctypes.c_void_p]
    return function
