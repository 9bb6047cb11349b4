"""Turn a model file into a program: the operations of one token as numbers that the kernels walk.

A program is a table of int64. Each row is an operation: an opcode, then the fields that
``abi.FIELDS`` names. A field is a size or a setting, or it is a byte offset: of weights in the
mapped file, of activations in a workspace.

Threads split matrix products by rows and wkv by heads. The results lie in the shared workspace,
and a SYNC stands between writing and reading them. Every thread needs all of the norms, token
shifts and quantised activations, so it computes them for itself, in its private workspace.
"""

from __future__ import annotations

import numpy as np

from ..file.tensors import TensorFile
from ..kernels import abi as op
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
        The model. `check_tensors` must have found its tensors to be those that its version needs.

    Attributes
    ----------
    weights : ndarray, uint8
        The bytes of the file.
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
    """

    def __init__(self, file: TensorFile) -> None:
        self.file = file
        self.weights = file.bytes  # what runs may read them while another thread closes the file
        self.config = file.config
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
