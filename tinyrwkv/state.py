"""The state of a conversation as a value: what a model remembers of the tokens it has read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import ArgumentError, FormatError
from .file.mapped import Writer, open_file

if TYPE_CHECKING:
    from .model import Model


class State:
    """What a model remembers of the tokens it has read; nothing in the library changes one in place.

    Attributes
    ----------
    data : ndarray, float32, shape (size,)
        For each layer att_x and ffn_x, the normed inputs of the last token, then the wkv state.
    tokens : int
        How many tokens have been read.
    origin : dict
        The hash of the model the state belongs to, and its sizes.
    """

    __slots__ = ("data", "origin", "tokens")

    def __init__(self, data: np.ndarray, tokens: int, origin: dict[str, Any]) -> None:
        self.data, self.tokens, self.origin = data, tokens, origin

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
        with Writer(path, {"kind": "state", "tokens": self.tokens, **self.origin}) as writer:
            writer.add("state", self.data)

    @staticmethod
    def load(path: str | os.PathLike[str], model: Model) -> State:
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
            `model` is none.
        """
        if not hasattr(model, "new_state"):
            raise ArgumentError(
                "State.load", "model", repr(model), "a Model", "give the model that made the state"
            )
        with open_file(path, verify=True) as file:
            if file.metadata["kind"] != "state":
                raise FormatError(
                    file.path, "kind", "a model", "a state", "give a file written by State.save"
                )
            if file.metadata["model"] != model.hash:
                found = f"a state of model {file.metadata['model'][:12]}"
                raise FormatError(
                    file.path,
                    "model",
                    found,
                    model.hash[:12],
                    "load the model that wrote the state",
                )
            data, fresh = file["state"], model.new_state()
            if (
                data.shape != fresh.data.shape
                or data.dtype != np.float32
                or not np.isfinite(data).all()
            ):
                found, expected = f"{data.dtype} {data.shape}", f"finite float32 {fresh.data.shape}"
                raise FormatError(file.path, "state", found, expected, "save the state again")
            return State(data.copy(), file.metadata.get("tokens", 0), fresh.origin)
