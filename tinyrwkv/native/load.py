"""Load the kernels that were compiled ahead of time: checked against their record first, never on trust."""

from __future__ import annotations

import ctypes
import functools
import json
import pathlib
from typing import Any, NamedTuple

from ..errors import FormatError, UnsupportedError
from ..sha256 import sha256
from .targets import runnable

FOLDER = pathlib.Path(__file__).parent
RECORD = "build.json"
SYMBOL = "tinyrwkv_run"
BUILD = "build it with tinyrwkv-build-kernels, or use another backend"


def kernel_sources() -> list[pathlib.Path]:
    """Return the files that the kernels' machine code comes from."""
    package = pathlib.Path(__file__).parents[1]
    emitting = [package / "native" / "llvm.py", package / "native" / "lookup.py"]
    return [package / "opcodes.py", *emitting, *sorted((package / "kernels").glob("*.py"))]


@functools.cache
def source_hash() -> str:
    """Return the SHA-256 of the kernels' sources: objects compiled from others are stale."""
    return sha256(b"\0".join(source.read_bytes() for source in kernel_sources())).hexdigest()


class Choice(NamedTuple):
    """An object that can be loaded, or the reason why none can."""

    name: str
    path: pathlib.Path | None
    reason: str


def choose(folder: pathlib.Path = FOLDER) -> Choice:
    """Return the best object for this processor.

    An object counts only if the record beside it has its SHA-256 and was made from the present sources.
    """
    targets = runnable()
    if not targets:
        return Choice("", None, "no object is made for this system; they are for Linux")
    try:
        record = json.loads((folder / RECORD).read_text())
        sources, objects = record["sources"], {n: o["sha256"] for n, o in record["objects"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Choice("", None, f"no objects: {folder / RECORD} is missing or damaged")
    if sources != source_hash():
        return Choice("", None, "the objects were built from other sources than these: run tinyrwkv-build-kernels")
    reasons = []
    for target in targets:
        path = folder / f"{target.name}.so"
        try:
            if target.name not in objects or not path.exists():
                reasons.append(f"{target.name} is not built")
            elif sha256(path.read_bytes()).hexdigest() != objects[target.name]:
                reasons.append(f"{target.name}.so differs from its record")
            else:
                return Choice(target.name, path, f"the best of the objects for this processor{_why(reasons)}")
        except OSError as error:
            reasons.append(f"{target.name}.so cannot be read: {error.strerror}")
    return Choice("", None, "; ".join(reasons))


def _why(reasons: list[str]) -> str:
    return f" ({'; '.join(reasons)})" if reasons else ""


def native_run(folder: pathlib.Path = FOLDER) -> Any:
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
        raise UnsupportedError("load", "backend 'native'", choice.reason, "an object for this processor", BUILD)
    try:
        function = getattr(ctypes.CDLL(str(choice.path)), SYMBOL)
    except (OSError, AttributeError) as error:
        raise FormatError(choice.path, "shared object", str(error), f"one that exports {SYMBOL}", BUILD) from error
    function.restype, function.argtypes = None, [ctypes.c_void_p]
    return function
