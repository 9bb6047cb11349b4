"""Write the operations of a channel mix, for each of the forms that a file may have.

::

    x = x + gate * (V @ relu(K @ xk)^2)        v7 has no gate
    x = x + V @ (relu(K @ xk)^2 * factor)      v7a: factor = s0 + S2 @ (S1 @ xn) @ M
    x = x + M * (V @ relu(K @ xk)^2)           v8 rc00

In v7a and v8 rc00, M is a matrix or a vector of the token in this layer. There are three forms:

- K and V are dense matrices;
- V is a table of rows, and only the rows of neurons that are not 0 are read;
- for each neuron, its row of K and its row of V lie together, and a predictor chooses the neurons
  whose row of K is read.
"""

from __future__ import annotations

from typing import NamedTuple

from ..file.tensors import Tensor
from ..kernels import abi as op
from ..versions.forms import DEEP_RANK, DEEP_TABLE, LIKE_V7, deep_shape
from .builder import Builder, Finish, Input, Matrix, product_fields


class Rows(NamedTuple):
    """How rows lie in a region of pages: the fields of PREDICT and SPARSE.

    Row i begins at ``page * 4096 + (i - page * per_page) * row_bytes`` with
    ``page = i * reciprocal >> 32``. If rows simply follow each other, per_page is 0.
    """

    row_bytes: int
    per_page: int = 0
    reciprocal: int = 0


class Network(NamedTuple):
    """Where the scores of a predictor's network and their thresholds lie; NONE if it has none."""

    network: int = op.NONE
    network_threshold: int = op.NONE


def channel_mix(builder: Builder, layer: int) -> None:
    """Add the channel mix of a layer."""
    builder.begin("channel_mix", layer)
    C, F = builder.C, builder.config["n_ffn"]
    ffn = f"blocks.{layer}.ffn."
    arch = builder.config["arch"]
    gated = arch not in LIKE_V7
    has_gate = gated or arch == "v8-rc00"
    ffn_x = builder.layer_state(layer) + 4 * C  # after att_x
    builder.norm(f"blocks.{layer}.ln2")
    builder.shift(ffn + "token_shift", 2 if gated else 1, ffn_x)
    hidden = builder.shared.floats("hidden", F)
    gate = builder.shared.floats("ffn gate", C) if has_gate else op.NONE
    _write_keys(builder, ffn, hidden)
    if gated:
        builder.project(ffn + "receptance.weight", builder.mixed_input(1), gate, op.SIGMOID)
    elif has_gate:
        own_matrix(builder, layer, op.ONES, 0, gate)  # 1 @ M
    if arch == "v7a":
        _write_factors(builder, layer, hidden)
    builder.sync()
    _write_values(builder, ffn, hidden, gate)
    builder.sync()
    builder.pause()


def _write_keys(builder: Builder, ffn: str, hidden: int) -> None:
    """Add hidden = relu(K @ xk)^2."""
    network = _predictor_network(builder, ffn)
    xk = builder.mixed_input(0)
    bundles = builder.file.tensors.get(ffn + "bundles")
    if bundles:
        predicted_key(builder, ffn, bundles, xk, network, hidden)
    else:
        builder.matmul(ffn + "key.weight", xk, hidden, Finish(op.SQUARED_RELU))


def _write_factors(builder: Builder, layer: int, hidden: int) -> None:
    """Add hidden = hidden * (s0 + S2 @ (S1 @ xn) @ M)."""
    ffn = f"blocks.{layer}.ffn."
    low = builder.shared.floats("low own", DEEP_RANK)
    product = builder.shared.floats("own", DEEP_RANK)
    xn = builder.private.floats("xn", builder.C)
    builder.matmul(ffn + "s1.weight", builder.input(xn, builder.C, shared=False), low)
    builder.sync()
    own_matrix(builder, layer, low, DEEP_RANK, product)
    builder.sync()
    x = builder.input(product, DEEP_RANK, shared=True)
    finish = Finish(bias=builder.vector(ffn + "s0"), mode=op.MULTIPLY)
    builder.matmul(ffn + "s2.weight", x, hidden, finish)


def own_matrix(builder: Builder, layer: int, src: int, stride: int, dst: int) -> None:
    """Add dst = src @ M, where M is the matrix of the token in this layer."""
    table = builder.file.tensors[DEEP_TABLE]
    kind = op.INT8 if table.dtype == "u8" else op.KINDS[table.dtype]
    row_bytes = table.nbytes // table.shape[0]
    rows, columns = deep_shape(builder.config)
    builder.emit(
        op.DEEP,
        f"blocks.{layer}.ffn.deep_emb",
        weight=table.offset + layer * (row_bytes // table.shape[1]),
        kind=kind,
        row_bytes=row_bytes,
        src=src,
        stride=stride,
        rows=rows,
        cols=columns,
        dst=dst,
    )


def _write_values(builder: Builder, ffn: str, hidden: int, gate: int) -> None:
    """Add x = x + gate * (V @ hidden), and before it the second factor of the gate."""
    C, F = builder.C, builder.config["n_ffn"]
    bundles = builder.file.tensors.get(ffn + "bundles")
    values = builder.file.tensors.get(ffn + "value.rows")
    unit = 1
    if bundles or values:
        unit = 64 if C % 64 == 0 else 8
    # A thread computes just those rows of the gate that it multiplies with rows of the value.
    builder.second_factors(unit)
    h = builder.input(hidden, F, shared=True)
    finish = Finish(mode=op.ADD if gate == op.NONE else op.GATED_ADD, gate=gate)
    if bundles:
        matrix = _bundled_matrix(builder, bundles, "value")
        # A row of a bundle is a row of K and then one of V.
        matrix = matrix._replace(weight=matrix.weight + op.row_bytes(matrix.kind, C))
        rows = _bundled_rows(bundles, matrix.kind, C)
        sparse_value(builder, bundles.name, matrix, rows, h, unit, finish)
    elif values:
        matrix = builder.matrix(values.name)
        rows = Rows(op.row_bytes(matrix.kind, C))
        sparse_value(builder, values.name, matrix, rows, h, unit, finish)
    else:
        x = builder.shared.floats("x", C)
        builder.matmul(ffn + "value.weight", h, x, finish)


def predicted_key(
    builder: Builder, ffn: str, bundles: Tensor, xk: Input, network: Network, hidden: int
) -> None:
    """Add hidden = relu(K @ xk)^2 for the neurons that a predictor chooses, 0 for the others."""
    C, F = builder.C, builder.config["n_ffn"]
    matrix = _bundled_matrix(builder, bundles, "key")
    finish = Finish(op.SQUARED_RELU)
    builder.emit(
        op.PREDICT,
        bundles.name,
        **product_fields(matrix, F, C, 1, xk, hidden, F, finish),
        **_bundled_rows(bundles, matrix.kind, C)._asdict(),
        signs=builder.vector(ffn + "predictor.signs"),
        threshold=builder.vector(ffn + "predictor.threshold"),
        sums=builder.tables,
        **network._asdict(),
    )


def sparse_value(
    builder: Builder,
    name: str,
    matrix: Matrix,
    rows: Rows,
    hidden: Input,
    unit: int,
    finish: Finish,
) -> None:
    """Add x = x + gate * sum of hidden_f V_f, for the rows V_f whose neuron is not 0."""
    C, F = builder.C, builder.config["n_ffn"]
    x = builder.shared.floats("x", C)
    builder.emit(
        op.SPARSE,
        name,
        **product_fields(matrix, C, F, unit, hidden, x, C, finish),
        **rows._asdict(),
        list=builder.listed,
    )


def _bundled_matrix(builder: Builder, bundles: Tensor, part: str) -> Matrix:
    """Return where bundles begin, and the scales of their keys or values."""
    kind = op.KINDS[bundles.dtype]
    scale = op.NONE if kind == op.INT4 else builder.vector(f"{bundles.name}.{part}_scale")
    return Matrix(bundles.offset, scale, kind)


def _bundled_rows(bundles: Tensor, kind: int, C: int) -> Rows:
    """Return how bundles lie: several in a page, or end to end if a page is too small for two."""
    row_bytes = 2 * op.row_bytes(kind, C)
    if bundles.shape[1] != op.PAGE:
        return Rows(row_bytes)
    per_page = op.PAGE // row_bytes
    return Rows(row_bytes, per_page, 2**32 // per_page + 1)


def _predictor_network(builder: Builder, ffn: str) -> Network:
    """Add scores = fc2 @ relu(fc1 @ xk), if the predictor has a network."""
    first, second = ffn + "predictor.fc1.weight", ffn + "predictor.fc2.weight"
    if first not in builder.file.tensors:
        return Network()
    low = builder.low("low network")
    scores = builder.shared.floats("scores", builder.config["n_ffn"])
    builder.matmul(first, builder.mixed_input(0), low, Finish(op.RELU))
    builder.sync()
    width = builder.file.tensors[first].shape[0]
    builder.matmul(second, builder.input(low, width, shared=True), scores)
    builder.sync()  # PREDICT splits neurons between threads differently than a product its rows
    return Network(scores, builder.vector(ffn + "predictor.mlp_threshold"))
