"""Copy a schema of any classes into dicts and lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import attempt, show
from .refusals import wrong


def plain(schema: Any) -> Any:
    """Return a schema whose mappings are dicts, and whose lists and tuples are lists.

    What is the same object twice, or inside of itself, is so in the copy too.

    Parameters
    ----------
    schema : object

    Raises
    ------
    ArgumentError
        A class of the caller fails when it is asked for what it holds.
    """
    copies: dict[int, tuple[Any, Any]] = {}  # the original too, so that its id stays taken
    waiting: list[Any] = []

    def copy(value: Any) -> Any:
        if not isinstance(value, (Mapping, list, tuple)):
            return value
        if id(value) not in copies:
            copies[id(value)] = (value, _shell(value))
            waiting.append(copies[id(value)][1])
        return copies[id(value)][1]

    whole = copy(schema)
    for shell in waiting:  # grows meanwhile
        for key, value in [*(shell.items() if isinstance(shell, dict) else enumerate(shell))]:
            shell[key] = copy(value)
    return whole


def _shell(value: Any) -> Any:
    """Return a dict or a list of the same things."""
    if isinstance(value, Mapping):
        found: Any = attempt(lambda: {key: value[key] for key in value})
    else:
        found = attempt(lambda: [one for one in value])  # list() would ask for the length
    if found is None:
        shown = show(value)
        wrong("schema", shown, "read", f"a part of the schema cannot be read: {shown}")
    return found
