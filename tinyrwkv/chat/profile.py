"""What a file beside a model says about talking to it.

It lies next to ``model.trwkv`` and is called ``model.chat.json``. It may be missing, and so may
each of its keys::

    {
      "prompts": ["turn left", "Do you like pizza?"],       shown when a chat begins
      "commands": ["move", "turn"],                         calls that answer orders: see calls.py
      "settings": {"temperature": 0.7, "top_p": 0.5}        as for /set
    }
"""

from __future__ import annotations

import json
import os
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
        What to ask it, for a start.
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
        An empty one where there is no such file.

    Raises
    ------
    FormatError
        There is one, and it is not as described above.
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
    """Return what is in the file; None where there is no file."""
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        found = error.strerror or "an error"
        raise _refusal(path, "file", found, "a file that can be read") from None
    if len(data) > MOST_BYTES:
        raise _refusal(path, "file", "more bytes", f"at most {MOST_BYTES:,}")
    return data


def _object(path: str, data: bytes) -> dict[str, Any]:
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):
        raise _refusal(path, "file", "something else", "JSON in UTF-8") from None
    if not isinstance(told, dict) or not told.keys() <= set(Profile._fields):
        raise _refusal(path, "keys", "other ones", f"an object of {', '.join(Profile._fields)}")
    return told


def _texts(path: str, told: dict[str, Any], key: str) -> tuple[str, ...]:
    texts = told.get(key, [])
    is_list = isinstance(texts, list)
    if not is_list or not all(isinstance(text, str) and text.strip() for text in texts):
        raise _refusal(path, key, "something else", "a list of texts")
    return tuple(texts)


def _settings(path: str, told: dict[str, Any]) -> dict[str, Any]:
    values = told.get("settings", {})
    is_object = isinstance(values, dict)
    if not is_object or not all(isinstance(value, (int, float)) for value in values.values()):
        raise _refusal(path, "settings", "something else", "an object of numbers")
    try:
        answer_settings.check(values)
    except ArgumentError as error:
        raise _refusal(path, f"settings, {error.object}", error.found, error.expected) from None
    return values


def _refusal(path: str, key: str, found: str, expected: str) -> FormatError:
    fix = "correct it, or remove it: the model works without"
    return FormatError(path, key, found, expected, fix)
