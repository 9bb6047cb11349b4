"""Which tensors a model of each version has, with which types and shapes; and whether a file has them."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Any, NoReturn

import numpy as np

from ..errors import FormatError
from ..file.mapped import TensorFile
from ..kernels.abi import BLOCK

VERSIONS = ("v4", "v5.0", "v5.1", "v5.2", "v6", "v7")

# The inputs of time_mix that token_shift makes, in the order of the rows of att.token_shift.
SHIFTED = {
    "v4": "rkv",
    "v5.0": "rkv",
    "v5.1": "rkvg",
    "v5.2": "rkvg",
    "v6": "rkvwg",
    "v7": "rwkvag",
}

# What a model file may hold besides: the layer norm folded into the embedding, with which it can be taken out again.
KEPT = ("blocks.0.ln0.weight", "blocks.0.ln0.bias")

# The matrices that may be stored as the product of two factors, b @ a.
FACTORED = (
    "att.receptance.weight",
    "att.key.weight",
    "att.value.weight",
    "att.gate.weight",
    "ffn.receptance.weight",
)
MATRIX = re.compile(r"\.weight(\.[ab])?$")

PAGE = 4096

CODE_BITS = 4, 2
"""What a head's preview may have of the rows: the first of all, the second of the likely ones."""

TYPES = {"rows": "i8", "bundles": "i8", "signs": "u8", "places": "i32", "wanted": "i32"}
"""What is stored in one type, whatever the type of the matrices: the last part of a name; codes are u8 as well."""

Shape = tuple["int | str", ...]


def tensor_shapes(config: dict[str, Any], names: Container[str] = ()) -> dict[str, Shape]:
    """List the tensors of a model: name to shape, in the order of first use.

    Parameters
    ----------
    config : dict
        Metadata of the model file: arch, n_layer, n_embd, n_ffn, n_head, head_size, vocab_size.
    names : container of str, optional
        The tensors of a file, which tell where it has a compressed part in the place of a matrix.

    Returns
    -------
    dict
        Sizes are numbers, or a string for an inner rank that the file is free to choose; the same string stands for
        the same number. Names that match ``MATRIX`` with two sizes are matrices ``[out, in]``, stored in float32,
        float16, or int8 with one float32 scale for each row; the rest are float32 vectors.
    """
    arch, C, F, V = config["arch"], config["n_embd"], config["n_ffn"], config["vocab_size"]
    shapes: dict[str, Shape] = {"emb.weight": (V, C)}
    for layer in range(config["n_layer"]):
        att, ffn = f"blocks.{layer}.att.", f"blocks.{layer}.ffn."
        shapes |= {f"blocks.{layer}.{name}": (C,) for name in ("ln1.weight", "ln1.bias")}
        shapes[att + "token_shift"] = (len(SHIFTED[arch]), C)
        shapes |= {
            att + name: shape for name, shape in _time_mix(arch, C, first=layer == 0).items()
        }
        shapes |= {f"blocks.{layer}.{name}": (C,) for name in ("ln2.weight", "ln2.bias")}
        shapes[ffn + "token_shift"] = (1 if arch == "v7" else 2, C)
        shapes |= {ffn + "key.weight": (F, C), ffn + "value.weight": (C, F)}
        if arch != "v7":
            shapes[ffn + "receptance.weight"] = (C, C)
    shapes |= {"ln_out.weight": (C,), "ln_out.bias": (C,), "head.weight": (V, C)}
    return {
        new: size
        for name, shape in shapes.items()
        for new, size in _compressed(name, shape, names).items()
    }


def bundle_shape(neurons: int | str, width: int | str) -> tuple[int, int]:
    """Return the shape of an int8 region that holds neurons, a key row and a value row each, none across two pages."""
    F, C = int(neurons), int(width)
    per_page = PAGE // (2 * C)
    return (-(-F // per_page), PAGE) if per_page > 1 else (F, 2 * C)


def preview_shapes(V: int | str, C: int | str, names: Container[str]) -> dict[str, Shape]:
    """Return the shapes of a head with a preview: codes of 4 bits for all rows, of 2 bits more for the first ones."""
    shapes: dict[str, Shape] = {
        "head.basis.weight": ("ranks", C),
        "head.basis.bias": ("ranks",),
        "head.mean": (C,),
    }
    for bits in CODE_BITS:
        if f"head.codes.{bits}" in names or bits == CODE_BITS[0]:
            shapes[f"head.codes.{bits}"] = (f"blocks {bits}", f"bytes {bits}", BLOCK)
            shapes[f"head.scale_codes.{bits}"] = (V if bits == CODE_BITS[0] else "likely rows",)
    shapes |= {f"head.{name}": (V,) for name in ("places", "bias_codes", "spread_codes")}
    return shapes | {
        "head.ranges": (2, 2),
        "head.tables": (2, 256),
        "head.wanted": (1,),
        "head.rows.weight": (V, C),
    }


def code_qmax(bits: int) -> int:
    """Return the largest activation with which no sum in a table of ``kernels/codes.py`` is above 511."""
    return 511 // ((2**bits - 1) * (4 // bits))


def _compressed(name: str, shape: Shape, names: Container[str]) -> dict[str, Shape]:
    """Return what stands in the file for a tensor: itself, its two factors, or its transpose in int8."""
    if name == "head.weight" and "head.rows.weight" in names:
        return preview_shapes(shape[0], shape[1], names)
    if name.endswith(FACTORED) and name + ".a" in names:
        rank = "rank " + name
        factors: dict[str, Shape] = {name + ".a": (rank, shape[1]), name + ".b": (shape[0], rank)}
        diagonal = name.removesuffix("weight") + "diag"
        return factors | ({diagonal: (shape[0],)} if diagonal in names else {})
    if (
        name.endswith("ffn.key.weight")
        and (bundles := name.removesuffix("key.weight") + "bundles") in names
    ):
        (F, C), ffn = shape, name.removesuffix("key.weight")
        signs: dict[str, Shape] = {
            ffn + "predictor.signs": (-(-int(F) // BLOCK), int(C) // 8, BLOCK),
            ffn + "predictor.threshold": (F,),
        }
        if ffn + "predictor.fc1.weight" in names:
            signs |= {
                ffn + "predictor.fc1.weight": ("hidden", C),
                ffn + "predictor.fc2.weight": (F, "hidden"),
            }
            signs[ffn + "predictor.mlp_threshold"] = (F,)
        return signs | {
            bundles: bundle_shape(F, C),
            bundles + ".key_scale": (F,),
            bundles + ".value_scale": (C,),
        }
    if name.endswith("ffn.value.weight") and name.removesuffix("value.weight") + "bundles" in names:
        return {}
    if (rows := name.removesuffix("weight") + "rows") in names and name.endswith(
        "ffn.value.weight"
    ):
        return {rows: (shape[1], shape[0])}
    return {name: shape}


def _time_mix(arch: str, C: int, first: bool) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {
        f"{name}.weight": (C, C) for name in ("receptance", "key", "value", "output")
    }
    if arch == "v4":
        return shapes | {"time_decay": (C,), "time_first": (C,)}
    shapes |= {"ln_x.weight": (C,), "ln_x.bias": (C,)}
    if arch == "v7":
        for name in "wag" if first else "wagv":
            shapes |= {f"{name}1.weight": (f"low {name}", C), f"{name}2.weight": (C, f"low {name}")}
            if name != "g":
                shapes[f"{name}0"] = (C,)
        return shapes | {"k_k": (C,), "k_a": (C,), "r_k": (C,)}
    shapes |= {"time_decay": (C,), "bonus": (C,)}
    if arch != "v5.0":
        shapes["gate.weight"] = (C, C)
    if arch == "v6":
        shapes |= {
            "time_maa_x": (C,),
            "time_maa_w1.weight": ("5 low", C),
            "time_maa_w2.weight": (5 * C, "low"),
        }
        shapes |= {"time_decay_w1.weight": ("low w", C), "time_decay_w2.weight": (C, "low w")}
    return shapes


def preview_levels(head: TensorFile) -> list[tuple[int, int, int]]:
    """Return (rows, rank, bits) of the codes of a head's preview."""
    size = {
        bits: head.tensors[f"head.codes.{bits}"].shape[1]
        for bits in CODE_BITS
        if f"head.codes.{bits}" in head
    }
    return [
        (head.tensors[f"head.scale_codes.{bits}"].shape[0], n * 8 // bits, bits)
        for bits, n in size.items()
    ]


def check_tensors(file: TensorFile) -> None:
    """Compare the tensors of a model file with what its version needs.

    Raises
    ------
    FormatError
        A tensor is missing, unknown, or of the wrong type or shape.
    """
    config, ranks = file.metadata, dict[str, int]()
    fix = "the file was not written by tinyrwkv-convert or is damaged; convert the checkpoint again"

    def fail(name: str, found: object, wanted: object) -> NoReturn:
        raise FormatError(
            file.path, name if name == "metadata" else f"tensor '{name}'", found, wanted, fix
        )

    C, H, N = config["n_embd"], config["n_head"], config["head_size"]
    if config["arch"] != "v4" and (H * N != C or N % 8):
        fail(
            "metadata",
            f"{H} heads of {N}",
            f"{C} channels in all, and a multiple of 8, for the kernels",
        )
    for part, step in (("ffn.value.rows", 8), ("ffn.bundles", 64), ("head.rows.weight", 1)):
        if any(name.endswith(part) for name in file.tensors) and (
            C % step or config["dtype"] != "int8"
        ):
            fail(
                "metadata",
                f"{part} {C} wide, {config['dtype']}",
                f"int8 and a multiple of {step}, for the kernels",
            )
    expected = _typed_shapes(file)
    for name, (dtype, shape) in expected.items():
        if name not in file.tensors:
            fail(name, "nothing", f"a tensor of shape {shape}, which {config['arch']} models have")
        tensor, block, sizes = (
            file.tensors[name],
            name.split(".")[1] if name.startswith("blocks.") else "",
            list(shape),
        )
        for i, (size, length) in enumerate(zip(shape, tensor.shape, strict=False)):
            if isinstance(
                size, str
            ):  # an inner rank: the first tensor tells it, the others must agree
                times = 5 if size.startswith("5 ") else 1
                sizes[i] = times * ranks.setdefault(
                    f"{block} {size.removeprefix('5 ')}", length // times
                )
        if tensor.dtype != dtype or list(tensor.shape) != sizes:
            fail(name, f"{tensor.dtype} {tensor.shape}", f"{dtype} {shape}")
    for name in (
        file.tensors.keys()
        - expected.keys()
        - {f"tokenizer.{part}" for part in ("bytes", "starts", "ids")}
    ):
        fail(name, "a tensor", f"none of that name in a {config['arch']} model")
    if "head.rows.weight" in file:
        levels, V, R = (
            preview_levels(file),
            config["vocab_size"],
            file.tensors["head.basis.weight"].shape[0],
        )
        for rows, rank, bits in levels:
            blocks = file.tensors[f"head.codes.{bits}"].shape[0]
            if rows > V or blocks != -(-rows // BLOCK) or rank * bits % 32:
                fail(
                    f"head.codes.{bits}",
                    f"{blocks} blocks, {rank} codes a row",
                    f"those of {min(rows, V)} rows",
                )
        if R != sum(rank for _, rank, _ in levels) or not np.array_equal(
            np.sort(file["head.places"]), np.arange(V)
        ):
            fail(
                "head.places",
                f"other rows, or a basis of rank {R}",
                "every row once, a rank for each code of a row",
            )


def _typed_shapes(file: TensorFile) -> dict[str, tuple[str, Shape]]:
    """Return type and shape of every tensor that a file must have, its tokenizer left out."""
    config, expected = file.metadata, dict[str, tuple[str, Shape]]()
    shapes = tensor_shapes(config, file.tensors)
    shapes |= {name: (config["n_embd"],) for name in KEPT if name in file.tensors}
    for name, shape in shapes.items():
        dtype = "u8" if "codes" in name else TYPES.get(name.rsplit(".", 1)[1], "f32")
        if len(shape) == 2 and MATRIX.search(name):
            dtype = {"f32": "f32", "f16": "f16", "int8": "i8"}[config["dtype"]]
        expected[name] = dtype, shape
        if dtype == "i8" and not name.endswith(".bundles"):
            expected[name + ".scale"] = "f32", shape[1:] if name.endswith(".rows") else shape[:1]
    return expected
