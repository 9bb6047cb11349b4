"""A training on disk, so that one that was interrupted can be continued."""

from __future__ import annotations

import contextlib
import os
import pickle
from typing import Any

import torch

from tinyrwkv.errors import FormatError, os_errors
from tinyrwkv.file.output import Kind, check_output, new_file

from ..write.marks import is_marked
from .trained import MADE_BY

EVERY = 60.0
"""Seconds between two writes."""


MARK = f"unfinished training of {MADE_BY}"

TRAINING = Kind(f"an {MARK}", lambda path: is_marked(path, b"PK\3\4", MARK.encode()))


def save(path: str, identity: dict[str, Any], content: dict[str, Any]) -> None:
    """Write a training; the older one stays until the new one is complete.

    Parameters
    ----------
    path : str
    identity : dict
        What must be the same when it goes on: plain values.
    content : dict
        Of tensors and plain values.

    Raises
    ------
    ArgumentError
        Something else has this name.
    FormatError
        The file cannot be written.
    """
    with new_file(path, TRAINING) as file, os_errors(path, "write"):
        torch.save({"made_by": MARK, "identity": identity, **content}, file)


def load(path: str, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Read a training, or return None if there is none.

    Raises
    ------
    ArgumentError
        Something else has this name.
    FormatError
        It is a training of another checkpoint, of other texts, or with other settings.
    """
    check_output(path, TRAINING)
    if not os.path.exists(path) or not os.path.getsize(path):
        return None
    content = _read(path)
    if not isinstance(content.get("identity"), dict):
        sentence = f"{path} is damaged, so the training cannot go on"
        fix = "remove it to begin anew"
        raise FormatError(path, "file", "damage", TRAINING.name, fix, sentence)
    for key, expected in identity.items():
        found = content["identity"].get(key)
        if found != expected:
            shown, wanted = str(found)[:40], str(expected)[:40]
            sentence = f"{path} is an unfinished training with another {key}: {shown}, not {wanted}"
            fix = "remove it to begin anew, or give what it began with"
            raise FormatError(path, key, shown, wanted, fix, sentence)
    return content


def remove(path: str | None) -> None:
    """Remove a training that is complete, if it was written."""
    if path is not None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _read(path: str) -> dict[str, Any]:
    """Return what a file holds; an empty dict if it is none of torch's."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError):
        return {}
    return content if isinstance(content, dict) else {}
