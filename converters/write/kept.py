"""Find matrices that hold values of int4 already, such as recovered ones, to keep them exactly."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tinyrwkv.file.int4 import GROUP

from ..techniques.on_grid import exact_rows
from .content import Recipe
from .parts import is_int4

VALUE = ".ffn.value.weight"


class Kept(NamedTuple):
    """A matrix as a file has it.

    Attributes
    ----------
    name : str
        That of a table of rows if the values of a channel mix are grouped by neuron.
    rows : ndarray, uint8
        As `tinyrwkv.file.int4` packs them.
    """

    name: str
    rows: np.ndarray


def find_kept(recipe: Recipe, parts: str) -> Kept | None:
    """Return a matrix in int4 if all its weights are values of int4 already; else None.

    Parameters
    ----------
    recipe : Recipe
    parts : str
        The matrices that may become int4: see ``write.parts``.

    Raises
    ------
    FormatError
        A value is not finite.
    """
    if not is_int4(recipe.name, GROUP, parts):
        return None
    of_values = recipe.name.endswith(VALUE)
    blocks: list[np.ndarray] = []
    for block in recipe.blocks():
        if not (of_values or blocks) and exact_rows(block) is None:
            return None  # the other rows need not be read
        blocks.append(block)
    matrix = np.concatenate(blocks)
    rows = exact_rows(matrix)
    if rows is not None:
        return Kept(recipe.name, rows)
    by_neurons = exact_rows(np.ascontiguousarray(matrix.T)) if of_values else None
    if by_neurons is None:
        return None
    return Kept(recipe.name.removesuffix("weight") + "rows", by_neurons)
