"""Write a model file as GGUF, which llama.cpp runs.

RWKV-6 and 7 are possible, in float32, float16, or int8 as Q8_0.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from tinyrwkv.errors import FormatError, UnsupportedError, os_errors
from tinyrwkv.file.apart import check_apart
from tinyrwkv.file.mapped import TensorFile, open_file
from tinyrwkv.file.output import Kind, check_output, take_name
from tinyrwkv.file.verify import verify
from tinyrwkv.versions.layout import KEPT, tensor_shapes

from ..write.marks import is_marked
from ..write.temporary import folder_beside
from ..write.whole import check_whole
from .gguf_settings import ARCHITECTURES, CHAT_TEMPLATE, CREATED_BY, key_values
from .gguf_tensors import GgufTensor, gguf_tensors

LN_X_EPS = 64e-5  # llama.cpp has it fixed

_FIX = "use this file as it is, with tinyrwkv"

Progress = Callable[[int, int], None]

GGUF = Kind(
    "a GGUF file of tinyrwkv-convert",
    lambda path: is_marked(path, b"GGUF", CREATED_BY.encode()),
)


def export(
    input: str | os.PathLike[str], output: str | os.PathLike[str], progress: Progress | None = None
) -> dict[str, Any]:
    """Write a model file as GGUF.

    Files of floats keep their numbers. In those of int8 the integers stay, the scale of a row is
    rounded to float16 and written in each of its blocks, and the small matrices become float16.
    llama.cpp applies the layer norm `ln0` itself: it is taken out of the embedding, which is then
    rounded anew.

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
    check_apart({"output": output}, {"input": input})
    check_output(output, GGUF)
    with open_file(input) as file:
        check(file)
        tensors = gguf_tensors(file)
        metadata = dict(file.metadata)
        _write(file, tensors, output, progress or (lambda done, total: None))
        notes = _notes(file)
    return {
        "input": input,
        "output": output,
        "format": "gguf",
        **metadata,
        "tensors": len(tensors),
        "file_bytes": os.path.getsize(output),
        "notes": notes,
        "seconds": round(time.monotonic() - begin, 3),
    }


def _notes(file: TensorFile) -> list[str]:
    """Return what the user of a file should know about its prompts."""
    if "tokenizer.ids" not in file:
        return ["no vocabulary: llama.cpp takes and gives tokens, not text"]
    template = "no chat template is recorded: tinyrwkv-convert --template NAME adds one to a .trwkv"
    if CHAT_TEMPLATE in key_values(file):
        template = f"the chat template {file.metadata['template']} is recorded"
    return [
        template,
        "a prompt without a template begins with token 0: see that the program puts it there",
    ]


def check(file: TensorFile) -> None:
    """Refuse what llama.cpp has no place for.

    Raises
    ------
    FormatError
        The file holds no model, or not the tensors of one.
    UnsupportedError
        Another version, another epsilon, int4, a compressed part, or an embedding whose norm
        can't be taken out.
    """
    path, config = file.path, file.metadata
    if config["kind"] != "model":
        kind, fix = config["kind"], "give the file of a model"
        sentence = f"{path} holds a {kind}, not a model"
        raise FormatError(path, "metadata 'kind'", kind, "model", fix, sentence)
    if config["arch"] not in ARCHITECTURES:
        expected = " or ".join(ARCHITECTURES)
        sentence = f"{path} is RWKV {config['arch']}, but llama.cpp runs only {expected}"
        raise UnsupportedError(path, "arch", config["arch"], expected, _FIX, sentence)
    if config["dtype"] == "int4":
        fix = "convert the checkpoint to int8, and export that: it becomes Q8_0"
        sentence = f"{path} is int4, which GGUF files have no type for"
        raise UnsupportedError(path, "dtype", "int4", "int8, f16 or f32", fix, sentence)
    verify(file)
    check_whole(file)
    known = {*tensor_shapes(config), *KEPT}
    for name in file.tensors:
        if name.removesuffix(".scale") not in known and not name.startswith("tokenizer."):
            what, found, expected = f"tensor '{name}'", "a compressed part", "a dense model"
            fix = "convert the checkpoint without options"
            sentence = f"{path}: {what} is {found}, but llama.cpp runs only {expected}"
            raise UnsupportedError(path, what, found, expected, fix, sentence)
    for name in KEPT:
        if name not in file:
            what, expected = f"tensor '{name}'", "the layer norm that was folded into the embedding"
            fix = "convert the checkpoint again"
            sentence = f"{path} lacks {what}, {expected}"
            raise UnsupportedError(path, what, "none", expected, fix, sentence)
    if not math.isclose(config["ln_x_eps"], LN_X_EPS, rel_tol=1e-6):
        found, expected = config["ln_x_eps"], f"{LN_X_EPS}, as llama.cpp has it"
        sentence = f"{path} has an ln_x_eps of {found}, but llama.cpp has {LN_X_EPS}"
        raise UnsupportedError(path, "ln_x_eps", found, expected, _FIX, sentence)


def _write(file: TensorFile, tensors: list[GgufTensor], output: str, progress: Progress) -> None:
    """Write the file in a folder of its own first; one tensor at a time is in memory."""
    with folder_beside(output) as folder:
        temp = os.path.join(folder, "model.gguf")
        with os_errors(output, "write"):
            writer = _writer(file, tensors, temp)
            try:
                writer.write_header_to_file()
                writer.write_kv_data_to_file()
                writer.write_ti_data_to_file()
                for done, tensor in enumerate(tensors, 1):
                    writer.write_tensor_data(_data(file, tensor))
                    progress(done, len(tensors))
                writer.flush()
            finally:
                with suppress(OSError):
                    writer.close()
            with open(temp, "rb") as written:
                os.fsync(written.fileno())
            take_name(temp, output, GGUF)


def _writer(file: TensorFile, tensors: list[GgufTensor], path: str) -> Any:
    """Return a GGUFWriter that knows the settings and what tensors will come."""
    gguf = _package()
    writer = gguf.GGUFWriter(path, ARCHITECTURES[file.metadata["arch"]])
    add = {
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    for key, value in key_values(file).items():
        add[type(value)](key, value)
    for tensor in tensors:
        kind = gguf.GGMLQuantizationType[tensor.kind]
        writer.add_tensor_info(tensor.name, tensor.stored, tensor.dtype, tensor.nbytes, kind)
    return writer


def _data(file: TensorFile, tensor: GgufTensor) -> np.ndarray:
    """Return the array of a tensor."""
    try:
        with np.errstate(over="raise", invalid="raise"):
            return np.ascontiguousarray(tensor.make(), tensor.dtype)
    except FloatingPointError as error:
        what, found = f"tensor for {tensor.name}", f"a number that is too large for {tensor.kind}"
        sentence = f"{file.path}: the {what} has {found}"
        raise UnsupportedError(file.path, what, found, "at most 65504", _FIX, sentence) from error


def _package() -> Any:
    try:
        import gguf
    except ImportError:
        what, expected = "package 'gguf'", "it, to write GGUF files"
        sentence = f"the {what} is not installed; it writes GGUF files"
        raise UnsupportedError(
            "export", what, "none", expected, "pip install gguf", sentence
        ) from None
    return gguf
