"""Read a .trwkv file as a source: to store it in another type, or with another vocabulary."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinyrwkv.errors import FormatError, UnsupportedError
from tinyrwkv.file.mapped import open_file
from tinyrwkv.file.tensors import DTYPES, Tensor
from tinyrwkv.file.verify import verify
from tinyrwkv.versions.forms import DEEP_TABLE
from tinyrwkv.versions.layout import MATRIX

from ..read.source import InputFile, SourceTensor
from .content import Content, Copy, DeepTable, Recipe
from .whole import check_whole

_KINDS = {"f32": "F32", "f16": "F16"}
_FIX = "convert the original checkpoint"

ADAPTERS = ("lora", "pissa")
"""What was merged into the weights: the model is still a plain one."""


def from_trwkv(file: InputFile, dtype: str, new_vocab: bool) -> Content:
    """Return what a new file gets from a .trwkv file.

    Parameters
    ----------
    file : InputFile
    dtype : str
        "f32", "f16", "int8" or "int4".
    new_vocab : bool
        Leave the old vocabulary out.

    Returns
    -------
    Content

    Raises
    ------
    FormatError
        The file is damaged (all its checksums are verified), holds weights that are not numbers,
        or is not a whole model.
    UnsupportedError
        It can't be stored in `dtype`.
    """
    path = file.path
    with open_file(path) as old:
        metadata, tensors = old.metadata, list(old.tensors.values())
        if metadata["kind"] != "model":
            kind, fix = metadata["kind"], "give the file of a model"
            sentence = f"{path} holds a {kind}, not a model"
            raise FormatError(path, "metadata 'kind'", kind, "model", fix, sentence)
        verify(old)
        check_whole(old, with_tokenizer=not new_vocab)
    if new_vocab:
        tensors = [tensor for tensor in tensors if not tensor.name.startswith("tokenizer.")]
    if metadata["dtype"] == dtype:
        return Content(metadata, [Copy(file, tensor) for tensor in tensors], [])
    found = metadata["dtype"]
    if found in ("int8", "int4"):
        sentence = f"{path} is {found} and can't become {dtype}: what {found} lost is gone"
        fix = _FIX if found == "int4" or dtype != "int4" else "leave --round out, or " + _FIX
        raise UnsupportedError(path, "dtype", found, dtype, fix, sentence)
    steps = metadata.pop("compression", [])
    adapters = [step for step in steps if step["technique"] in ADAPTERS]
    techniques = [step["technique"] for step in steps if step not in adapters]
    others = [technique for technique in techniques if technique not in DTYPES]
    if others:
        found = ", ".join(others)
        sentence = f"{path} is compressed ({found}): only a plain model can become {dtype}"
        raise UnsupportedError(path, "compression", found, "a plain model", _FIX, sentence)
    if adapters:
        metadata["compression"] = adapters
    return Content(metadata, [_retyped(file, tensor) for tensor in tensors], [])


def _retyped(file: InputFile, tensor: Tensor) -> Recipe | DeepTable | Copy:
    """Return how a tensor gets into a file of another type: only matrices change."""
    is_matrix = MATRIX.search(tensor.name) is not None and len(tensor.shape) == 2
    is_table = tensor.name == DEEP_TABLE and tensor.dtype in _KINDS
    if not (is_matrix or is_table):
        return Copy(file, tensor)

    def read() -> Iterator[np.ndarray]:
        what = f"tensor '{tensor.name}'"
        return file.rows(tensor.offset, tensor.shape, _KINDS[tensor.dtype], what)

    if is_table:
        V, L, n = tensor.shape
        return DeepTable(file.path, (V, L, n), read)
    source = SourceTensor(file.path, tensor.name, tensor.shape, read)
    return Recipe(tensor.name, (source,), lambda rows: rows, by_rows=True)
