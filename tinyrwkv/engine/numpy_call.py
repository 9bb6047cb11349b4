"""What all operations in NumPy share: the memory of a call, and weights in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np

from ..kernels import abi as op
from ..program.program import Program
from .workspace import Workspace

BLOCK_WEIGHTS = 1 << 19
"""Weights that are turned into floats at one time: 2 MB, whatever the size of a matrix."""

DType: TypeAlias = "np.dtype[Any]"  # a text, since NumPy 1.21 has no np.dtype[...]

F32: DType = np.dtype("<f4")
I32: DType = np.dtype("<i4")
I16: DType = np.dtype(np.int16)
I8: DType = np.dtype("i1")
U8: DType = np.dtype("u1")

WEIGHT_TYPES: dict[int, DType] = {
    op.F32: F32,
    op.F16: np.dtype("<f2"),
    op.INT8: I8,
    op.INT4: U8,  # packed
}


QUANTISED = (op.INT8, op.INT4)
"""Kinds of weights whose activations are int16."""


class Call:
    """The memory of one call, as arrays of shape (tokens, width).

    Parameters
    ----------
    program : Program
    workspace : Workspace
    ids : ndarray, int32, shape (T,)
    old : ndarray, float32, shape (state_size,)
    new : ndarray, float32, shape (state_size,) or (T, state_size)
    out : ndarray, float32, or None
        Memory for the logits.
    head : int
        What SELECT keeps for the head.

    Attributes
    ----------
    tokens : int
        How many tokens are read; SELECT may make them one.
    """

    def __init__(
        self,
        program: Program,
        workspace: Workspace,
        ids: np.ndarray,
        old: np.ndarray,
        new: np.ndarray,
        out: np.ndarray | None,
        head: int,
    ) -> None:
        self.program = program
        self.workspace = workspace
        self.ids = ids
        self.tokens = len(ids)
        self.old = old
        self.new = new
        self.out = out
        self.head = head
        self.ln_x_eps = np.float32(program.config["ln_x_eps"])

    def weights(self, offset: int, dtype: DType, *shape: int) -> np.ndarray:
        """Return weights where they lie in the mapped file."""
        return np.ndarray(shape, dtype, self.program.weights, offset)

    def vector(self, offset: int, width: int) -> np.ndarray:
        """Return float32 weights, (width,)."""
        return np.frombuffer(self.program.weights, F32, width, offset)

    def shared(self, offset: int, width: int, dtype: DType = F32) -> np.ndarray:
        """Return a place of the shared workspace, (T, width)."""
        count = self.tokens * width
        return np.frombuffer(self.workspace.shared, dtype, count, offset).reshape(-1, width)

    def private(self, offset: int, width: int, dtype: DType = F32) -> np.ndarray:
        """Return a place of the private workspace, (T, width)."""
        count = self.tokens * width
        return np.frombuffer(self.workspace.private[0], dtype, count, offset).reshape(-1, width)

    def renew(self, t: int, place: slice, values: np.ndarray) -> None:
        """Write a part of the state after token t, if there is a state for it."""
        if self.new.ndim == 2:
            self.new[t, place] = values.ravel()
        elif t == self.tokens - 1:
            self.new[place] = values.ravel()

    def quantised(self, fields: Any, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Return quantised activations (T, width), int16, and their scales (T, 1)."""
        q = self.private(fields.src, width, I16)
        scale = self.private(fields.src_scale, 1)
        return q, scale

    def logits(self, width: int) -> np.ndarray:
        """Return the memory for the logits, (T, width)."""
        assert self.out is not None, "the head is run only to get logits"
        return self.out.reshape(-1, width)[: self.tokens]

    def matrix(self, kind: int, offset: int, rows: int, cols: int) -> np.ndarray:
        """Return a matrix where it lies in the mapped file; rows of int4 as bytes."""
        width = op.row_bytes(kind, cols) // WEIGHT_TYPES[kind].itemsize
        return self.weights(offset, WEIGHT_TYPES[kind], rows, width)

    def row_scales(self, fields: Any, width: int) -> np.ndarray:
        """Return the scales of quantised rows, (width,): ones for int4, whose rows hold theirs."""
        if fields.kind == op.INT4:
            return np.ones(width, F32)
        return self.vector(fields.scale, width)

    def floats(self, block: np.ndarray) -> np.ndarray:
        """Widen a block of weights into a buffer that every block of this workspace uses."""
        buffer = self.workspace.floats(block.size).reshape(block.shape)
        np.copyto(buffer, block)
        return buffer


def row_blocks(rows: int, cols: int, multiple: int = 1) -> Iterator[slice]:
    """Yield the rows of a matrix in blocks of up to BLOCK_WEIGHTS weights.

    Every block but the last has a multiple of `multiple` rows.
    """
    step = max(1, BLOCK_WEIGHTS // cols // multiple) * multiple
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def product(x: np.ndarray, W: np.ndarray) -> np.ndarray:
    """Return ``x @ W.T``, (T, rows).

    For one token, it is computed as many products of a few rows each, which are too small for BLAS
    to use several threads. BLAS threads would wait for each other many hundred times a token, and
    for any other program that needs a core.
    """
    if len(x) > 1:
        return x @ W.T
    rows, cols = W.shape
    few = max(1, 8192 // cols)
    whole = rows // few * few
    y = np.empty((1, rows), np.float32)
    np.matmul(W[:whole].reshape(-1, few, cols), x[0], out=y[0, :whole].reshape(-1, few))
    y[0, whole:] = W[whole:] @ x[0]
    return y


def upper_bytes(q: np.ndarray) -> np.ndarray:
    """Return round(q / 256)."""
    return (q.astype(np.int32) + 128 >> 8).astype(np.float32)


def unpacked_rows(codes: np.ndarray, bits: int, rows: slice) -> np.ndarray:
    """Return the codes of some rows, one in each uint8: (blocks, bytes, 64) to (rows, rank).

    `rows` begins with a block of 64 rows.
    """
    first = rows.start // op.BLOCK
    last = -(-rows.stop // op.BLOCK)
    return unpack(codes[first:last], bits)[: rows.stop - rows.start]


def unpack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Return codes of `bits` bits, one in each uint8: (blocks, bytes, 64) to (64 blocks, rank)."""
    side_by_side = codes.transpose(0, 2, 1)[..., None]  # (blocks, 64, bytes, 1)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    unpacked = (side_by_side >> shifts) & np.uint8(2**bits - 1)  # (blocks, 64, bytes, codes)
    return unpacked.reshape(-1, codes.shape[1] * 8 // bits)
