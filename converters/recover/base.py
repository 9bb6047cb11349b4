"""The float checkpoint that is recovered: its tensors by raw names, and what identifies it."""

from __future__ import annotations

import hashlib
import os
from typing import NamedTuple

import numpy as np

from tinyrwkv.errors import UnsupportedError

from ..checkpoint.identify import identify
from ..checkpoint.names import is_flash_linear_attention
from ..checkpoint.raw_shapes import Sizes
from ..read.open import open_source
from ..read.source import Source

ARCHITECTURES = ("v5.2", "v6", "v7")

_PIECE = 1 << 20


class Base(NamedTuple):
    """A checkpoint in memory.

    Attributes
    ----------
    path : str
    sha256 : str
        Of the file.
    sizes : Sizes
    ln_x_eps : float
        Epsilon of the group norm.
    tensors : dict of str to ndarray, float32
        By the names of a BlinkDL checkpoint.
    """

    path: str
    sha256: str
    sizes: Sizes
    ln_x_eps: float
    tensors: dict[str, np.ndarray]


def read_base(path: str | os.PathLike[str], ln_x_eps: float | None = None) -> Base:
    """Read a checkpoint of RWKV-5.2, 6 or 7.

    Parameters
    ----------
    path : str or path-like
        What `converters.write.convert.convert` takes, but no model file.
    ln_x_eps : float, optional
        Default: 64e-5, as these models are trained.

    Returns
    -------
    Base

    Raises
    ------
    FormatError
        The file is damaged or no checkpoint.
    UnsupportedError
        It is of another version, a model file, or of low rank.
    """
    with open_source(path) as source:
        if source.kind == "trwkv":
            raise _refusal(source.path, "a model file", "the checkpoint that it was made from")
        checkpoint = identify(source)
        sizes = checkpoint.sizes
        if sizes.arch not in ARCHITECTURES:
            raise _refusal(source.path, f"RWKV {sizes.arch}", "RWKV-5.2, 6 or 7")
        if any(name.endswith(".weight.a") for name in checkpoint.tensors):
            raise _refusal(source.path, "a checkpoint of low rank", "one with whole matrices")
        tensors = {name: tensor.load() for name, tensor in checkpoint.tensors.items()}
        by_head = is_flash_linear_attention(source)
        usual = sizes.head_size * 1e-5 if by_head else 64e-5
        eps = usual if ln_x_eps is None else ln_x_eps
        return Base(source.path, _sha256(source), sizes, eps, _plain_bonus(tensors))


def _plain_bonus(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename time_first, which stands for its exponential, to time_faaaa, which stands as it is."""
    plain = {}
    for name, array in tensors.items():
        if name.endswith("time_first"):
            name, array = name.removesuffix("first") + "faaaa", np.exp(array)
        plain[name] = array
    return plain


def _sha256(source: Source) -> str:
    digest = hashlib.sha256()
    for file in source.files:
        for start in range(0, file.size, _PIECE):
            digest.update(file.read(start, min(_PIECE, file.size - start), "file").data)
    return digest.hexdigest()


def _refusal(path: str, found: str, expected: str) -> UnsupportedError:
    sentence = f"{path} is {found}, which recover does not train"
    return UnsupportedError(path, "checkpoint", found, expected, f"give {expected}", sentence)
