"""What a file beside a model says about talking to it.

It lies next to ``model.trwkv`` and is called ``model.chat.json``. The file may be missing, and each
of its keys may be missing too::

    {
      "prompts": ["turn left", "Do you like pizza?"],       shown when a chat begins
      "commands": ["move", "turn"],                         calls that answer orders: see calls.py
      "settings": {"temperature": 0.7, "top_p": 0.5}        as for /set
    }
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ..errors import ArgumentError, FormatError
from . import answer_settings

MOST_BYTES = 1 << 16


class Profile(NamedTuple):
    """What is known about talking to a model.

    Attributes
    ----------
    prompts : tuple of str
        What a user can ask it first.
    commands : tuple of str
        Names of the calls that it answers orders with; empty for models that only talk.
    settings : mapping
        Settings that suit it.
    """

    prompts: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    settings: Mapping[str, Any] = MappingProxyType({})


def read_profile(model_path: str | os.PathLike[str]) -> Profile:
    """Read what lies beside a model file.

    Parameters
    ----------
    model_path : str or path-like
        The model; its profile has the same name, ending in ``.chat.json``.

    Returns
    -------
    Profile
        An empty one if there is no such file.

    Raises
    ------
    FormatError
        The file is not as described above.
    """
    path = os.path.splitext(os.fsdecode(model_path))[0] + ".chat.json"
    data = _bytes(path)
    if data is None:
        return Profile()
    told = _object(path, data)
    prompts = _texts(path, told, "prompts")
    commands = _texts(path, told, "commands")
    return Profile(prompts, commands, _settings(path, told))


def _bytes(path: str) -> bytes | None:
    """Return what is in the file; None if there is no file."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe may block for ever
            raise OSError(errno.EINVAL, "not a file but a folder, pipe or device")
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        found = error.strerror or "an error"
        sentence = f"cannot read {path}: {found}"
        raise _refusal(path, "file", found, "a file that can be read", sentence) from None
    if len(data) > MOST_BYTES:
        sentence = f"{path} has more than {MOST_BYTES:,} bytes"
        raise _refusal(path, "file", "more bytes", f"at most {MOST_BYTES:,}", sentence)
    return data


def _object(path: str, data: bytes) -> dict[str, Any]:
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):
        expected = "JSON in UTF-8"
        sentence = f"{path} is not {expected}"
        raise _refusal(path, "file", "something else", expected, sentence) from None
    if not isinstance(told, dict) or not told.keys() <= set(Profile._fields):
        expected = f"an object of {', '.join(Profile._fields)}"
        raise _refusal(path, "keys", "other ones", expected, f"{path} is not {expected}")
    return told


def _texts(path: str, told: dict[str, Any], key: str) -> tuple[str, ...]:
    texts = told.get(key, [])
    is_list = isinstance(texts, list)
    if not is_list or not all(isinstance(text, str) and text.strip() for text in texts):
        expected = "a list of texts"
        raise _refusal(path, key, "something else", expected, f"{path}: {key} is not {expected}")
    return tuple(texts)


def _settings(path: str, told: dict[str, Any]) -> dict[str, Any]:
    values = told.get("settings", {})
    is_object = isinstance(values, dict)
    if not is_object or not all(isinstance(value, (int, float)) for value in values.values()):
        expected = "an object of numbers"
        sentence = f"{path}: settings is not {expected}"
        raise _refusal(path, "settings", "something else", expected, sentence)
    try:
        answer_settings.check(values)
    except ArgumentError as error:
        key = f"settings, {error.object}"
        sentence = f"{path}: settings: {error.sentence}"
        raise _refusal(path, key, error.found, error.expected, sentence) from None
    return values


def _refusal(path: str, key: str, found: str, expected: str, sentence: str) -> FormatError:
    fix = "correct the file or remove it: the model works without it"
    return FormatError(path, key, found, expected, fix, sentence)
