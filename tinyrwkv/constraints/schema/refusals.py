"""Errors that name a place in a schema, and the limit on the work that one schema may take."""

from __future__ import annotations

from typing import NoReturn

from ...errors import ArgumentError, UnsupportedError

MOST_WORK = 1_000_000
"""Steps that it may take to understand one schema: about a second."""


def wrong(path: str, found: str, expected: str, sentence: str | None = None) -> NoReturn:
    """Refuse what is not a schema, or a schema for which no value is valid."""
    found = found[:80]
    sentence = sentence or f"{path} is {found}, but must be {expected}"
    raise ArgumentError("JsonSchema", path, found, expected, "correct the schema", sentence)


def unsupported(path: str, found: str, expected: str, fix: str, sentence: str) -> NoReturn:
    """Refuse what is a schema, but one that cannot be followed."""
    raise UnsupportedError("JsonSchema", path, found[:80], expected, fix, sentence)


def too_large(path: str, found: str) -> NoReturn:
    """Refuse a schema that takes too much."""
    fix = "give smaller lengths, fewer alternatives or fewer levels"
    sentence = f"{path} takes {found}"
    raise ArgumentError("JsonSchema", path, found, "a smaller schema", fix, sentence)


class Work:
    """Counts the steps for one schema."""

    def __init__(self) -> None:
        self.left = MOST_WORK

    def spend(self, steps: int, path: str) -> None:
        """Count some steps for the part of the schema at `path`.

        Raises
        ------
        ArgumentError
            There were too many.
        """
        self.left -= steps
        if self.left < 0:
            too_large(path, f"more than {MOST_WORK:,} steps to understand")
