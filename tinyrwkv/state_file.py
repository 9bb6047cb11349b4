"""States in files (docs/format.md): write one, and read one that a model made."""

from __future__ import annotations

import os

import numpy as np

from .arguments import refusal
from .errors import FormatError
from .file.mapped import TensorFile
from .file.verify import open_verified
from .file.writer import Writer
from .state import State, StateOwner


def save(state: State, path: str | os.PathLike[str]) -> None:
    """Do what `State.save` does."""
    with Writer(path, {"kind": "state", "tokens": state.tokens, **state.origin}) as writer:
        writer.add("state", state.data)


def load(path: str | os.PathLike[str], model: StateOwner) -> State:
    """Do what `State.load` does."""
    if not hasattr(model, "state_size"):
        fix = "give the model that made the state"
        raise refusal("State.load", "model", model, "a Model", fix)
    with open_verified(path) as file:
        _check_owner(file, model)
        data = file["state"]
        shape = (model.state_size,)
        if data.dtype != np.float32 or data.shape != shape or not np.isfinite(data).all():
            found = f"{data.dtype} {data.shape}"
            expected = f"finite float32 {shape}"
            sentence = f"{file.path}: the state must be {expected}, not {found}"
            fix = "save the state again"
            raise FormatError(file.path, "state", found, expected, fix, sentence)
        return State(data.copy(), file.metadata.get("tokens", 0), model.origin)


def _check_owner(file: TensorFile, model: StateOwner) -> None:
    """Raise a FormatError if a file is not a state of this model."""
    if file.metadata["kind"] != "state":
        fix = "give a file written by State.save"
        sentence = f"{file.path} is a model, not a state"
        raise FormatError(file.path, "kind", "a model", "a state", fix, sentence)
    owner = file.metadata["model"]
    if owner != model.hash:
        found = f"a state of model {owner[:12]}"
        expected = f"one of model {model.hash[:12]}"
        fix = "load the model that wrote the state"
        sentence = f"{file.path} is {found}, not {expected}"
        raise FormatError(file.path, "model", found, expected, fix, sentence)
