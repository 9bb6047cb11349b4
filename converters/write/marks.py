"""Know the files that the converter has written by what stands at their beginning."""

from __future__ import annotations

SEARCHED = 4096
"""Bytes in which the mark of a file has to be."""


def is_marked(path: str, beginning: bytes, mark: bytes) -> bool:
    """Tell whether a file begins as its format does, with our mark soon after."""
    with open(path, "rb") as file:
        first = file.read(SEARCHED)
    return first.startswith(beginning) and mark in first
