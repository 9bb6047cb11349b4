"""Count the bytes of a model by part: in the file, read for a token, resident."""

from __future__ import annotations

import math
from typing import TypedDict

from ..file.tensors import Tensor
from ..kernels.abi import DEEP
from ..versions.forms import DEEP_TABLE
from .reader import MOST_AT_ONCE
from .steps import SYSTEM_PAGE, Steps, pages, part_of

TYPICAL_TOKENS = 200
"""Tokens after which the typical number of resident bytes is given."""

PARTS = ("embedding", "time_mix", "channel_mix", "head", "deep_embedding", "tokenizer")


class PartPlan(TypedDict):
    """The bytes of one part of a model."""

    part: str
    file_bytes: int
    touched_bytes_per_token: int
    resident_bytes_max: int


class MemoryPlan(TypedDict):
    """The bytes of a model, in all and by part."""

    file_bytes: int
    touched_bytes_per_token: int
    resident_bytes_max: int
    resident_bytes_typical: int
    state_bytes: int
    workspace_bytes: int
    chunk_bytes: int
    parts: list[PartPlan]


def memory_plan(steps: Steps, resident_limit: int | None) -> MemoryPlan:
    """Return the bytes of a model, in all and by part.

    No weight is read for it. Resident bytes are whole pages. Their maximum is all that the model
    can touch, or the limit. Their typical number is what `TYPICAL_TOKENS` tokens leave in memory,
    if none of the file was there before. A copy is in memory as a whole.

    Parameters
    ----------
    steps : Steps
    resident_limit : int or None
        The most bytes of the file that may be in memory.

    Returns
    -------
    dict
        As `MemoryPlan` says. Parts that the file does not have are left out.
    """
    program = steps.program
    total = steps.file.size
    most = pages(0, total)
    if resident_limit is None:
        resident_limit = most
    typical = most if steps.file.copied else _typical_bytes(steps)
    return {
        "file_bytes": total,
        "touched_bytes_per_token": sum(steps.touched),
        "resident_bytes_max": min(most, resident_limit),
        "resident_bytes_typical": min(typical, resident_limit),
        "state_bytes": 4 * program.state_size,
        "workspace_bytes": program.shared_bytes + program.private_bytes,
        "chunk_bytes": MOST_AT_ONCE * _bytes_after_a_token(steps),
        "parts": _parts(steps),
    }


def _bytes_after_a_token(steps: Steps) -> int:
    """Return the bytes of a state, logits and the head's input, kept for a token read ahead."""
    config = steps.program.config
    return 4 * (steps.program.state_size + config["vocab_size"] + config["n_embd"] + 1)


def _parts(steps: Steps) -> list[PartPlan]:
    """Return the bytes of each part that the file has."""
    parts: dict[str, PartPlan] = {
        name: {
            "part": name,
            "file_bytes": 0,
            "touched_bytes_per_token": 0,
            "resident_bytes_max": 0,
        }
        for name in PARTS
    }
    for tensor in steps.file.tensors.values():
        part = parts[part_of(tensor.name)]
        part["file_bytes"] += tensor.nbytes
        # Small tensors share their pages with others.
        is_large = tensor.nbytes >= SYSTEM_PAGE
        part["resident_bytes_max"] += pages(0, tensor.nbytes) if is_large else tensor.nbytes
    for operation, touched in zip(steps.program.operations, steps.touched, strict=True):
        name = "deep_embedding" if operation.opcode == DEEP else operation.part
        parts[name]["touched_bytes_per_token"] += touched
    return [part for part in parts.values() if part["file_bytes"]]


def _typical_bytes(steps: Steps) -> int:
    """Return the bytes of the file that are resident after some tokens from a cold start.

    Even if a token reads only some rows of a part, all pages of the part are soon in memory. There
    are three exceptions: the embedding, a deep embedding, and a head that computes few rows
    exactly.
    """
    tensors = steps.file.tensors
    total = pages(0, steps.file.size)
    for name in ("emb.weight", DEEP_TABLE):
        if name in tensors:
            total -= pages(0, tensors[name].nbytes)
            total += _typical_pages(tensors[name]) * SYSTEM_PAGE
    rows = tensors.get("head.rows.weight")
    if rows:
        seen = _seen_bytes_of_head(steps, rows)
        if seen is not None:
            total += seen - rows.nbytes
    return total


def _typical_pages(embedding: Tensor) -> int:
    """Return how many pages of an embedding `TYPICAL_TOKENS` random tokens read."""
    row_bytes = embedding.nbytes // embedding.shape[0]
    all_pages = pages(0, embedding.nbytes) // SYSTEM_PAGE
    # A row begins at a multiple of `grain` bytes in its page; each of them is equally likely.
    grain = math.gcd(row_bytes, SYSTEM_PAGE)
    pages_of_a_row = 1 + (row_bytes - grain) / SYSTEM_PAGE  # on average
    unread = max(1 - pages_of_a_row / all_pages, 0) ** TYPICAL_TOKENS
    return round(all_pages * (1 - unread))


def _seen_bytes_of_head(steps: Steps, rows: Tensor) -> int | None:
    """Return how many bytes of a head's rows were read when it was made, if the file tells."""
    for step in steps.program.config.get("compression", []):
        seen = step["report"].get("seen_bytes")
        if isinstance(seen, int) and 0 < seen < rows.nbytes:
            return seen
    return None
