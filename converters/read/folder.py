"""Find the checkpoint in a folder, as a hub of models gives it."""

from __future__ import annotations

import os
import re
from fnmatch import fnmatch
from typing import NamedTuple

from tinyrwkv.errors import FormatError, show

# What transformers looks for, in its order.
_USUAL = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_ENDINGS = (".safetensors", ".st", ".pth", ".gguf", ".bin")
_OTHER_PART = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.[a-z]+$")  # the first one finds the others
_VOCABULARIES = "rwkv_vocab_*.txt"
_OTHER_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt")


def find_checkpoint(folder: str) -> str:
    """Return the path of the only checkpoint in a folder.

    Parameters
    ----------
    folder : str

    Raises
    ------
    FormatError
        It has none, or several, or can't be read.
    """
    names = _names(folder)
    for name in _USUAL:
        if name in names:
            return os.path.join(folder, name)
    found = [name for name in names if name.endswith(_ENDINGS) and not _OTHER_PART.search(name)]
    if len(found) == 1:
        return os.path.join(folder, found[0])
    expected = "one checkpoint"
    if not found:
        sentence = f"{folder} is a folder without a checkpoint"
        fix = f"give a folder with one {', '.join(_ENDINGS)} file, or the file itself"
        raise FormatError(folder, "folder", "no checkpoint", expected, fix, sentence)
    listed = ", ".join(show(name)[1:-1] for name in found[:5]) + (", ..." * (len(found) > 5))
    sentence = f"{folder} is a folder of {len(found)} checkpoints: {listed}"
    raise FormatError(folder, "folder", listed, expected, "give one of these files", sentence)


class Vocabularies(NamedTuple):
    """The vocabulary of a folder.

    Attributes
    ----------
    path : str or None
        Where it is.
    unusable : str
        What is there instead, such as the file of another kind of tokenizer; "" for nothing.
    """

    path: str | None
    unusable: str


def find_vocabulary(folder: str) -> Vocabularies:
    """Find the only vocabulary in BlinkDL's format in a folder."""
    names = _names(folder)
    found = [name for name in names if fnmatch(name, _VOCABULARIES)]
    if len(found) == 1:
        return Vocabularies(os.path.join(folder, found[0]), "")
    others = found or [name for name in names if name in _OTHER_VOCABULARIES]
    return Vocabularies(None, " and ".join(show(name)[1:-1] for name in others))


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        found = error.strerror or str(error)
        sentence = f"cannot read the folder {folder}: {found}"
        fix = "check its permissions"
        raise FormatError(folder, "folder", found, "a folder to read", fix, sentence) from error
