"""Write a model file as GGUF, which llama.cpp runs: RWKV-6 and 7, in float32, float16, or int8 as Q8_0."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

import numpy as np

from tinyrwkv.errors import ArgumentError, FormatError, UnsupportedError
from tinyrwkv.file.mapped import TensorFile, open_file
from tinyrwkv.versions.layout import KEPT, check_tensors, tensor_shapes

from .gguf_settings import ARCHITECTURES, settings
from .gguf_tensors import Item, items

LN_X_EPS = 64e-5  # llama.cpp has it fixed

Progress = Callable[[int, int], None]


def export(
    input: str | os.PathLike[str], output: str | os.PathLike[str], progress: Progress | None = None
) -> dict[str, Any]:
    """Write a model file as GGUF.

    Files of floats keep their numbers. In those of int8 the integers stay, a row's scale is rounded to float16 and
    stands in each of its blocks, and the small matrices become float16. The layer norm `ln0`, which llama.cpp
    applies itself, is taken out of the embedding; that one is rounded anew.

    Parameters
    ----------
    input : str or path-like
        A .trwkv file of RWKV-6 or 7.
    output : str or path-like
        Gets its name only when it is complete.
    progress : callable, optional
        Called as ``progress(done, total)``, in tensors.

    Returns
    -------
    dict
        What was written; every value is plain JSON.

    Raises
    ------
    FormatError
        The input is damaged or no model, or the output can't be written.
    UnsupportedError
        llama.cpp runs no such model; or the package ``gguf`` is not installed.
    """
    begin = time.monotonic()
    input, output = os.fsdecode(input), os.fsdecode(output)
    if _is_same(input, output):
        raise ArgumentError(
            "arguments", "output", output, "another file than the input", "choose a new name"
        )
    with open_file(input, verify=True) as file:
        check(file)
        listed, metadata = items(file), dict(file.metadata)
        _write(file, listed, output, progress or (lambda done, total: None))
        notes = (
            []
            if "tokenizer.ids" in file
            else ["no vocabulary: llama.cpp takes and gives tokens, not text"]
        )
    return {
        **{"input": input, "output": output, "format": "gguf", **metadata, "tensors": len(listed)},
        **{
            "file_bytes": os.path.getsize(output),
            "notes": notes,
            "seconds": round(time.monotonic() - begin, 3),
        },
    }


def _is_same(input: str, output: str) -> bool:
    try:
        return os.path.samefile(input, output)
    except (OSError, ValueError):
        return False  # one of them does not exist


def check(file: TensorFile) -> None:
    """Refuse what llama.cpp has no place for.

    Raises
    ------
    FormatError
        The file holds no model, or not the tensors of one.
    UnsupportedError
        Another version, another epsilon, a compressed part, or an embedding whose norm can't be taken out.
    """
    config = file.metadata

    def refuse(object: str, found: object, expected: object, fix: str) -> NoReturn:
        raise UnsupportedError(file.path, object, found, expected, fix)

    if config["kind"] != "model":
        raise FormatError(
            file.path, "metadata 'kind'", config["kind"], "model", "give the file of a model"
        )
    if config["arch"] not in ARCHITECTURES:
        refuse(
            "arch",
            config["arch"],
            " or ".join(ARCHITECTURES),
            "llama.cpp runs no other: use this file as it is",
        )
    check_tensors(file)
    known = {*tensor_shapes(config), *KEPT}
    for name in file.tensors:
        if name.removesuffix(".scale") not in known and not name.startswith("tokenizer."):
            refuse(
                f"tensor '{name}'",
                "a compressed part",
                "a dense model",
                "convert the checkpoint without options",
            )
    for name in KEPT:
        if name not in file:
            expected = "the layer norm that was folded into the embedding"
            refuse(f"tensor '{name}'", "none", expected, "convert the checkpoint again")
    if not math.isclose(config["ln_x_eps"], LN_X_EPS, rel_tol=1e-6):
        refuse(
            "ln_x_eps",
            config["ln_x_eps"],
            f"{LN_X_EPS}, as llama.cpp has it",
            "use this file as it is",
        )


def _write(file: TensorFile, listed: list[Item], output: str, progress: Progress) -> None:
    """Write the file under another name first; one tensor at a time is in memory."""
    gguf = _package()
    temp = f"{output}.tmp-{os.getpid()}"
    writer = gguf.GGUFWriter(temp, ARCHITECTURES[file.metadata["arch"]])
    for key, value in settings(file).items():
        add = {
            int: writer.add_uint32,
            float: writer.add_float32,
            str: writer.add_string,
            list: writer.add_array,
        }
        add[type(value)](key, value)
    for item in listed:
        kind = gguf.GGMLQuantizationType[item.kind]
        writer.add_tensor_info(item.name, item.stored, item.dtype, item.nbytes, kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for done, item in enumerate(listed, 1):
            with np.errstate(over="raise", invalid="raise"):
                data = np.ascontiguousarray(item.make(), item.dtype)
            writer.write_tensor_data(data)
            progress(done, len(listed))
        writer.close()
        with open(temp, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temp, output)
    except OSError as error:
        found = error.strerror or str(error)
        raise FormatError(
            output, "file", found, "a place to write", "check the folder and the free space"
        ) from error
    except FloatingPointError as error:
        found, fix = f"a number that is too large for {item.kind}", "use this file as it is"
        raise UnsupportedError(
            file.path, f"tensor for {item.name}", found, "at most 65504", fix
        ) from error
    finally:
        with suppress(OSError):
            writer.close()
        with suppress(OSError):
            os.unlink(temp)


def _package() -> Any:
    try:
        import gguf
    except ImportError:
        found, fix = "none", "pip install gguf"
        raise UnsupportedError(
            "export", "package 'gguf'", found, "it, to write GGUF files", fix
        ) from None
    return gguf
