"""Operations of a program, and which bytes of weights each of them reads.

A new operation needs a number and fields in ``kernels/abi.py``, a row in this table, and a row in
``formulas.py`` with the three functions that it names. Tests compare both tables with the code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from ..file.row_table import SCALE_BYTES
from ..kernels import abi as op

Part = Literal["embedding", "time_mix", "channel_mix", "head"]

Extent = tuple[int, int]
"""Where bytes of the file begin, and where they end."""

SCALES_BYTES = 4 * op.SCALES
"""Bytes of a table of scales: a float32 for each value of a code of 8 bits."""


class Operation(NamedTuple):
    """One operation of a program.

    Attributes
    ----------
    opcode : int
        One of ``abi``.
    fields : named tuple of int
        Of the type ``abi.Fields[opcode]``.
    label : str
        The tensor that it reads, or what it makes; empty if there is nothing to say.
    part : str
        The part of the model that it belongs to.
    layer : int or None
        None in the embedding and in the head.
    pausable : bool
        Whether a call of the kernels may end after it, and the next one go on from there.
    """

    opcode: int
    fields: Any
    label: str
    part: Part
    layer: int | None
    pausable: bool = False


class Reads(NamedTuple):
    """Which bytes of weights all operations with one opcode read.

    Attributes
    ----------
    touched : callable
        ``touched(fields)`` is the number of bytes of weights that every token reads. Rows that
        only some tokens need are counted when they are read.
    matrices : callable
        ``matrices(fields)`` lists the extents in the file of the matrices and codes that it reads,
        without the short vectors beside them.
    """

    touched: Callable[[Any], int]
    matrices: Callable[[Any], list[Extent]]


def _no_bytes(fields: Any) -> int:
    return 0


def _no_matrices(fields: Any) -> list[Extent]:
    return []


def _embedding_row(fields: Any) -> int:
    scale = 4 if fields.kind == op.INT8 else 0
    return int(op.row_bytes(fields.kind, fields.width) + scale)


def _own_matrix(fields: Any) -> int:
    scale = SCALE_BYTES if fields.kind == op.INT8 else 0
    return int(fields.rows * op.row_bytes(fields.kind, fields.cols)) + scale


def _norm_vectors(fields: Any) -> int:
    return int(4 * fields.width * 2)  # weight and bias


def _shift_vectors(fields: Any) -> int:
    return int(4 * fields.width * fields.count)


def _vectors_beside(fields: Any) -> int:
    """Return the bytes of the scales, biases and diagonal of a product: a float32 for each row."""
    rows = fields.units * fields.unit
    vectors = (fields.kind == op.INT8) + (fields.bias != op.NONE) + (fields.diag != op.NONE)
    return int(4 * rows * vectors)


def _product_touched(fields: Any) -> int:
    matrix = fields.units * fields.unit * op.row_bytes(fields.kind, fields.cols)
    return int(matrix) + _vectors_beside(fields)


def _product_matrices(fields: Any) -> list[Extent]:
    rows = fields.units * fields.unit
    end = fields.weight + rows * op.row_bytes(fields.kind, fields.cols)
    weight = (fields.weight, end)
    if fields.scale == op.NONE:
        return [weight]
    return [weight, (fields.scale, fields.scale + 4 * rows)]


def _predictor_touched(fields: Any) -> int:
    neurons = fields.units * fields.unit
    blocks = -(-neurons // op.BLOCK)
    signs = blocks * op.BLOCK * fields.cols // 8
    thresholds = 4 * neurons
    if fields.network != op.NONE:
        thresholds += 4 * neurons
    return int(signs + thresholds) + _vectors_beside(fields)


def _wkv4_vectors(fields: Any) -> int:
    return int(4 * fields.width * 2)  # decay and first


def _wkv5_vectors(fields: Any) -> int:
    vectors = 3 if fields.per_token else 4  # ln_weight, ln_bias, bonus and a decay that is a vector
    return int(4 * fields.heads * fields.size * vectors)


def _wkv7_vectors(fields: Any) -> int:
    return int(4 * fields.heads * fields.size * 5)  # k_k, k_a, r_k, ln_weight and ln_bias


def _level_touched(fields: Any) -> int:
    codes_and_scale = fields.bytes + 1
    return int(fields.rows * codes_and_scale + SCALES_BYTES)


def _level_codes(fields: Any) -> list[Extent]:
    blocks = -(-fields.rows // op.BLOCK)
    codes = (fields.codes, fields.codes + blocks * op.BLOCK * fields.bytes)
    return [codes, (fields.scales, fields.scales + fields.rows)]


def _preview_touched(fields: Any) -> int:
    codes = 2 * fields.rows  # of bias and spread
    mean = 4 * fields.cols
    return int(codes + mean + 2 * SCALES_BYTES)


def _preview_codes(fields: Any) -> list[Extent]:
    return [(fields.bias, fields.bias + fields.rows), (fields.spread, fields.spread + fields.rows)]


def _one_number(fields: Any) -> int:
    return 4


def _exact_rows(fields: Any) -> list[Extent]:
    row_bytes = op.row_bytes(fields.kind, fields.cols)
    last = fields.first + fields.rows
    weight = (fields.weight + fields.first * row_bytes, fields.weight + last * row_bytes)
    if fields.scale == op.NONE:
        return [weight]
    return [weight, (fields.scale + 4 * fields.first, fields.scale + 4 * last)]


def _places_touched(fields: Any) -> int:
    return int(fields.place_bytes * fields.rows)


def _places(fields: Any) -> list[Extent]:
    return [(fields.places, fields.places + _places_touched(fields))]


OPERATIONS: dict[int, Reads] = {
    op.EMBED: Reads(_embedding_row, _no_matrices),
    op.NORM: Reads(_norm_vectors, _no_matrices),
    op.SHIFT: Reads(_shift_vectors, _no_matrices),
    op.QUANTIZE: Reads(_no_bytes, _no_matrices),
    op.MATMUL: Reads(_product_touched, _product_matrices),
    op.PREDICT: Reads(_predictor_touched, _no_matrices),
    op.SPARSE: Reads(_vectors_beside, _no_matrices),
    op.WKV4: Reads(_wkv4_vectors, _no_matrices),
    op.WKV5: Reads(_wkv5_vectors, _no_matrices),
    op.WKV7: Reads(_wkv7_vectors, _no_matrices),
    op.SELECT: Reads(_no_bytes, _no_matrices),
    op.SYNC: Reads(_no_bytes, _no_matrices),
    op.LEVEL: Reads(_level_touched, _level_codes),
    op.PREVIEW: Reads(_preview_touched, _preview_codes),
    op.CHOOSE: Reads(_one_number, _no_matrices),
    op.EXACT: Reads(_no_bytes, _exact_rows),
    op.GATHER: Reads(_places_touched, _places),
    op.DEEP: Reads(_own_matrix, _no_matrices),
}
