"""Make the table of a deep embedding some tokens at a time: it is larger than the rest of a model.

For each token and layer it has n numbers. In RWKV-7a they are ``s_emb + emb @ s_emb_x^T``, with
the embedding after ln0. In RWKV-8 rc00 they are a row of ``enn``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from tinyrwkv.errors import FormatError, show
from tinyrwkv.file.quant import quantize_rows
from tinyrwkv.file.row_table import SCALE_BYTES, with_scales
from tinyrwkv.file.writer import Writer
from tinyrwkv.versions.forms import DEEP_TABLE, deep_shape

from ..checkpoint.versions import Checkpoint
from ..read.source import BLOCK, SourceTensor
from .content import DeepTable
from .encode import Loss, squares
from .fold import fold_ln0

Array = np.ndarray

_FLOATS = {"f32": np.float32, "f16": np.float16}


def deep_table(checkpoint: Checkpoint) -> DeepTable:
    """Return the table that a checkpoint of RWKV-7a or RWKV-8 rc00 makes."""
    config = checkpoint.config
    rows, columns = deep_shape(config)
    shape = config["vocab_size"], config["n_layer"], rows * columns
    make = _blocks_v7a if config["arch"] == "v7a" else _blocks_v8
    return DeepTable(checkpoint.path, shape, lambda: make(checkpoint, shape))


def _blocks_v7a(checkpoint: Checkpoint, shape: tuple[int, int, int]) -> Iterator[Array]:
    tensors = checkpoint.tensors
    _, L, n = shape
    ln0 = [tensors[f"blocks.0.ln0.{part}"].load() for part in ("weight", "bias")]
    own = [_in_steps(tensors[f"blocks.{i}.ffn.s_emb.weight"], _step(n)) for i in range(L)]
    for rows, *others in zip(_in_steps(tensors["emb.weight"], _step(n)), *own, strict=True):
        x = fold_ln0(rows, *ln0)  # (tokens, C)
        block = np.empty((len(x), L, n), np.float32)
        for i, other in enumerate(others):
            # Read anew for each block: all layers together would not fit into a small memory.
            from_x = tensors[f"blocks.{i}.ffn.s_emb_x.weight"].load()  # (n, C)
            with np.errstate(all="ignore"):  # what overflows is refused just below
                block[:, i] = other + x @ from_x.T
        if not np.isfinite(block).all():
            raise _too_large(checkpoint.path, tensors["blocks.0.ffn.s_emb.weight"])
        yield block


def _blocks_v8(checkpoint: Checkpoint, shape: tuple[int, int, int]) -> Iterator[Array]:
    _, L, n = shape
    names = (f"blocks.{i}.ffn.enn.weight" for i in range(L))
    layers = [_in_steps(checkpoint.tensors[name], _step(n)) for name in names]
    for rows in zip(*layers, strict=True):
        yield np.stack(rows, axis=1)  # (tokens, L, n)


def _step(n: int) -> int:
    """Return for how many tokens a block is made: of each layer, one block is in memory."""
    return max(1, BLOCK // n)


def _in_steps(tensor: SourceTensor, step: int) -> Iterator[Array]:
    """Yield `step` rows of a tensor at a time, however many come together."""
    waiting: list[Array] = []
    count = 0
    for block in tensor.blocks():
        waiting.append(block)
        count += len(block)
        if count >= step:
            rows = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
            whole = count // step * step
            for first in range(0, whole, step):
                yield rows[first : first + step]
            waiting, count = [rows[whole:]], count - whole
    if count:
        yield np.concatenate(waiting)


def _too_large(path: str, tensor: SourceTensor) -> FormatError:
    what = f"tensor {show(tensor.name)}"
    sentence = f"{path}: {what}, or that of another layer, makes values that are not finite"
    fix = "the checkpoint is damaged: take another"
    return FormatError(path, what, "huge values", "usual ones", fix, sentence)


def encode_table(
    writer: Writer, table: DeepTable, dtype: str, loss: Loss, step: Callable[[int], None]
) -> None:
    """Write a table: as floats, or for models of int8 and int4 in int8 with a scale for each layer.

    Parameters
    ----------
    writer : Writer
    table : DeepTable
    dtype : str
        That of the model.
    loss : Loss
        Gets the error of the table.
    step : callable
        Called with the work that is done.

    Raises
    ------
    FormatError
        A value is not finite, or too large for `dtype`.
    """
    V, L, n = table.shape
    sums = [0.0, 0.0]  # squares of the error, squares of the numbers
    kind = _FLOATS.get(dtype, np.uint8)
    width = n if dtype in _FLOATS else n + SCALE_BYTES

    def blocks() -> Iterator[Array]:
        for block in table.blocks():  # (tokens, L, n)
            stored = np.empty((len(block), L, width), kind)
            for layer in range(L):
                numbers = np.ascontiguousarray(block[:, layer])
                stored[:, layer], back = _narrow(table, numbers, dtype)
                sums[0] += squares(numbers - back)
                sums[1] += squares(numbers)
            yield stored
            step(block.size)

    shape = V, L, width
    writer.add_blocks(DEEP_TABLE, shape, blocks(), page_aligned=True)
    if dtype != "f32" and sums[1]:
        loss.add(DEEP_TABLE, *sums)


def _narrow(table: DeepTable, numbers: Array, dtype: str) -> tuple[Array, Array]:
    """Return the numbers of a layer as they are stored, and what is read back of them."""
    if dtype == "f32":
        return numbers, numbers
    if dtype == "f16":
        with np.errstate(over="ignore"):
            half = numbers.astype(np.float16)
        if not np.isfinite(half).all():
            found, expected = f"a value of {np.abs(numbers).max():.6g}", "at most 65504 for f16"
            sentence = f"{table.path}: its deep embedding has {found}, but f16 ends at 65504"
            fix = "store int8 or f32"
            raise FormatError(table.path, DEEP_TABLE, found, expected, fix, sentence)
        return half, half
    q, scale = quantize_rows(numbers)
    return with_scales(q, scale), q * scale[:, None]
