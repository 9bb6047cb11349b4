"""Load the kernels that were compiled ahead of time: checked against their record first, never on trust."""

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
    package = os.path.dirname(FOLDER)
    kernels = sorted(
        name for name in os.listdir(os.path.join(package, "kernels")) if name.endswith(".py")
    )
    names = ("native/llvm.py", "native/lookup.py", *(f"kernels/{name}" for name in kernels))
    return [os.path.join(package, *name.split("/")) for name in names]


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


@functools.cache
def source_hash() -> str:
    """Return the SHA-256 of the kernels' sources: objects compiled from others are stale."""
    return sha256(b"\0".join(map(_read, kernel_sources()))).hexdigest()


class Choice(NamedTuple):
    """An object that can be loaded, or the reason why none can."""

    name: str
    path: str | None
    reason: str


def choose(folder: str = FOLDER) -> Choice:
    """Return the best object for this processor.

    An object counts only if the record beside it has its SHA-256 and was made from the present sources.
    """
    targets = runnable()
    if not targets:
        return Choice("", None, "no object is made for this system; they are for Linux")
    try:
        record = json.loads(_read(os.path.join(folder, RECORD)))
        sources, objects = record["sources"], {n: o["sha256"] for n, o in record["objects"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Choice("", None, f"no objects: {os.path.join(folder, RECORD)} is missing or damaged")
    if sources != source_hash():
        return Choice(
            "",
            None,
            "the objects were built from other sources than these: run tinyrwkv-build-kernels",
        )
    reasons = []
    for target in targets:
        path = os.path.join(folder, f"{target.name}.so")
        try:
            if target.name not in objects or not os.path.exists(path):
                reasons.append(f"{target.name} is not built")
            elif sha256(_read(path)).hexdigest() != objects[target.name]:
                reasons.append(f"{target.name}.so differs from its record")
            else:
                return Choice(
                    target.name, path, f"the best of the objects for this processor{_why(reasons)}"
                )
        except OSError as error:
            reasons.append(f"{target.name}.so cannot be read: {error.strerror}")
    return Choice("", None, "; ".join(reasons))


def _why(reasons: list[str]) -> str:
    return f" ({'; '.join(reasons)})" if reasons else ""


def native_run(folder: str = FOLDER) -> Any:
    """Return the kernels' ``run`` as a ctypes function of one address; calls release the GIL.

    Raises
    ------
    UnsupportedError
        There is no object for this processor and these sources; the message says why.
    FormatError
        The system refuses to load the object.
    """
    choice = choose(folder)
    if choice.path is None:
        raise UnsupportedError(
            "load", "backend 'native'", choice.reason, "an object for this processor", BUILD
        )
    try:
        function = getattr(ctypes.CDLL(choice.path), SYMBOL)
    except (OSError, AttributeError) as error:
        raise FormatError(
            choice.path, "shared object", str(error), f"one that exports {SYMBOL}", BUILD
        ) from error
    function.restype, function.argtypes = None, [ctypes.c_void_p]
    return function
