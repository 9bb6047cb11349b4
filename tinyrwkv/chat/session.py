"""A conversation in a file: the state, and beside it in the same file what was said."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..errors import ArgumentError, FormatError
from ..file.mapped import Writer, open_file
from ..state import State

if TYPE_CHECKING:
    from ..model import Model

TRANSCRIPT = "transcript"
"""The tensor beside ``state``: UTF-8 JSON, a list of [question, answer, whether it was a command]."""


class Said(NamedTuple):
    """A question and its answer; commands stand apart from the conversation and are not in the state."""

    question: str
    answer: str
    command: bool = False


def save(path: str | os.PathLike[str], state: State, transcript: Iterable[Said] = ()) -> None:
    """Write a conversation to a file, a new one or another state's; ``State.load`` reads it too.

    Raises
    ------
    FormatError
        The file cannot be written.
    ArgumentError
        The file exists and is not a state.
    """
    if os.path.lexists(path):
        kind = "something else"
        with contextlib.suppress(FormatError), open_file(path) as file:
            kind = file.metadata["kind"]
        if kind != "state":
            raise ArgumentError(
                os.fspath(path), "file", kind, "none, or a state", "choose another name"
            )
    said = json.dumps([list(one) for one in transcript]).encode()
    with Writer(path, {"kind": "state", "tokens": state.tokens, **state.origin}) as writer:
        writer.add("state", state.data)
        writer.add(TRANSCRIPT, np.frombuffer(said, np.uint8))


def load(path: str | os.PathLike[str], model: Model) -> tuple[State, list[Said]]:
    """Read a conversation that this model had.

    Returns
    -------
    state : State
    transcript : list of Said
        Empty for the file of a state alone.

    Raises
    ------
    FormatError
        The file is damaged, is not a state, or belongs to another model.
    """
    state = State.load(path, model)
    with open_file(path) as file:
        if TRANSCRIPT not in file:
            return state, []
        try:
            told = json.loads(file[TRANSCRIPT].tobytes())
            said = [Said(question, answer, command) for question, answer, command in told]
        except (ValueError, TypeError, RecursionError):
            said = [Said("", "", None)]  # type: ignore[arg-type]
        if not all(list(map(type, one)) == [str, str, bool] for one in said):
            expected = "JSON, a list of [question, answer, whether it was a command]"
            raise FormatError(
                file.path, TRANSCRIPT, "something else", expected, "save the conversation again"
            )
    return state, said
