"""The bytes of a model's parts: in the file, touched by a token, resident; known before any weight is read."""

from __future__ import annotations

import itertools
import math
import mmap
from typing import Any

import numpy as np

from ..kernels import abi as op
from ..program.program import Program

TYPICAL_TOKENS = 200
ITEM = (4, 2, 1)  # bytes of a weight, by the kinds of abi.py


def _part(name: str) -> str:
    """Return the part of a model that a tensor belongs to."""
    if name.startswith("blocks."):
        return "channel_mix" if ".ffn." in name or ".ln2" in name else "time_mix"
    return {"emb": "embedding", "tokenizer": "tokenizer"}.get(name.split(".", 1)[0], "head")


def _owner(name: str) -> str:
    """Return what stands for all tensors of a step: half a layer, or the embedding; nothing in the head."""
    if name.startswith("blocks."):
        return name.split(".")[1] + _part(name)
    return "emb" if name.startswith("emb.") else ""


class Parts:
    """What a program reads where, and the places between operations where it can pause.

    Parameters
    ----------
    program : Program

    Attributes
    ----------
    cuts : list of int
        Operations that a kernel call may begin at, from 0 to the number of operations.
    head_cut : int
        The index in `cuts` of the SELECT operation, where the layers end.
    extents : list of list of tuple of int
        For each step between two cuts where the bytes begin and end that no other step reads.
    by_row, scattered : list of tuple of int
        Offset and bytes of each region of which a token reads single rows; of those the ones that it reads few of.
    """

    def __init__(self, program: Program) -> None:
        self.program, self.file = program, program.file
        self.touched = [self._touched(row) for row in program.rows]
        pauses = (op.MATMUL, op.LEVEL, op.PREVIEW, op.EXACT)
        head = [
            i + 1
            for i in range(program.select + 1, len(program.rows))
            if program.rows[i][0] in pauses
        ]
        embed = 2  # operations: EMBED and its SYNC
        middles = [i for i, note in enumerate(program.notes) if note.endswith(".ln2")]
        self.cuts = sorted(
            {0, embed, *middles, *program.layer_ends, program.select, *head, len(program.rows)}
        )
        self.head_cut = self.cuts.index(program.select)
        self._touched_sums = self._sums(self.touched)
        self.extents = [self._extents(*step) for step in itertools.pairwise(self.cuts)]
        self.layer_bytes = max(np.diff(self._touched_sums).tolist())
        tensors = self.file.tensors.values()
        self.scattered = [
            (t.offset, t.nbytes) for t in tensors if t.name in ("emb.weight", "head.rows.weight")
        ]
        self.by_row = self.scattered + [
            (t.offset, t.nbytes) for t in tensors if t.name.endswith((".bundles", ".rows"))
        ]

    def _touched(self, row: list[int]) -> int:
        field = dict(zip(op.FIELDS[row[0]], row[1:], strict=True))
        if row[0] == op.EMBED:
            return field["width"] * ITEM[field["kind"]] + (4 if field["kind"] == op.INT8 else 0)
        if row[0] in (op.MATMUL, op.PREDICT, op.SPARSE):
            rows = field["units"] * field["unit"]
            vectors = (
                4
                * rows
                * ((field["kind"] == op.INT8) + (field["bias"] >= 0) + (field["diag"] >= 0))
            )
            if row[0] == op.PREDICT:
                # Signs and thresholds; keys are counted as they run.
                signs = -(-rows // op.BLOCK) * op.BLOCK * field["cols"] // 8
                return vectors + signs + rows * (4 + 4 * (field["network"] >= 0))
            return vectors + (
                rows * field["cols"] * ITEM[field["kind"]] if row[0] == op.MATMUL else 0
            )
        if row[0] == op.LEVEL:
            return field["rows"] * (field["bytes"] + 1) + 1024
        if row[0] == op.PREVIEW:
            return field["rows"] * (1 + 1) + 4 * field["cols"] + 2048
        if row[0] == op.GATHER:
            return 4 * field["rows"]
        if row[0] in (op.CHOOSE, op.EXACT):
            return 4 if row[0] == op.CHOOSE else 0  # exact rows are counted as they are read
        width = field.get("width", field.get("heads", 0) * field.get("size", 0))
        names = (
            "weight",
            "bias",
            "ln_weight",
            "ln_bias",
            "k_k",
            "k_a",
            "r_k",
            "bonus",
            "decay",
            "first",
        )
        count = (
            0
            if row[0] == op.SELECT
            else sum(name in field for name in names) + field.get("count", 0)
        )
        return 4 * width * (count - (field.get("per_token", 0) == 1))

    def _extents(self, first: int, last: int) -> list[tuple[int, int]]:
        """Return where the bytes begin and end that operations read and those of other steps do not, in order."""
        names = {_owner(note) for note in self.program.notes[first:last]} - {""}
        tensors = [t for t in self.file.tensors.values() if _owner(t.name) in names]
        found = [(tensor.offset, tensor.offset + tensor.nbytes) for tensor in tensors]
        for row in self.program.rows[max(first, self.program.select) : last]:
            found += self._head_rows(row)
        extents: list[tuple[int, int]] = []
        for start, stop in sorted(found):
            if extents and start - extents[-1][1] < mmap.PAGESIZE:  # the gap holds nothing
                start = extents.pop()[0]
            extents.append((start, stop))
        return extents

    def _head_rows(self, row: list[int]) -> list[tuple[int, int]]:
        """Return where the bytes begin and end that an operation of the head reads and no other."""
        p = op.Fields[row[0]](*row[1:])
        if row[0] == op.LEVEL:
            return [
                (p.codes, p.codes + -(-p.rows // op.BLOCK) * p.bytes * op.BLOCK),
                (p.scales, p.scales + p.rows),
            ]
        if row[0] == op.PREVIEW:
            return [(codes, codes + p.rows) for codes in (p.bias, p.spread)]
        if row[0] == op.GATHER:
            return [(p.places, p.places + 4 * p.rows)]
        if row[0] == op.EXACT:
            weight, scale, last = (
                p.weight + p.first * p.cols,
                p.scale + 4 * p.first,
                p.first + p.rows,
            )
            return [(weight, p.weight + last * p.cols), (scale, p.scale + 4 * last)]
        if row[0] != op.MATMUL:
            return []
        rows = p.units * p.unit
        weight = p.weight, p.weight + rows * p.cols * ITEM[p.kind]
        return [weight] if p.scale == op.NONE else [weight, (p.scale, p.scale + 4 * rows)]

    def _sums(self, counts: list[int]) -> list[int]:
        sums = np.concatenate([[0], np.cumsum(counts)])
        return [int(sums[cut]) for cut in self.cuts]

    def bytes_between(self, first: int, last: int) -> int:
        """Return the weight bytes that the operations between two cuts read for one token."""
        return max(self._touched_sums[last] - self._touched_sums[first], 1)

    def advise(self, in_large_pages: bool) -> None:
        """Tell the system how the file is read."""
        # A page of 2 MB is read faster than 512 small ones, but a row of it would make all of it resident.
        if in_large_pages:
            self.file.advise("MADV_HUGEPAGE")
            for region in self.by_row:
                self.file.advise("MADV_NOHUGEPAGE", *region)
        for region in self.scattered:
            self.file.advise("MADV_RANDOM", *region)

    def within_time(self, first: int, last: int, budget: float) -> int:
        """Return the furthest cut up to `last` that reads up to `budget` bytes from cut `first`, at least the next."""
        return furthest(self._touched_sums, first, last, budget)


def furthest(sums: list[int], first: int, last: int, budget: float) -> int:
    """Return the furthest cut up to `last` with a sum up to `budget` above that of `first`, at least the next."""
    until = first + 1
    while until < last and sums[until + 1] - sums[first] <= budget:
        until += 1
    return until


def plan(parts: Parts, resident_limit: int | None) -> dict[str, Any]:
    """Return bytes by part and in all.

    Returns
    -------
    dict
        file_bytes, touched_bytes_per_token, resident_bytes_max, resident_bytes_typical, state_bytes, workspace_bytes,
        and parts, a list of dicts of part, file_bytes, touched_bytes_per_token, resident_bytes_max. Resident bytes are
        whole pages: at most all that the model can touch, or the limit; typically what 200 tokens leave in memory
        that begin with none of the file there.
    """
    names = ("embedding", "time_mix", "channel_mix", "head", "tokenizer")
    rows: dict[str, dict[str, Any]] = {
        name: {"part": name, "file_bytes": 0, "touched_bytes_per_token": 0, "resident_bytes_max": 0}
        for name in names
    }
    page = mmap.PAGESIZE
    for tensor in parts.file.tensors.values():
        row = rows[_part(tensor.name)]
        row["file_bytes"] += tensor.nbytes
        row["resident_bytes_max"] += (
            -(-tensor.nbytes // page) * page if tensor.nbytes >= page else tensor.nbytes
        )
    for note, touched in zip(parts.program.notes, parts.touched, strict=True):
        rows[_part(note)]["touched_bytes_per_token"] += touched
    listed = [row for row in rows.values() if row["file_bytes"]]
    total = len(parts.file.bytes)
    most = -(-total // page) * page
    return {
        "file_bytes": total,
        "touched_bytes_per_token": sum(parts.touched),
        "resident_bytes_max": most if resident_limit is None else min(most, resident_limit),
        "resident_bytes_typical": min(
            _typical(parts), most if resident_limit is None else resident_limit
        ),
        "state_bytes": 4 * parts.program.state_size,
        "workspace_bytes": parts.program.shared_bytes + parts.program.private_bytes,
        "parts": listed,
    }


def _typical(parts: Parts) -> int:
    """Return the bytes of the file that are resident after some tokens from a cold start.

    Where a token reads only some rows of a part, all its pages are soon in memory but for the embedding's, and those
    of a head of which few rows are exact: there the conversion tells.
    """
    page, tensors = mmap.PAGESIZE, parts.file.tensors
    embedding = tensors["emb.weight"]
    row = embedding.nbytes // embedding.shape[0]
    pages, of_a_row = (
        -(-embedding.nbytes // page),
        1 + (row - math.gcd(row, page)) / page,
    )  # on average
    seen = pages * (1 - max(1 - of_a_row / pages, 0) ** TYPICAL_TOKENS)  # of tokens drawn at random
    total = (-(-len(parts.file.bytes) // page) - pages + round(seen)) * page
    for step in parts.program.config.get("compression", []):
        told = step["report"].get("seen_bytes")
        if (
            "head.rows.weight" in tensors
            and isinstance(told, int)
            and 0 < told < tensors["head.rows.weight"].nbytes
        ):
            return total - tensors["head.rows.weight"].nbytes + told
    return total
