"""A conversation in a file: the state, and what was said."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .. import state_file
from ..errors import FormatError, TinyRWKVError
from ..file.mapped import open_file
from ..file.output import hold
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


def save(
    path: str | os.PathLike[str],
    state: State,
    transcript: Iterable[Said] = (),
    dtype: str | None = None,
) -> None:
    """Write a conversation to a new file, or over a state. ``State.load`` can read it too.

    Parameters
    ----------
    path : str or path-like
    state : State
    transcript : iterable of Said
    dtype : str, optional
        As for `State.save`; by default the smallest type that does no harm.

    Raises
    ------
    FormatError
        The file cannot be written.
    ArgumentError
        The file exists and is not a state.
    """
    said = json.dumps([list(one) for one in transcript]).encode()
    beside = {TRANSCRIPT: np.frombuffer(said, np.uint8)}
    state_file.save(state, path, dtype or state_file.smallest_dtype(state.origin), beside)


def keep(
    path: str,
    state: State,
    transcript: Iterable[Said],
    known: str | None,
    dtype: str | None = None,
) -> str:
    """Write a conversation to a file, or beside it if another chat has changed the file.

    Then the name gets a number: ``talk-2.state`` beside ``talk.state``.

    Parameters
    ----------
    path : str
    state : State
    transcript : iterable of Said
    known : str or None
        The `fingerprint` of the file as this chat knows it.
    dtype : str, optional
        As for `save`.

    Returns
    -------
    str
        The path of the file that was written.

    Raises
    ------
    TinyRWKVError
        As for `save`.
    """
    with _others_waiting(os.path.dirname(path) or os.curdir):
        if fingerprint(path) not in (None, known):
            path = _free_name(path)
        save(path, state, transcript, dtype)
    return path


def fingerprint(path: str | os.PathLike[str]) -> str | None:
    """Return what tells a file from every other one; None if there is no such file."""
    if not os.path.lexists(path):
        return None
    with contextlib.suppress(TinyRWKVError), open_file(path) as file:
        return file.hash
    return "not a state"


def _free_name(path: str) -> str:
    """Return the first name of path-2, path-3 and so on that is free."""
    folder, name = os.path.split(path)
    stem, ending = os.path.splitext(name)
    if len(os.fsencode(name)) > 240:  # of the 255 that systems allow
        stem = stem[:40]
    numbered = (os.path.join(folder, f"{stem}-{n}{ending}") for n in itertools.count(2))
    return next(name for name in numbered if not os.path.lexists(name))


@contextlib.contextmanager
def _others_waiting(folder: str) -> Iterator[None]:
    """Let no other chat save to a folder meanwhile, where the system can lock folders."""
    try:
        number = os.open(folder, os.O_RDONLY)
    except OSError:  # it cannot be listed, or this is Windows; what comes next may work still
        yield
        return
    try:
        for _ in range(50):  # a program that is not a chat may hold it for ever
            if hold(number) is not False:
                break
            time.sleep(0.1)
        yield
    finally:
        os.close(number)


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
