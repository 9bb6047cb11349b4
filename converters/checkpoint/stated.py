"""Compare what a file says about its model with what its tensors are."""

from __future__ import annotations

import math

from tinyrwkv.errors import FormatError, UnsupportedError, show

from ..read.source import FETCH, Stated
from .raw_shapes import Sizes

LN_EPS = 1e-5
"""Epsilon of the layer norms: the same in all versions of RWKV, and fixed in the kernels."""


def check_stated(path: str, stated: tuple[Stated, ...], sizes: Sizes) -> None:
    """Refuse a checkpoint that contradicts itself: one of both is damaged, nobody knows which.

    Parameters
    ----------
    path : str
        For messages.
    stated : tuple of Stated
        What the file says.
    sizes : Sizes
        What the tensors are.

    Raises
    ------
    FormatError
        The file says another size.
    UnsupportedError
        The layer norms of the model have another epsilon.
    """
    for one in stated:
        if one.size == "ln_eps":
            _check_epsilon(path, one)
        elif not (one.size == "head_size" and sizes.arch == "v4"):  # v4 has no heads
            size = getattr(sizes, one.size)
            if type(one.value) is not int or one.value != size:
                found = show(one.value)
                sentence = f"{path}: {one.where} is {found}, but by the tensors it is {size}"
                raise FormatError(path, one.where, found, size, FETCH, sentence)


def _check_epsilon(path: str, one: Stated) -> None:
    is_number = type(one.value) in (int, float)
    if not (is_number and math.isclose(one.value, LN_EPS, rel_tol=1e-3)):  # type: ignore[arg-type]
        found, fix = show(one.value), "such a model can't be converted"
        sentence = f"{path}: {one.where} is {found}, but the layer norms of RWKV have {LN_EPS}"
        raise UnsupportedError(path, one.where, found, LN_EPS, fix, sentence)
