"""What training has changed, as a small file: the levels of the body, and the trained vectors.

It is a zip archive like those of ``numpy.savez``. Its first member says what made it, and of which
checkpoint. A checkpoint and this file make the recovered checkpoint, without PyTorch.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from tinyrwkv.errors import FormatError, os_errors
from tinyrwkv.file import int4
from tinyrwkv.file.output import Kind, new_file

from ..write.marks import is_marked
from .base import Base
from .body import FROZEN, VALUES, body

MADE_BY = "tinyrwkv-convert recover"
"""What the files say about their origin."""

LEVELS = Kind(
    "levels of tinyrwkv-convert recover",
    lambda path: is_marked(path, b"PK\3\4", MADE_BY.encode()),
)

_ABOUT = "about.json"
MOST_ABOUT = 1 << 20
"""Bytes of what a file says about itself."""

_FETCH = "the file is damaged: bring it here again, or train again"


class Trained(NamedTuple):
    """What training has changed.

    Attributes
    ----------
    about : dict
        ``made_by``, ``base`` (the hash of the checkpoint), ``values``, the settings and the report.
    rows : dict of str to ndarray, uint8
        Matrices as `tinyrwkv.file.int4` packs them, by raw names; the values of a channel mix are
        transposed if ``values`` is "neurons".
    vectors : dict of str to ndarray, float32
        All else that was trained, by raw names.
    """

    about: dict[str, Any]
    rows: dict[str, np.ndarray]
    vectors: dict[str, np.ndarray]

    def tensors(self, base: Base) -> dict[str, np.ndarray]:
        """Return the recovered checkpoint: float32, by raw names, in the order of the base."""
        found = dict(base.tensors)
        for name, transposed in body(base.tensors, self.about["values"]).items():
            matrix = int4.dequantize(self.rows[name])
            found[name] = np.ascontiguousarray(matrix.T) if transposed else matrix
        return found | self.vectors


def save(path: str, trained: Trained) -> None:
    """Write the file; it gets its name only when it is complete.

    Raises
    ------
    ArgumentError
        Something else has this name.
    FormatError
        The file cannot be written.
    """
    with (
        new_file(path, LEVELS) as file,
        os_errors(path, "write"),
        zipfile.ZipFile(file, "w") as archive,
    ):
        archive.writestr(_ABOUT, json.dumps(trained.about, indent=1))
        for name, array in (trained.rows | trained.vectors).items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
            archive.writestr(f"{name}.npy", member.getvalue())


def load(path: str | os.PathLike[str], base: Base) -> Trained:
    """Read the file and check it against its checkpoint.

    Parameters
    ----------
    path : str or path-like
    base : Base

    Returns
    -------
    Trained

    Raises
    ------
    FormatError
        The file is damaged, something else, or belongs to another checkpoint.
    """
    path = os.fsdecode(path)
    with os_errors(path, "read"):
        try:
            with zipfile.ZipFile(path) as archive:
                about = _about(path, archive, base)
                rows: dict[str, np.ndarray] = {}
                vectors: dict[str, np.ndarray] = {}
                for name, shape, dtype in _members(base, about["values"]):
                    target = rows if dtype == np.uint8 else vectors
                    target[name] = _read(path, archive, name, shape, dtype)
                return Trained(about, rows, vectors)
        except (zipfile.BadZipFile, KeyError, ValueError, NotImplementedError, EOFError) as error:
            found = f"{type(error).__name__}: {error}"
            sentence = f"{path} holds no levels of this checkpoint ({found})"
            raise FormatError(path, "file", found, LEVELS.name, _FETCH, sentence) from None


def _about(path: str, archive: zipfile.ZipFile, base: Base) -> dict[str, Any]:
    """Read what the file says about itself, and refuse one of another checkpoint."""
    about = json.loads(_bytes(archive, _ABOUT, MOST_ABOUT))
    if not isinstance(about, dict) or about.get("made_by") != MADE_BY:
        raise ValueError("it does not say what made it")
    if about.get("values") not in VALUES:
        raise ValueError("it does not say how values are grouped")
    if about.get("base") != base.sha256:
        found, expected = str(about.get("base"))[:16], base.sha256[:16]
        sentence = f"{path} belongs to another checkpoint than {base.path}"
        fix = "give the checkpoint that it was trained from"
        raise FormatError(path, "base", found, expected, fix, sentence)
    return about


def _members(base: Base, values: str) -> Iterator[tuple[str, tuple[int, ...], type]]:
    """Yield the name, the shape and the type of each array of such a file."""
    matrices = body(base.tensors, values)
    for name, tensor in base.tensors.items():
        if name in matrices:
            rows, columns = tensor.shape[::-1] if matrices[name] else tensor.shape
            yield name, (rows, int4.row_bytes(columns)), np.uint8
        elif not FROZEN.fullmatch(name):
            yield name, tensor.shape, np.float32


def _read(
    path: str, archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: type
) -> np.ndarray:
    """Read an array whose shape and type are known, so that nothing else is allocated."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    member = io.BytesIO(_bytes(archive, f"{name}.npy", size + 4096))
    if np.lib.format.read_magic(member) != (1, 0):
        raise ValueError(f"{name} has another version")
    found = np.lib.format.read_array_header_1_0(member)
    if found != (shape, False, np.dtype(dtype)):
        raise ValueError(f"{name} has another shape or type")
    array: np.ndarray = np.frombuffer(member.read(size), dtype).reshape(shape)
    if dtype == np.float32 and not np.isfinite(array).all():
        sentence = f"{path}: {name} holds NaN or infinity"
        raise FormatError(path, name, "NaN or infinity", "finite numbers", _FETCH, sentence)
    return array


def _bytes(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    with archive.open(name) as member:
        data = member.read(most + 1)
    if len(data) > most:
        raise ValueError(f"{name} is too long")
    return data


def about(base: Base, settings: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first member of such a file."""
    return {
        "made_by": MADE_BY,
        "base": base.sha256,
        "values": settings["values"],
        "settings": dict(settings),
        "report": dict(report),
    }
