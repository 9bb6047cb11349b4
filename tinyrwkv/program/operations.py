"""The table of operations: what each one computes, and which functions write and run it.

A new operation needs a number and fields in ``kernels/abi.py``, a row in this table, and the three
functions that the row names. Tests compare the table with the code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

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


class Description(NamedTuple):
    """What is known about all operations with one opcode.

    Attributes
    ----------
    name : str
    fields : tuple of str
        The numbers that follow the opcode in a row of a program.
    formula : str
        What it computes, for people.
    emitter : str
        The function in ``program`` that writes it, as module.function or module.class.method.
    kernel : str
        The function in ``kernels`` that runs it, as module.function. Text, since Numba may be
        missing.
    numpy_form : str
        The function in ``engine`` that runs it with NumPy, as module.function.
    touched : callable
        ``touched(fields)`` is the number of bytes of weights that every token reads. Rows that
        only some tokens need are counted when they are read.
    matrices : callable
        ``matrices(fields)`` lists the extents in the file of the matrices and codes that it reads,
        without the short vectors beside them.
    """

    name: str
    fields: tuple[str, ...]
    formula: str
    emitter: str
    kernel: str
    numpy_form: str
    touched: Callable[[Any], int]
    matrices: Callable[[Any], list[Extent]]


def _no_bytes(fields: Any) -> int:
    return 0


def _no_matrices(fields: Any) -> list[Extent]:
    return []


def _embedding_row(fields: Any) -> int:
    scale = 4 if fields.kind == op.INT8 else 0
    return int(op.row_bytes(fields.kind, fields.width) + scale)


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


def _describe(
    opcode: int,
    formula: str,
    *,
    emitter: str,
    kernel: str,
    numpy_form: str,
    touched: Callable[[Any], int] = _no_bytes,
    matrices: Callable[[Any], list[Extent]] = _no_matrices,
) -> tuple[int, Description]:
    return opcode, Description(
        op.NAMES[opcode],
        op.FIELDS[opcode],
        formula,
        emitter,
        kernel,
        numpy_form,
        touched,
        matrices,
    )


OPERATIONS: dict[int, Description] = dict(
    [
        _describe(
            op.EMBED,
            "x = emb[token]",
            emitter="program.embedding",
            kernel="pointwise.embed",
            numpy_form="numpy_pointwise.embed",
            touched=_embedding_row,
        ),
        _describe(
            op.NORM,
            "xn = (x - mean(x)) / sqrt(var(x) + 1e-5) * weight + bias",
            emitter="builder.Builder.norm",
            kernel="pointwise.norm",
            numpy_form="numpy_pointwise.norm",
            touched=_norm_vectors,
        ),
        _describe(
            op.SHIFT,
            "x_j = xn + (xn_prev - xn) * mu_j",
            emitter="builder.Builder.shift",
            kernel="pointwise.shift",
            numpy_form="numpy_pointwise.shift",
            touched=_shift_vectors,
        ),
        _describe(
            op.QUANTIZE,
            "q = round(x / s), s = max|x| / qmax",
            emitter="builder.Builder.input",
            kernel="pointwise.quantize",
            numpy_form="numpy_pointwise.quantize",
        ),
        _describe(
            op.MATMUL,
            "y = W @ x",
            emitter="builder.Builder.matmul",
            kernel="matmul.matmul",
            numpy_form="numpy_matmul.matmul",
            touched=_product_touched,
            matrices=_product_matrices,
        ),
        _describe(
            op.PREDICT,
            "y_f = relu(K_f . x)^2 where signs_f . x > threshold_f or the network says so, else 0",
            emitter="channel_mix.predicted_key",
            kernel="sparse.predict",
            numpy_form="numpy_sparse.predict",
            touched=_predictor_touched,
        ),
        _describe(
            op.SPARSE,
            "x += gate * sum of rows f with x_f != 0: x_f W_f",
            emitter="channel_mix.sparse_value",
            kernel="sparse.sparse",
            numpy_form="numpy_sparse.sparse",
            touched=_vectors_beside,
        ),
        _describe(
            op.WKV4,
            "wkv = (e^(pp-q) aa + e^(u+k-q) v) / (e^(pp-q) bb + e^(u+k-q)); y = r * wkv",
            emitter="time_mix.TimeMix.wkv4",
            kernel="wkv.wkv4",
            numpy_form="numpy_wkv.wkv4",
            touched=_wkv4_vectors,
        ),
        _describe(
            op.WKV5,
            "y = ln_x(r @ (S + diag(u) k v^T)) * g; S = diag(w) S + k v^T",
            emitter="time_mix.TimeMix.wkv5",
            kernel="wkv.wkv5",
            numpy_form="numpy_wkv.wkv5",
            touched=_wkv5_vectors,
        ),
        _describe(
            op.WKV7,
            "S = diag(w) S + kk a (S^T -kk)^T + k v^T; y = (ln_x(r @ S) + (r . k r_k) v) * g",
            emitter="time_mix.TimeMix.wkv7",
            kernel="wkv.wkv7",
            numpy_form="numpy_wkv.wkv7",
            touched=_wkv7_vectors,
        ),
        _describe(
            op.SELECT,
            "x = x[last token]",
            emitter="head.head",
            kernel="pointwise.select",
            numpy_form="numpy_pointwise.select",
        ),
        _describe(
            op.SYNC,
            "wait for the other threads",
            emitter="builder.Builder.sync",
            kernel="run.wait",
            numpy_form="numpy_pointwise.sync",
        ),
        _describe(
            op.LEVEL,
            "z_i (+)= s scale_i (c_i . u - (2^bits - 1) / 2 sum(u)), u = round(q / 256)",
            emitter="head.Preview.level",
            kernel="head.level",
            numpy_form="numpy_head.level",
            touched=_level_touched,
            matrices=_level_codes,
        ),
        _describe(
            op.PREVIEW,
            "z_i += mean . x + bias_i; score_i = round(16 (z_i + spread_i))",
            emitter="head.Preview.scores",
            kernel="head.preview",
            numpy_form="numpy_head.preview",
            touched=_preview_touched,
            matrices=_preview_codes,
        ),
        _describe(
            op.CHOOSE,
            "lowest = the least score that no more rows reach than are wanted",
            emitter="head.Preview.choose",
            kernel="head.choose",
            numpy_form="numpy_head.choose",
            touched=_one_number,
        ),
        _describe(
            op.EXACT,
            "z_i = w_i . x where score_i >= lowest",
            emitter="head.Preview.exact",
            kernel="head.exact",
            numpy_form="numpy_head.exact",
            matrices=_exact_rows,
        ),
        _describe(
            op.GATHER,
            "logits[id] = z of its row",
            emitter="head.Preview.gather",
            kernel="head.gather",
            numpy_form="numpy_head.gather",
            touched=_places_touched,
            matrices=_places,
        ),
    ]
)
