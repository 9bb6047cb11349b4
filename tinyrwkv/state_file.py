"""States in files (docs/format.md): write one, and read one that a model made.

A state is cut into rows of head_size numbers: the vectors of a layer into one row for each head,
the wkv state into one row for each head and key. As int8, each row has a scale of its own:
state[i, j] ~ q[i, j] * scale[i].
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from .arguments import refusal
from .errors import ArgumentError, FormatError, UnsupportedError
from .file.config import Sizes
from .file.quant import quantize_rows
from .file.tensors import TensorFile
from .file.verify import open_verified
from .file.writer import Writer
from .state import State, StateOwner

VERSION = 2
"""The version that is written. Version 1, which no key names, has float32 only."""

DTYPES = ("f32", "f16", "int8")

_AGAIN = "save the state again"


def smallest_dtype(sizes: Sizes) -> str:
    """Return the type that makes the smallest file without harm: int8, but f32 for v4.

    Parameters
    ----------
    sizes : mapping
        The metadata of the model, or the origin of a state.
    """
    return "f32" if sizes["arch"] == "v4" else "int8"


def data_bytes(state: State, dtype: str) -> int:
    """Return how many bytes the tensors of a state take in a file."""
    size = state.data.size
    if dtype == "int8":
        return size + 4 * (size // state.origin["head_size"])
    return size * {"f32": 4, "f16": 2}[dtype]


def save(
    state: State,
    path: str | os.PathLike[str],
    dtype: str = "f32",
    beside: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Do what `State.save` does; write the tensors `beside` into the same file."""
    origin: dict[str, Any] = {**state.origin}
    metadata = {"kind": "state", "state_version": VERSION, "tokens": state.tokens, **origin}
    with Writer(path, metadata) as writer:
        for name, array in _tensors(writer.path, state, dtype).items():
            writer.add(name, array)
        for name, array in (beside or {}).items():
            writer.add(name, array)


def check_dtype(path: str, dtype: str, sizes: Sizes) -> None:
    """Refuse a type that states do not have, or those of this model do not.

    Parameters
    ----------
    path : str
        The file to write, for messages.
    dtype : str
    sizes : mapping
        The metadata of the model, or the origin of a state.

    Raises
    ------
    ArgumentError
        There is no such type.
    UnsupportedError
        The model is RWKV-4, and the type is not f32.
    """
    if dtype not in DTYPES:
        expected = "one of " + ", ".join(DTYPES)
        raise refusal("State.save", "dtype", dtype, expected, "choose one of them")
    if dtype != "f32" and sizes["arch"] == "v4":
        # Its pp are exponents: a small error in one of them is a large factor.
        sentence = f"{path}: states of RWKV-4 are saved as f32 only, not as {dtype}"
        fix = "save it as f32"
        raise UnsupportedError(path, "dtype", dtype, "f32 for RWKV-4", fix, sentence)


def _tensors(path: str, state: State, dtype: str) -> dict[str, np.ndarray]:
    """Return a state as the tensors of a file."""
    check_dtype(path, dtype, state.origin)
    if not np.isfinite(state.data).all():
        raise _not_finite(path)
    if dtype == "int8":
        q, scale = quantize_rows(state.data.reshape(-1, state.origin["head_size"]))
        return {"state": q, "state.scale": scale}
    if dtype == "f16":
        with np.errstate(over="ignore"):
            half = state.data.astype(np.float16)
        if not np.isfinite(half).all():
            sentence = f"{path}: the state has numbers that are too large for f16"
            expected = "numbers up to 65,504"
            fix = "save it as f32 or int8"
            raise ArgumentError(path, "state", "larger numbers", expected, fix, sentence)
        return {"state": half}
    return {"state": state.data}


def _not_finite(path: str) -> FormatError:
    sentence = f"{path}: the state must be finite numbers, not NaN or infinity"
    what = (path, "state", "NaN or infinity", "finite numbers")
    return FormatError(*what, "begin again with model.new_state()", sentence)


def load(path: str | os.PathLike[str], model: StateOwner) -> State:
    """Do what `State.load` does."""
    if not hasattr(model, "state_size"):
        fix = "give the model that made the state"
        raise refusal("State.load", "model", model, "a Model", fix)
    with open_verified(path) as file:
        _check_owner(file, model)
        data = _data(file, model)
        if not np.isfinite(data).all():
            raise _not_finite(file.path)
        return State(data, file.metadata.get("tokens", 0), model.origin)


def _check_owner(file: TensorFile, model: StateOwner) -> None:
    """Raise an error if a file is not a state of this model, or of a version that is unknown."""
    if file.metadata["kind"] != "state":
        fix = "give a file written by State.save"
        sentence = f"{file.path} is a model, not a state"
        raise FormatError(file.path, "kind", "a model", "a state", fix, sentence)
    version = file.metadata.get("state_version", 1)
    if version > VERSION:
        found, expected = f"a state of version {version}", f"one of version 1 to {VERSION}"
        sentence = f"{file.path} is {found}, but this tinyrwkv reads only versions 1 to {VERSION}"
        fix = "update tinyrwkv"
        raise UnsupportedError(file.path, "state_version", found, expected, fix, sentence)
    owner = file.metadata["model"]
    if owner != model.hash:
        found = f"a state of model {owner[:12]}"
        expected = f"one of model {model.hash[:12]}"
        fix = "load the model that wrote the state"
        sentence = f"{file.path} is {found}, not {expected}"
        raise FormatError(file.path, "model", found, expected, fix, sentence)


def _data(file: TensorFile, model: StateOwner) -> np.ndarray:
    """Return the numbers of a state: float32, shape (size,), with memory of their own."""
    state = file["state"]
    size, width = model.state_size, model.origin["head_size"]
    if state.dtype == np.int8:
        rows = size // width
        _check_tensor(file, "state", state, "int8", (rows, width))
        scale = file["state.scale"]
        _check_tensor(file, "state.scale", scale, "float32", (rows,))
        with np.errstate(all="ignore"):  # what overflows is refused by the caller
            data: np.ndarray = np.multiply(state, scale[:, None], dtype=np.float32)
        return data.reshape(size)
    halves = state.dtype == np.float16
    _check_tensor(file, "state", state, "float16" if halves else "float32", (size,))
    return state.astype(np.float32)


def _check_tensor(
    file: TensorFile, name: str, array: np.ndarray, dtype: str, shape: tuple[int, ...]
) -> None:
    """Raise a FormatError if a tensor is of another type or shape."""
    if array.dtype != dtype or array.shape != shape:
        found, expected = f"{array.dtype} {array.shape}", f"{dtype} {shape}"
        sentence = f"{file.path}: {name} must be {expected}, not {found}"
        raise FormatError(file.path, name, found, expected, _AGAIN, sentence)
