"""The state of a conversation as a value: what a model remembers of the tokens that it has read."""

from __future__ import annotations

import os
from typing import ClassVar, Protocol

import numpy as np

from .file.config import Origin


class StateOwner(Protocol):
    """The part of a model that tells which states are its own."""

    hash: str
    origin: Origin
    state_size: int


class StateFiles(Protocol):
    """What writes states to files and reads them back. No token needs it: see `state_file`."""

    def save(self, state: State, path: str | os.PathLike[str], dtype: str) -> None:
        """Do what `State.save` does."""

    def load(self, path: str | os.PathLike[str], model: StateOwner) -> State:
        """Do what `State.load` does."""


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

    files: ClassVar[StateFiles]
    """The module `state_file`; the package puts it here, so that no token needs what it imports."""

    def __init__(self, data: np.ndarray, tokens: int, origin: Origin) -> None:
        self.data = data
        self.tokens = tokens
        self.origin = origin

    def __repr__(self) -> str:
        origin = f"RWKV {self.origin['arch']}, model {self.origin['model'][:12]}"
        return f"<State after {self.tokens:,} tokens: {origin}, {self.data.nbytes:,} bytes>"

    def copy(self) -> State:
        """Return an equal state with its own memory.

        Returns
        -------
        State
        """
        return State(self.data.copy(), self.tokens, self.origin)

    def save(self, path: str | os.PathLike[str], dtype: str = "f32") -> None:
        """Write the state to a file that `load` reads, with the hash of its model.

        Parameters
        ----------
        path : str or path-like
        dtype : str
            "f32" keeps every bit. "f16" makes half the file. "int8" makes little more than a
            quarter, with a scale for each row of `head_size` numbers: each number comes back
            within 1/254 of the largest of its row. States of RWKV-4 are f32 only.

        Raises
        ------
        FormatError
            The file cannot be written, or the state holds NaN or infinity.
        ArgumentError
            The file exists and is not a state, or there is no such dtype, or a number is too large
            for f16.
        UnsupportedError
            The state is one of RWKV-4, and the dtype is not f32.

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
        self.files.save(self, path, dtype)

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
        UnsupportedError
            The file is of a version that this program does not know.
        ArgumentError
            `model` is not a model.
        """
        return State.files.load(path, model)
