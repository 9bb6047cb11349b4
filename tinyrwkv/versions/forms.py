"""What a program depends on besides a model's sizes: its version, and the forms of its matrices."""

from __future__ import annotations

from ..file import int4
from ..file.config import ModelSizes
from ..file.tensors import Tensor, TensorFile

SHIFTED = {
    "v4": "rkv",
    "v5.0": "rkv",
    "v5.1": "rkvg",
    "v5.2": "rkvg",
    "v6": "rkvwg",
    "v7": "rwkvag",
    "v7a": "rwkvag",
    "v8-rc00": "rwkvag",
}
"""The inputs that token_shift makes for a time mix, in the order of the rows of att.token_shift."""

LIKE_V7 = ("v7", "v7a", "v8-rc00")
"""The versions that have the time mix of v7, and a channel mix without a receptance."""

DEEP_TABLE = "deep_emb.table"
"""For each token and layer a small matrix, of which the channel mix reads that of its token."""

DEEP_RANK = 32
"""Rows and columns of the matrix that a token has in each layer of v7a."""

QUANTISED = ("int8", "int4")
"""The types of models whose activations are int16."""

LIKELY = "head.likely.weight"
"""The rows of the head for the likeliest tokens, if they are stored with more bits."""

CODE_BITS = (4, 2)
"""Bits of the codes of a head's preview: all rows have the first, likely rows also the second."""


def deep_shape(config: ModelSizes) -> tuple[int, int]:
    """Return (rows, columns) of the matrix that a token has in each layer; (0, 0) without one."""
    if config["arch"] == "v7a":
        return DEEP_RANK, DEEP_RANK
    return (1, config["n_embd"]) if config["arch"] == "v8-rc00" else (0, 0)


def matrix_shape(tensor: Tensor) -> tuple[int, int]:
    """Return (out, in) of a matrix in a file, whatever its type."""
    rows, width = tensor.shape
    return rows, int4.columns(width) if tensor.dtype == "u8" else width


def code_qmax(bits: int) -> int:
    """Return the largest activation that keeps every sum in a table of the kernels at most 511.

    The tables are those of ``kernels/codes.py``.
    """
    return 511 // ((2**bits - 1) * (4 // bits))


def preview_levels(file: TensorFile) -> list[tuple[int, int, int]]:
    """Return (rows, rank, bits) of the codes of a head's preview."""
    levels = []
    for bits in CODE_BITS:
        if f"head.codes.{bits}" in file:
            rows = file.tensors[f"head.scale_codes.{bits}"].shape[0]
            bytes_of_row = file.tensors[f"head.codes.{bits}"].shape[1]
            levels.append((rows, bytes_of_row * 8 // bits, bits))
    return levels
