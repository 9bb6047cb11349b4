"""Open a checkpoint of any format; its first bytes tell which, never its name."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from tinyrwkv.errors import ArgumentError, FormatError, UnsupportedError
from tinyrwkv.file.header import MAGIC as TRWKV

from . import ggmf
from .folder import find_checkpoint, find_vocabulary
from .gguf import MAGIC, read_gguf
from .hub import read_config, stated
from .pth import read_pth
from .safetensors import is_safetensors, read_safetensors
from .shards import INDEX, index_of, read_shards
from .source import InputFile, Source

OpenFile = Callable[[str], InputFile]

_EXPECTED = "a .pth, .safetensors, .gguf, rwkv.cpp .bin or .trwkv file"
_ORIGINAL = "convert the original .pth"
_RESAVE = "load it with PyTorch and save it again with torch.save"
_UNPACK = "unpack it first"
_ZIP = b"PK\3\4"
_SPACE = b"\xef\xbb\xbf \t\r\n"  # before a text
# First bytes of files that are not checkpoints, what they are, and how to fix it.
_OTHERS = (
    (b"\x80", "a bare pickle, as PyTorch wrote before 1.6", _RESAVE),
    (b"ggmf", "a big-endian rwkv.cpp file", _ORIGINAL),
    (b"FUGG", "a big-endian GGUF file", _ORIGINAL),
    (b"lmgg", "an unversioned ggml file", _ORIGINAL),
    (b"tjgg", "a GGJT file of an old llama.cpp", _ORIGINAL),
    (b"\x1f\x8b", "a gzip archive", _UNPACK),
    (b"7z\xbc\xaf", "a 7z archive", _UNPACK),
    (b"\x89HDF", "an HDF5 file", _ORIGINAL),
    (b"\x93NUMPY", "a NumPy array", _ORIGINAL),
    (b"version https://git-lfs", "a Git LFS pointer", "fetch the file it stands for: git lfs pull"),
)


def open_source(path: str | os.PathLike[str]) -> Source:
    """Open a checkpoint.

    Parameters
    ----------
    path : str or path-like
        A file; any part of a checkpoint in several files, or their index; or the folder of one
        checkpoint. In a folder, config.json and the vocabulary are looked at too.

    Returns
    -------
    Source
        A context manager. For a .trwkv file, `kind` is "trwkv" and there are no tensors: see
        `converters.write.from_trwkv`.

    Raises
    ------
    FormatError
        There is no such file, or it is damaged or something else, or a part is missing.
    UnsupportedError
        It is a relative of a known format that can't be read.
    """
    path = os.fsdecode(path)
    files: list[InputFile] = []

    def open_file(name: str) -> InputFile:
        files.append(InputFile(name))
        return files[-1]

    kept: list[InputFile] = []
    try:
        if os.path.isdir(path):
            source = _open_folder(path, open_file)
        else:
            source = _open(open_file(path), open_file)
        kept = source.files
    finally:
        for file in files:
            if file not in kept:
                file.close()
    return source


def path_of_all(paths: Sequence[str]) -> str:
    """Return the path that stands for all files of a checkpoint, if somebody names several.

    Parameters
    ----------
    paths : sequence of str
        One path, or files of one checkpoint.

    Raises
    ------
    ArgumentError
        Some of them do not belong to the checkpoint of the first.
    TinyRWKVError
        As `open_source`, if there are several.
    """
    first, *others = paths
    if others:
        with open_source(first) as source:
            names = [file.path for file in source.files]
            if source.kind in ("pth", "safetensors"):
                names.append(index_of(first) or first)
        files = {os.path.realpath(name) for name in names}
        for other in others:
            if os.path.realpath(other) not in files:
                sentence = f"{other} is no part of the checkpoint {first}"
                what = ("arguments", "INPUT", other, f"a part of {first}")
                raise ArgumentError(*what, "give one checkpoint, then one OUTPUT", sentence)
    return first


def _open_folder(path: str, open_file: OpenFile) -> Source:
    """Open the checkpoint in a folder, with what the folder says about it."""
    config = read_config(path, open_file)
    source = _open(open_file(find_checkpoint(path)), open_file)
    vocabulary = find_vocabulary(path)
    about = source.about._replace(
        stated=(*source.about.stated, *stated(config)),
        tied_head=config.get("tie_word_embeddings") is True,
        vocab=vocabulary.path,
        unusable=source.about.unusable or vocabulary.unusable,
    )
    return replace(source, path=path, about=about)


def _open(file: InputFile, open_file: OpenFile) -> Source:
    """Open the checkpoint that a file holds, or belongs to."""
    start = _start(file)
    if start.startswith(MAGIC):
        return read_gguf(file, open_file)
    if start.startswith(ggmf.MAGIC):
        return ggmf.read_ggmf(file)
    if start.startswith(TRWKV):
        return Source(file.path, [file], "trwkv", {})
    if _is_index(file, start):
        return read_shards(file, open_file, _read_whole)
    index = index_of(file.path) if _is_whole(file, start) else None
    if index is None:
        return _read_whole(file)
    source = read_shards(open_file(index), open_file, _read_whole)
    return replace(source, path=file.path)


def _read_whole(file: InputFile) -> Source:
    """Open a checkpoint, or a part of one, that can be read without any other file."""
    start = _start(file)
    if start.startswith(_ZIP):
        return read_pth(file)
    if is_safetensors(file):
        return read_safetensors(file)
    raise _refusal(file.path, start)


def _start(file: InputFile) -> bytes:
    return file.read(0, min(512, file.size), "header").tobytes()


def _is_whole(file: InputFile, start: bytes) -> bool:
    return start.startswith(_ZIP) or is_safetensors(file)


def _is_index(file: InputFile, start: bytes) -> bool:
    is_named = file.path.endswith(INDEX) or b'"weight_map"' in start
    return is_named and start.lstrip(_SPACE).startswith(b"{")


def _refusal(path: str, start: bytes) -> Exception:
    """Return the error for a file that is no checkpoint: it says what the file looks like."""
    text = start.lstrip(_SPACE).lower()
    if not start:
        sentence = f"{path} is empty"
        return FormatError(path, "file", "0 bytes", _EXPECTED, "fetch the file again", sentence)
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        found, fix = "an HTML page", "download the file itself, not the page about it"
        sentence = f"{path} is {found}, not a checkpoint"
        return FormatError(path, "file", found, _EXPECTED, fix, sentence)
    relative = _relative(start, text)
    if relative is not None:
        found, fix = relative
        sentence = f"{path} is {found}; such a file can't be read"
        return UnsupportedError(path, "file", found, _EXPECTED, fix, sentence)
    found = f"the first bytes {start[:8]!r}"
    sentence = f"{path} is no known kind of checkpoint: it has {found}"
    return FormatError(path, "file", found, _EXPECTED, f"give {_EXPECTED}", sentence)


def _relative(start: bytes, text: bytes) -> tuple[str, str] | None:
    """Recognise what is almost a checkpoint: return what it is and the fix; None for others."""
    if text.startswith(b"{"):
        return "a JSON file", "give the checkpoint itself, or its folder"
    if start[257:262] == b"ustar":
        return "a tar archive, as PyTorch wrote before 0.1.10", _RESAVE
    for magic, found, fix in _OTHERS:
        if start.startswith(magic):
            return found, fix
    return None
