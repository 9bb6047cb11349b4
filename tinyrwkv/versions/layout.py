"""List the tensors of each version, with types and shapes; check that a file has them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Container, Iterator, Mapping
from typing import Any

import numpy as np

from ..errors import FormatError, UnsupportedError
from ..file import int4
from ..file.config import Config
from ..file.header import MINOR
from ..file.row_table import SCALE_BYTES
from ..file.table import FILE_PAGE
from ..file.table import VERSIONS as VERSIONS  # to be imported from here too
from ..file.tensors import UPDATE, TensorFile
from ..kernels.abi import BLOCK
from .forms import (
    CODE_BITS,
    DEEP_RANK,
    DEEP_TABLE,
    LIKE_V7,
    LIKELY,
    QUANTISED,
    SHIFTED,
    deep_shape,
    preview_levels,
)

KEPT = ("blocks.0.ln0.weight", "blocks.0.ln0.bias")
"""Tensors that a model file may have in addition: the layer norm that its embedding contains.

With them the embedding of the checkpoint can be computed again.
"""

FACTORED = (
    "att.receptance.weight",
    "att.key.weight",
    "att.value.weight",
    "att.gate.weight",
    "ffn.receptance.weight",
)
"""The matrices that may be stored as the product of two factors, b @ a."""

MATRIX = re.compile(r"\.weight(\.[ab])?$")

TYPES = {"rows": "i8", "bundles": "i8", "signs": "u8", "places": "u16 or i32", "wanted": "i32"}
"""By the last part of their names, tensors whose type does not depend on that of the matrices.

Codes are u8 as well.
"""

_TOKENIZER = {f"tokenizer.{part}" for part in ("bytes", "starts", "ids")}
_DAMAGED = (
    "the file was not written by tinyrwkv-convert or is damaged; convert the checkpoint again"
)

Shape = tuple["int | str", ...]


def tensor_shapes(config: Mapping[str, Any], names: Container[str] = ()) -> dict[str, Shape]:
    """List the tensors of a model: name to shape, in the order of first use.

    Parameters
    ----------
    config : mapping
        Metadata of the model file: arch, n_layer, n_embd, n_ffn, n_head, head_size, vocab_size.
    names : container of str, optional
        The tensors of a file. They tell which matrices it has in a compressed form.

    Returns
    -------
    dict
        A size is a number, or a text for an inner rank that the file is free to choose. The same
        text in one block stands for the same number. A tensor with two sizes, whose name matches
        ``MATRIX``, is a matrix ``[out, in]``. It is stored in float32, float16, int8 with one
        float32 scale for each row, or int4, packed as ``file/int4.py`` says. The rest are float32
        vectors.
    """
    return dict(_each_shape(config, names))


def _each_shape(config: Mapping[str, Any], names: Container[str]) -> Iterator[tuple[str, Shape]]:
    """Yield what `tensor_shapes` lists: a caller may stop at the first tensor that is wrong."""
    for name, shape in _dense_shapes(config):
        yield from _stored(name, shape, names, config.get("dtype")).items()


def _dense_shapes(config: Any) -> Iterator[tuple[str, Shape]]:
    arch, C, V = config["arch"], config["n_embd"], config["vocab_size"]
    yield "emb.weight", (V, C)
    for layer in range(config["n_layer"]):
        for name, shape in _block(arch, C, config["n_ffn"], is_first=layer == 0).items():
            yield f"blocks.{layer}.{name}", shape
    yield from (("ln_out.weight", (C,)), ("ln_out.bias", (C,)), ("head.weight", (V, C)))
    rows, columns = deep_shape(config)
    if rows:
        yield DEEP_TABLE, (V, config["n_layer"], rows * columns)


def _block(arch: str, C: int, F: int, is_first: bool) -> dict[str, Shape]:
    time_mix = _time_mix(arch, C, is_first)
    shapes: dict[str, Shape] = {
        "ln1.weight": (C,),
        "ln1.bias": (C,),
        "att.token_shift": (len(SHIFTED[arch]), C),
        **{f"att.{name}": shape for name, shape in time_mix.items()},
        "ln2.weight": (C,),
        "ln2.bias": (C,),
        "ffn.token_shift": (1 if arch in LIKE_V7 else 2, C),
        "ffn.key.weight": (F, C),
        "ffn.value.weight": (C, F),
    }
    if arch not in LIKE_V7:
        shapes["ffn.receptance.weight"] = (C, C)
    if arch == "v7a":
        shapes["ffn.s1.weight"] = (DEEP_RANK, C)
        shapes["ffn.s2.weight"] = (F, DEEP_RANK)
        shapes["ffn.s0"] = (F,)
    return shapes


def _time_mix(arch: str, C: int, is_first: bool) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {
        "receptance.weight": (C, C),
        "key.weight": (C, C),
        "value.weight": (C, C),
        "output.weight": (C, C),
    }
    if arch == "v4":
        return shapes | {"time_decay": (C,), "time_first": (C,)}
    shapes |= {"ln_x.weight": (C,), "ln_x.bias": (C,)}
    if arch in LIKE_V7:
        return shapes | _small_matrices_v7(C, is_first) | {"k_k": (C,), "k_a": (C,), "r_k": (C,)}
    shapes |= {"time_decay": (C,), "bonus": (C,)}
    if arch != "v5.0":
        shapes["gate.weight"] = (C, C)
    if arch == "v6":
        shapes["time_maa_x"] = (C,)
        shapes["time_maa_w1.weight"] = ("5 low", C)
        shapes["time_maa_w2.weight"] = (5 * C, "low")
        shapes["time_decay_w1.weight"] = ("low w", C)
        shapes["time_decay_w2.weight"] = (C, "low w")
    return shapes


def _small_matrices_v7(C: int, is_first: bool) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for letter in "wag" if is_first else "wagv":
        rank = f"low {letter}"
        shapes[f"{letter}1.weight"] = (rank, C)
        shapes[f"{letter}2.weight"] = (C, rank)
        if letter != "g":
            shapes[f"{letter}0"] = (C,)
    return shapes


def _stored(
    name: str, shape: Shape, names: Container[str], of_model: str | None
) -> dict[str, Shape]:
    """Return what stands in the file for a tensor: itself, or its compressed form."""
    if name == "head.weight" and "head.rows.weight" in names:
        return preview_shapes(shape[0], shape[1], names)
    if name == "head.weight" and LIKELY in names:
        V, C = shape
        return {LIKELY: ("likely rows", C), name: ("other rows", C), "head.places": (V,)}
    if name.endswith(FACTORED) and f"{name}.a" in names:
        return _factor_shapes(name, shape, names)
    prefix, is_ffn, part = name.rpartition("ffn.")
    if not is_ffn:
        return {name: shape}
    ffn = prefix + is_ffn
    if f"{ffn}bundles" in names:
        if part == "key.weight":
            return _predicted_shapes(ffn, shape, names, of_model)
        if part == "value.weight":  # the bundles contain it
            return {}
    if part == "value.weight" and f"{ffn}value.rows" in names:
        return {f"{ffn}value.rows": (shape[1], shape[0])}
    return {name: shape}


def _factor_shapes(name: str, shape: Shape, names: Container[str]) -> dict[str, Shape]:
    rank = f"rank {name}"
    shapes: dict[str, Shape] = {f"{name}.a": (rank, shape[1]), f"{name}.b": (shape[0], rank)}
    diagonal = name.removesuffix("weight") + "diag"
    if diagonal in names:
        shapes[diagonal] = (shape[0],)
    return shapes


def _predicted_shapes(
    ffn: str, shape: Shape, names: Container[str], of_model: str | None
) -> dict[str, Shape]:
    F, C = int(shape[0]), int(shape[1])
    shapes: dict[str, Shape] = {
        f"{ffn}predictor.signs": (-(-F // BLOCK), C // 8, BLOCK),
        f"{ffn}predictor.threshold": (F,),
    }
    if f"{ffn}predictor.fc1.weight" in names:
        shapes[f"{ffn}predictor.fc1.weight"] = ("hidden", C)
        shapes[f"{ffn}predictor.fc2.weight"] = (F, "hidden")
        shapes[f"{ffn}predictor.mlp_threshold"] = (F,)
    if of_model == "int4" and f"{ffn}bundles.key_scale" not in names:
        shapes[f"{ffn}bundles"] = bundle_shape(F, int4.row_bytes(C))
        return shapes
    shapes[f"{ffn}bundles"] = bundle_shape(F, C)
    shapes[f"{ffn}bundles.key_scale"] = (F,)
    shapes[f"{ffn}bundles.value_scale"] = (C,)
    return shapes


def bundle_shape(neurons: int, row_bytes: int) -> tuple[int, int]:
    """Return the shape of the bundles of a channel mix: bytes of int8 or of packed int4.

    A neuron is a row of the key and a column of the value, `row_bytes` each. A row of the bundles
    is a page of the file with as many neurons as fit, so that none lies across two pages. If fewer
    than two fit, a row is one neuron.
    """
    neuron_bytes = 2 * row_bytes
    per_page = FILE_PAGE // neuron_bytes
    if per_page > 1:
        return -(-neurons // per_page), FILE_PAGE
    return neurons, neuron_bytes


def preview_shapes(V: int | str, C: int | str, names: Container[str]) -> dict[str, Shape]:
    """Return the shapes of a head with a preview.

    All rows have codes of 4 bits. The first rows may have codes of 2 bits as well.
    """
    shapes: dict[str, Shape] = {
        "head.basis.weight": ("ranks", C),
        "head.basis.bias": ("ranks",),
        "head.mean": (C,),
    }
    for bits in CODE_BITS:
        is_of_all = bits == CODE_BITS[0]
        if is_of_all or f"head.codes.{bits}" in names:
            shapes[f"head.codes.{bits}"] = (f"blocks {bits}", f"bytes {bits}", BLOCK)
            shapes[f"head.scale_codes.{bits}"] = (V if is_of_all else "likely rows",)
    shapes |= dict.fromkeys(("head.places", "head.bias_codes", "head.spread_codes"), (V,))
    shapes |= {"head.ranges": (2, 2), "head.tables": (2, 256)}
    return shapes | {"head.wanted": (1,), "head.rows.weight": (V, C)}


def check_tensors(file: TensorFile) -> None:
    """Compare the tensors of a model file with what its version needs.

    Raises
    ------
    FormatError
        It is not a model. Or a tensor is missing, unknown, or of the wrong type or shape.
    UnsupportedError
        An earlier version of tinyrwkv wrote a compressed form that has changed since.
    """
    if file.metadata["kind"] != "model":
        fix = "give the model; State.load reads states"
        sentence = f"{file.path} is a state, not a model"
        raise FormatError(file.path, "kind", "a state", "a model", fix, sentence)
    _check_age(file)
    check_widths(file.path, file.config, file.tensors)
    expected = set()
    ranks: dict[str, int] = {}
    for name, dtype, shape in _typed_shapes(file):
        expected.add(name)
        if name not in file.tensors:
            wanted = f"a tensor of shape {shape}, which {file.metadata['arch']} models have"
            raise _wrong(file, name, "nothing", wanted, f"is missing: {wanted}")
        tensor = file.tensors[name]
        sizes = _sizes(name, shape, tensor.shape, ranks)
        if tensor.dtype not in dtype.split(" or ") or tensor.shape != sizes:
            found = f"{tensor.dtype} {tensor.shape}"
            wanted = f"{dtype} {shape}"
            raise _wrong(file, name, found, wanted, f"must be {wanted}, not {found}")
    for name in file.tensors:
        if name not in expected and name not in _TOKENIZER:
            raise _unknown(file, name)
    if "head.rows.weight" in file:
        _check_preview(file)
    if LIKELY in file:
        _check_rows(file)
    if "head.places" in file:
        _check_places(file)


def _check_age(file: TensorFile) -> None:
    """Refuse compressed forms of version 1.0 of the format that have changed since."""
    for name, tensor in file.tensors.items():
        # Version 1.0 had head.ids, the token of each row; head.places has the row of each token. In
        # version 1.0 the signs of a neuron lay in one row.
        if name == "head.ids" or (name.endswith("predictor.signs") and len(tensor.shape) == 2):
            what = (file.path, f"tensor '{name}'", "an earlier form", "that of this version")
            sentence = f"{file.path} was compressed by an earlier version of tinyrwkv"
            raise UnsupportedError(*what, "convert the checkpoint again", sentence)


def check_widths(path: str, config: Config, names: Collection[str]) -> None:
    """Refuse sizes that the kernels cannot compute with a FormatError.

    Parameters
    ----------
    path : str
        The name of the file, for messages.
    config : mapping
        The metadata of the model.
    names : collection of str
        Its tensors.
    """
    C, H, N = config["n_embd"], config["n_head"], config["head_size"]
    if config["arch"] != "v4" and (H * N != C or N % 8):
        wanted = f"{C} channels in all, and a multiple of 8, for the kernels"
        found = f"{H} heads of {N}"
        sentence = f"{path} has {found}, but needs {wanted}"
        raise FormatError(path, "metadata", found, wanted, _DAMAGED, sentence)
    for part, step in (("ffn.value.rows", 8), ("ffn.bundles", 64), ("head.rows.weight", 1)):
        is_there = any(name.endswith(part) for name in names)
        if is_there and (C % step or config["dtype"] not in QUANTISED):
            found = f"{part} {C} wide, {config['dtype']}"
            wanted = f"int8 or int4 and a multiple of {step}, for the kernels"
            sentence = f"{path}: {part} is {C} wide and {config['dtype']}, but must be {wanted}"
            raise FormatError(path, "metadata", found, wanted, _DAMAGED, sentence)


def _sizes(
    name: str, shape: Shape, found: tuple[int, ...], ranks: dict[str, int]
) -> tuple[int | str, ...]:
    """Return the sizes that a tensor must have, with numbers for inner ranks.

    The first tensor of a block that has a rank decides its number; `ranks` keeps it.
    """
    block = name.split(".")[1] if name.startswith("blocks.") else ""
    sizes = list(shape)
    for i, (size, length) in enumerate(zip(shape, found, strict=False)):
        if isinstance(size, str):
            times = 5 if size.startswith("5 ") else 1
            rank = f"{block} {size.removeprefix('5 ')}"
            sizes[i] = times * ranks.setdefault(rank, length // times)
    return tuple(sizes)


def _check_rows(file: TensorFile) -> None:
    """Refuse a head whose two matrices do not have a row for each token together."""
    V = file.metadata["vocab_size"]
    likely, others = (file.tensors[name].shape[0] for name in (LIKELY, "head.weight"))
    if likely + others != V:
        found, wanted = f"{likely} rows beside {others}", f"{V} rows together"
        raise _wrong(file, LIKELY, found, wanted, f"has {found}, but must have {wanted}")


def _check_places(file: TensorFile) -> None:
    """Refuse places in a head that are no permutation of its rows."""
    if not np.array_equal(np.sort(file["head.places"]), np.arange(file.metadata["vocab_size"])):
        found, wanted = "other rows", "every row once"
        raise _wrong(file, "head.places", found, wanted, f"must have {wanted}, not {found}")


def _check_preview(file: TensorFile) -> None:
    """Refuse codes of a preview that do not fit each other."""
    V = file.metadata["vocab_size"]
    rank_of_codes = 0
    for rows, rank, bits in preview_levels(file):
        blocks = file.tensors[f"head.codes.{bits}"].shape[0]
        are_whole_words = rank * bits % 32 == 0
        if rows > V or blocks != -(-rows // BLOCK) or not are_whole_words:
            found = f"{blocks} blocks, {rank} codes a row"
            wanted = f"those of {min(rows, V)} rows"
            problem = f"has {found}, but must have {wanted}"
            raise _wrong(file, f"head.codes.{bits}", found, wanted, problem)
        rank_of_codes += rank
    basis_rank = file.tensors["head.basis.weight"].shape[0]
    if basis_rank != rank_of_codes:
        found, wanted = f"a rank of {basis_rank}", f"one of {rank_of_codes}, that of the codes"
        raise _wrong(file, "head.basis.weight", found, wanted, f"has {found}, but needs {wanted}")


def _wrong(file: TensorFile, name: str, found: str, expected: str, problem: str) -> FormatError:
    """Return an error that names a tensor and says in a clause what its problem is."""
    what = f"tensor '{name}'"
    sentence = f"{file.path}: {what} {problem}"
    return FormatError(file.path, what, found, expected, _DAMAGED, sentence)


def _unknown(file: TensorFile, name: str) -> FormatError:
    what = f"tensor '{name}'"
    arch = file.config["arch"]
    found = f"a tensor that {arch} models do not have"
    fix = UPDATE if file.minor > MINOR else _DAMAGED
    sentence = f"{file.path}: {arch} models have no {what}"
    return FormatError(file.path, what, found, "none of this name", fix, sentence)


def _typed_shapes(file: TensorFile) -> Iterator[tuple[str, str, Shape]]:
    """Yield name, type and shape of every tensor that a file must have, without its tokenizer."""
    config = file.config
    kept = ((name, (config["n_embd"],)) for name in KEPT if name in file.tensors)
    for name, shape in itertools.chain(_each_shape(config, file.tensors), kept):
        if name == DEEP_TABLE:
            yield name, *_table_form(file, shape)
            continue
        if config["dtype"] == "int4" and _is_packed(name, shape, file.tensors):
            yield name, "u8", _packed_shape(name, shape)
            continue
        dtype = _dtype(name, shape, config["dtype"])
        yield name, dtype, shape
        if dtype == "i8" and not name.endswith(".bundles"):
            outputs = shape[1:] if name.endswith(".rows") else shape[:1]
            yield name + ".scale", "f32", outputs


def _is_packed(name: str, shape: Shape, names: Container[str]) -> bool:
    """Tell whether a tensor of a model of int4 is packed: a matrix that has no scales of int8."""
    if name.endswith(".bundles"):
        return f"{name}.key_scale" not in names
    is_matrix = len(shape) == 2 and MATRIX.search(name) is not None
    width = shape[-1]
    fits = isinstance(width, int) and width % int4.GROUP == 0
    return (is_matrix or name.endswith(".rows")) and fits and f"{name}.scale" not in names


def _table_form(file: TensorFile, shape: Shape) -> tuple[str, Shape]:
    """Return type and shape of the table of a deep embedding: floats, or int8 with its scale.

    The scale of a matrix stands behind it, so that the same page has both.
    """
    found = file.tensors.get(DEEP_TABLE)
    if found is not None and found.dtype in ("f32", "f16"):
        return found.dtype, shape
    *tokens_and_layers, width = shape
    return "u8", (*tokens_and_layers, int(width) + SCALE_BYTES)


def _packed_shape(name: str, shape: Shape) -> Shape:
    if name.endswith(".bundles"):  # a page, or a neuron, in bytes already
        return shape
    return shape[0], int4.row_bytes(int(shape[1]))


def _dtype(name: str, shape: Shape, of_matrices: str) -> str:
    """Return the type of a tensor, as the table of a file names it."""
    if len(shape) == 2 and MATRIX.search(name):
        return "i8" if of_matrices in QUANTISED else of_matrices
    if "codes" in name:
        return "u8"
    last_part = name.rsplit(".", 1)[1]
    return TYPES.get(last_part, "f32")
