"""Open a checkpoint of any format; its first bytes tell which, never its name."""

from __future__ import annotations

import os

from tinyrwkv.errors import FormatError, UnsupportedError
from tinyrwkv.file.header import MAGIC as TRWKV

from . import ggmf, gguf
from .pth import read_pth
from .safetensors import is_safetensors, read_safetensors
from .source import InputFile, Source

_EXPECTED = "a .pth, .safetensors, .gguf, rwkv.cpp .bin or .trwkv file"
_ORIGINAL = "convert the original .pth"
_RESAVE = "load it with PyTorch and save it again with torch.save"
_UNPACK = "unpack it first"
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

    Returns
    -------
    Source
        A context manager. For a .trwkv file, `kind` is "trwkv" and there are no tensors: see
        `converters.write.from_trwkv`.

    Raises
    ------
    FormatError
        There is no such file, or it is damaged or something else.
    UnsupportedError
        It is a relative of a known format that can't be read.
    """
    file = InputFile(path)
    try:
        return _open(file)
    except BaseException:
        file.close()
        raise


def _open(file: InputFile) -> Source:
    start = file.read(0, min(512, file.size), "header").tobytes()
    if start.startswith(b"PK\3\4"):
        return read_pth(file)
    if start.startswith(gguf.MAGIC):
        return gguf.read_gguf(file)
    if start.startswith(ggmf.MAGIC):
        return ggmf.read_ggmf(file)
    if start.startswith(TRWKV):
        return Source(file, "trwkv", {})
    if is_safetensors(file):
        return read_safetensors(file)
    raise _refusal(file.path, start)


def _refusal(path: str, start: bytes) -> Exception:
    """Return the error for a file that is no checkpoint: it says what the file looks like."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        sentence = f"{path} is empty"
        return FormatError(path, "file", "0 bytes", _EXPECTED, "fetch the file again", sentence)
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        found, fix = "an HTML page", "download the file itself, not the page about it"
        sentence = f"{path} is {found}, not a checkpoint"
        return FormatError(path, "file", found, _EXPECTED, fix, sentence)
    relative = _relative(path, start, text)
    if relative is not None:
        found, fix = relative
        sentence = f"{path} is {found}; such a file can't be read"
        return UnsupportedError(path, "file", found, _EXPECTED, fix, sentence)
    found = f"the first bytes {start[:8]!r}"
    sentence = f"{path} is no known kind of checkpoint: it has {found}"
    return FormatError(path, "file", found, _EXPECTED, f"give {_EXPECTED}", sentence)


def _relative(path: str, start: bytes, text: bytes) -> tuple[str, str] | None:
    """Recognise what is almost a checkpoint: return what it is and the fix; None for others."""
    if text.startswith(b"{"):
        if b"weight_map" in text or path.endswith(".index.json"):
            fix = "join the files, or give the .pth of the model"
            return "the index of a checkpoint in several files", fix
        return "a JSON file", "give the checkpoint itself"
    if start[257:262] == b"ustar":
        return "a tar archive, as PyTorch wrote before 0.1.10", _RESAVE
    for magic, found, fix in _OTHERS:
        if start.startswith(magic):
            return found, fix
    return None
