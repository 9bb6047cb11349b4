"""Turn a model file into a program: the operations of one token as numbers that the kernels walk.

A program is a table of int64. Each row is an operation: an opcode, then the fields that
``abi.FIELDS`` names. Fields such as ``weight`` are byte offsets in the mapped file. The others are
byte offsets in workspaces. What every thread needs whole, it computes for itself in its private
workspace: norms, token shifts, quantised activations. What threads split by rows or heads lies in
the shared workspace, with a SYNC between writing and reading.
"""

from __future__ import annotations

import numpy as np

from ..file.mapped import TensorFile
from ..kernels import abi as op
from ..versions.layout import check_tensors
from ..versions.state_shape import first_state, layer_state_size
from .builder import Builder
from .channel_mix import channel_mix
from .head import head
from .operations import Operation
from .time_mix import time_mix


class Program:
    """The operations of one token of a model, and the sizes of the memory that they need.

    Parameters
    ----------
    file : TensorFile
        The model. The name, type and shape of each tensor are compared with what its version needs.

    Attributes
    ----------
    operations : list of Operation
    table : ndarray, int64, shape (operations, op.WIDTH)
        The same as numbers: opcode and fields, then zeros.
    select : int
        The SELECT operation: before it the layers, after it the head.
    head_input : Input
        What goes into the head.
    state_size : int
        Floats of a state.
    shared_bytes, private_bytes : int
        Bytes of the shared workspace, and of the private one that each thread has.

    Raises
    ------
    FormatError
        A tensor is missing, unknown, or of the wrong type or shape.
    """

    def __init__(self, file: TensorFile) -> None:
        check_tensors(file)
        self.file = file
        self.config = file.metadata
        layers = self.config["n_layer"]
        builder = Builder(file)
        embedding(builder)
        for layer in range(layers):
            time_mix(builder, layer)
            channel_mix(builder, layer)
        self.select = len(builder.operations)
        self.head_input = head(builder)
        builder.quantised.finish()

        self.operations = builder.operations
        self.table = _table(builder.operations)
        self.state_size = layers * layer_state_size(self.config)
        self.shared_bytes = builder.shared.bytes
        self.private_bytes = builder.private.bytes

    def initial_state(self) -> np.ndarray:
        """Return the state before the first token: float32, shape (state_size,)."""
        return first_state(self.config)


def embedding(builder: Builder) -> None:
    """Add x = emb[token]."""
    builder.begin("embedding")
    x = builder.shared.floats("x", builder.C)
    matrix = builder.matrix("emb.weight")
    builder.emit(op.EMBED, "emb.weight", **matrix._asdict(), dst=x, width=builder.C)
    builder.sync()
    builder.pause()


def _table(operations: list[Operation]) -> np.ndarray:
    """Return operations as rows of numbers: opcode and fields, then zeros."""
    table = np.zeros((len(operations), op.WIDTH), np.int64)
    for row, operation in zip(table, operations, strict=True):
        numbers = [operation.opcode, *operation.fields]
        row[: len(numbers)] = numbers
    return table
