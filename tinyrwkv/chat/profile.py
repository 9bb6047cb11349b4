"""What is told beside a model file about talking to it: ``model.chat.json`` next to ``model.trwkv``, if it is there.

All keys may be left out::

    {
      "prompts": ["turn left", "Do you like pizza?"],       shown when a chat begins
      "commands": ["move", "turn"],                         calls that answer commands: see calls.py
      "settings": {"temperature": 0.7, "top_p": 0.5}        as for /set
    }
"""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

from ..errors import ArgumentError, FormatError
from . import settings

MOST_BYTES = 1 << 16


class Profile(NamedTuple):
    """What is known about talking to a model.

    Attributes
    ----------
    prompts : tuple of str
        What to ask it, for a start.
    commands : tuple of str
        Names of the calls that it answers commands with; empty for models that only talk.
    settings : dict
        Settings that suit it.
    """

    prompts: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    settings: dict[str, Any] = {}  # noqa: RUF012 - never changed


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
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        return Profile()
    except OSError as error:
        raise _refusal(
            path, "file", error.strerror or "an error", "a file that can be read"
        ) from None
    if len(data) > MOST_BYTES:
        raise _refusal(path, "file", "more bytes", f"at most {MOST_BYTES:,}")
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):
        raise _refusal(path, "file", "something else", "JSON in UTF-8") from None
    if not isinstance(told, dict) or not told.keys() <= set(Profile._fields):
        raise _refusal(path, "keys", "other ones", f"an object of {', '.join(Profile._fields)}")
    for key in ("prompts", "commands"):
        texts = told.get(key, [])
        if not isinstance(texts, list) or not all(
            isinstance(text, str) and text.strip() for text in texts
        ):
            raise _refusal(path, key, "something else", "a list of texts")
    values = told.get("settings", {})
    if not isinstance(values, dict) or not all(
        isinstance(value, (int, float)) for value in values.values()
    ):
        raise _refusal(path, "settings", "something else", "an object of numbers")
    try:
        settings.check(values)
    except ArgumentError as error:
        raise _refusal(path, f"settings, {error.object}", error.found, error.expected) from None
    return Profile(tuple(told.get("prompts", ())), tuple(told.get("commands", ())), values)


def _refusal(path: str, key: str, found: str, expected: str) -> FormatError:
    return FormatError(
        path, key, found, expected, "correct it, or remove it: the model works without"
    )
