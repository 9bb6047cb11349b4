"""Check the name of a file to write, before any work is done."""

from __future__ import annotations

import os
from collections.abc import Iterable

from tinyrwkv.errors import ArgumentError


def check_output(output: str, inputs: Iterable[str]) -> None:
    """Refuse an output that would replace an input.

    Parameters
    ----------
    output : str
    inputs : iterable of str

    Raises
    ------
    ArgumentError
        It is the same file as one of the inputs.
    """
    if any(_is_same(path, output) for path in inputs):
        expected = "another file than the input"
        sentence = f"the output {output} would replace the input"
        raise ArgumentError("arguments", "output", output, expected, "choose a new name", sentence)


def _is_same(path: str, output: str) -> bool:
    try:
        if os.path.realpath(path) == os.path.realpath(output):
            return True
        return os.path.samefile(path, output)
    except (OSError, ValueError):
        return False  # one of them does not exist
