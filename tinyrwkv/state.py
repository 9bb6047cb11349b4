"""The state of a conversation as a value: what a model remembers of the tokens that it has read."""

from __future__ import annotations

import os
from typing import Protocol

import numpy as np

from .arguments import refusal
from .errors import FormatError, os_errors
from .file.config import Origin
from .file.mapped import TensorFile, open_file
from .file.output import STATE, new_file
from .file.packed import pack_one
from .file.table import path_name


class StateOwner(Protocol):
    """The part of a model that tells which states are its own."""

    hash: str
    origin: Origin
    state_size: int


class State:
    """What a model remembers of the tokens that it has read.

    The library never changes a state in place.

    Attributes
    ----------
    data : ndarray, float32, shape (size,)
        For each layer: att_x and ffn_x, the normed inputs of the last token, then the wkv state.
    tokens : int
        How many tokens have been read.
    origin : dict
        The hash and the sizes of the model that the state belongs to.
    """

    __slots__ = ("data", "origin", "tokens")

    def __init__(self, data: np.ndarray, tokens: int, origin: Origin) -> None:
        self.data = data
        self.tokens = tokens
        self.origin = origin

    def copy(self) -> State:
        """Return an equal state with its own memory.

        Returns
        -------
        State
        """
        return State(self.data.copy(), self.tokens, self.origin)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to a file that `load` reads, with the hash of its model.

        Parameters
        ----------
        path : str or path-like

        Raises
        ------
        FormatError
            The file cannot be written.
        ArgumentError
            The file exists and is not a state.

        Examples
        --------
        >>> import tempfile, tinyrwkv
        >>> model = tinyrwkv.load()
        >>> _, state = model.forward([0, 1, 2])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     state.save(folder + "/three.state")
        ...     State.load(folder + "/three.state", model).tokens
        3
        """
        path = path_name(path)
        metadata = {"kind": "state", "tokens": self.tokens, **self.origin}
        packed = pack_one(path, metadata, "state", self.data)
        with new_file(path, STATE) as file, os_errors(path, "write"):
            file.write(packed)

    @staticmethod
    def load(path: str | os.PathLike[str], model: StateOwner) -> State:
        """Read a state that this model made.

        Parameters
        ----------
        path : str or path-like
        model : Model

        Returns
        -------
        State

        Raises
        ------
        FormatError
            The file is damaged, is not a state, or belongs to another model.
        ArgumentError
            `model` is not a model.
        """
        if not hasattr(model, "state_size"):
            fix = "give the model that made the state"
            raise refusal("State.load", "model", model, "a Model", fix)
        with open_file(path, verify=True) as file:
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
