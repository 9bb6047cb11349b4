"""The steps of a token: where a program can pause, and which bytes of the file each step reads."""

from __future__ import annotations

import itertools
import mmap

import numpy as np

from ..program.operations import OPERATIONS, Extent
from ..program.program import Program
from ..versions.forms import DEEP_TABLE

SYSTEM_PAGE = mmap.PAGESIZE
"""Bytes of a page of the system's memory; pages of the file format are ``abi.PAGE``."""

EMBEDDING_STEP = 0
"""The first step is the embedding."""

Owner = tuple[str, "int | None"]
"""A part of a model, and its layer if it has one."""


class Steps:
    """The parts that a program can be run in, one after the other.

    Step i runs from cut i to cut i + 1. The first is the embedding, then each layer has one for its
    time mix and one for its channel mix; the head has one or more.

    Parameters
    ----------
    program : Program

    Attributes
    ----------
    cuts : list of int
        Operations that a call of the kernels may begin at, from 0 to the number of operations.
    head_cut : int
        The index in `cuts` of the SELECT operation, where the layers end.
    touched : list of int
        For each operation the bytes of weights that every token reads.
    largest_layer_step : int
        The most bytes that a token reads between two cuts before the head.
    extents : list of list of (int, int)
        For each step, where the bytes that only this step reads begin and end.
    scattered : list of (int, int)
        Offset and size of each region from which a token reads few rows.
    by_row : list of (int, int)
        The same regions, and those from which a token reads many single rows.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.file = program.file
        operations = program.operations
        self.cuts = [0, *(i + 1 for i, operation in enumerate(operations) if operation.pausable)]
        self.head_cut = self.cuts.index(program.select)
        self.touched = [OPERATIONS[one.opcode].touched(one.fields) for one in operations]
        before = [0, *itertools.accumulate(self.touched)]
        self._touched_sums = [before[cut] for cut in self.cuts]
        layer_steps = np.diff(self._touched_sums[: self.head_cut + 1])
        self.largest_layer_step = int(layer_steps.max())
        self._tensors = self._tensors_by_owner()
        self.extents = [self._extents(*step) for step in itertools.pairwise(self.cuts)]
        self.scattered = self._regions("emb.weight", "head.rows.weight", DEEP_TABLE)
        self.by_row = self.scattered + self._regions(".bundles", ".rows")

    def _tensors_by_owner(self) -> dict[Owner, list[Extent]]:
        """Return where the tensors of each part of each layer lie."""
        found: dict[Owner, list[Extent]] = {}
        for tensor in self.file.tensors.values():
            extents = found.setdefault(owner(tensor.name), [])
            extents.append((tensor.offset, tensor.offset + tensor.nbytes))
        return found

    def _regions(self, *endings: str) -> list[tuple[int, int]]:
        """Return offset and size of the tensors whose names end with one of these."""
        return [
            (tensor.offset, tensor.nbytes)
            for tensor in self.file.tensors.values()
            if tensor.name.endswith(endings)
        ]

    def _extents(self, first: int, last: int) -> list[Extent]:
        """Return, in order, the bytes that a step reads and no other does."""
        operations = self.program.operations[first:last]
        found: list[Extent] = []
        if operations[0].part == "head":  # several steps share the rest of its tensors
            for operation in operations:
                found += OPERATIONS[operation.opcode].matrices(operation.fields)
        else:
            found += self._tensors[operations[0].part, operations[0].layer]
        return merged(found)

    def bytes_between(self, first: int, last: int) -> int:
        """Return the weight bytes that the operations between two cuts read for one token."""
        return max(self._touched_sums[last] - self._touched_sums[first], 1)

    def advise(self, in_large_pages: bool) -> None:
        """Tell the system how the file is read."""
        # A page of 2 MB is read faster than 512 small ones, but one row makes all of it resident.
        if in_large_pages:
            self.file.advise("MADV_HUGEPAGE")
            for region in self.by_row:
                self.file.advise("MADV_NOHUGEPAGE", *region)
        for region in self.scattered:
            self.file.advise("MADV_RANDOM", *region)

    def within_time(self, first: int, last: int, budget: float) -> int:
        """Return how far a call may go from cut `first`.

        Parameters
        ----------
        first, last : int
            The result is a cut after `first`, up to `last`.
        budget : float
            Bytes of weights that the call may read; one step is always allowed.
        """
        return furthest(self._touched_sums, first, last, budget)


def furthest(sums: list[int], first: int, last: int, budget: float) -> int:
    """Return the furthest cut up to `last` whose sum is at most `budget` above that of `first`.

    It is at least the next cut.
    """
    until = first + 1
    while until < last and sums[until + 1] - sums[first] <= budget:
        until += 1
    return until


def part_of(name: str) -> str:
    """Return the part of a model that a tensor belongs to."""
    if name.startswith("blocks."):
        return "channel_mix" if ".ffn." in name or ".ln2" in name else "time_mix"
    if name.startswith("emb."):
        return "embedding"
    if name == DEEP_TABLE:
        return "deep_embedding"
    if name.startswith("tokenizer."):
        return "tokenizer"
    return "head"


def owner(name: str) -> Owner:
    """Return the part, and the layer if there is one, that a tensor belongs to."""
    if name.startswith("blocks."):
        return part_of(name), int(name.split(".")[1])
    return part_of(name), None


def merged(extents: list[Extent]) -> list[Extent]:
    """Return extents in order; join neighbours with less than a page between them.

    Such a gap holds nothing except the space that aligns the next tensor.
    """
    result: list[Extent] = []
    for start, stop in sorted(extents):
        if result and start - result[-1][1] < SYSTEM_PAGE:
            start, _ = result.pop()
        result.append((start, stop))
    return result


def pages(start: int, stop: int) -> int:
    """Return the bytes of the system's pages that an extent of the file lies in."""
    return (-(-stop // SYSTEM_PAGE) - start // SYSTEM_PAGE) * SYSTEM_PAGE
