"""A conversation in a file: the state, and what was said."""

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
"""The tensor beside ``state``: JSON in UTF-8, a list of [question, answer, is it an order]."""


class Said(NamedTuple):
    """A question and its answer.

    Attributes
    ----------
    question, answer : str
    command : bool
        Whether it was an order to a robot. Orders are not in the state.
    """

    question: str
    answer: str
    command: bool = False


def save(path: str | os.PathLike[str], state: State, transcript: Iterable[Said] = ()) -> None:
    """Write a conversation to a new file, or over a state. ``State.load`` can read it too.

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
            name = os.fspath(path)
            what = (name, "file", kind, "none, or a state")
            sentence = f"{name} exists, and it is not a state"
            raise ArgumentError(*what, "choose another name", sentence)
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
        said = _parse(file[TRANSCRIPT].tobytes())
        if said is None:
            expected = "JSON, a list of [question, answer, whether it was an order]"
            fix = "save the conversation again"
            what = (file.path, TRANSCRIPT, "something else", expected)
            raise FormatError(*what, fix, f"{file.path}: the transcript is not {expected}")
    return state, said


def _parse(data: bytes) -> list[Said] | None:
    """Return the transcript in a file; None if it is something else."""
    try:
        told = json.loads(data)
        said = [Said(question, answer, command) for question, answer, command in told]
    except (ValueError, TypeError, RecursionError):
        return None
    return said if all(map(_has_right_types, said)) else None


def _has_right_types(said: Said) -> bool:
    return [type(value) for value in said] == [str, str, bool]
