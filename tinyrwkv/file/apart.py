"""Keep the files that one run reads and writes apart from each other."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ..errors import ArgumentError


def check_apart(
    outputs: Mapping[str, str | None], inputs: Mapping[str, str | os.PathLike[str] | None]
) -> None:
    """Refuse an output that would replace an input or another output of the same run.

    Parameters
    ----------
    outputs, inputs : mapping of str to path or None
        What each file is for, such as "report", and its path. A file is the same under every
        spelling of its path, and through links.

    Raises
    ------
    ArgumentError
        Two of them are the same file.
    """
    others = {role: os.fsdecode(path) for role, path in inputs.items() if path is not None}
    for role, path in outputs.items():
        if path is None:
            continue
        for other, taken in others.items():
            if _is_same(path, taken):
                sentence = f"the {role} {path} would replace the {other}"
                what = ("arguments", role, path, f"another file than the {other}")
                raise ArgumentError(*what, "choose a new name", sentence)
        others[role] = path


def _is_same(one: str, other: str) -> bool:
    try:
        if os.path.realpath(one) == os.path.realpath(other):
            return True
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return False  # one of them does not exist
