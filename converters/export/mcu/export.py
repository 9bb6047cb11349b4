"""Write a folder with all that a firmware needs to run a model on a microcontroller.

``rwkv_model.h`` has the program and the tables, ``rwkv_kernels.o`` the kernels compiled for the
chip, and ``model.trwkv`` is the model file itself, to be flashed as it is.
``examples/microcontroller/`` makes a firmware of them.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from typing import Any

import tinyrwkv
from tinyrwkv.chat.profile import read_profile
from tinyrwkv.chat.templates import template
from tinyrwkv.errors import ArgumentError, UnsupportedError, os_errors
from tinyrwkv.file.apart import check_apart
from tinyrwkv.file.output import Kind, check_output, new_file
from tinyrwkv.file.writer import MODEL
from tinyrwkv.model import Model
from tinyrwkv.native.bare_metal import NAME_SYMBOL, identity
from tinyrwkv.native.build import check_packages

from ...write.marks import is_marked
from .header import MARK, header_text, operations_of_one_core
from .kernels import check_target, compile_kernels, unused_kernels

MAPPED_BYTES = 1 << 30
"""A chip of 32 bits maps no larger file beside its memory."""


def _is_kernels(path: str) -> bool:
    with open(path, "rb") as file:
        data = file.read(1 << 22)
    return data.startswith(b"\x7fELF") and NAME_SYMBOL.encode() in data


HEADER = Kind("a header of tinyrwkv-convert", lambda path: is_marked(path, MARK.encode(), b""))
KERNELS = Kind("an object with the kernels of tinyrwkv", _is_kernels)

FILES = {"rwkv_model.h": HEADER, "rwkv_kernels.o": KERNELS, "model.trwkv": MODEL}
"""The files of the folder, and what each of them may replace."""


def export_mcu(
    input: str | os.PathLike[str],
    output: str | os.PathLike[str],
    target: str,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write the header, the kernels and the model file of a firmware.

    Parameters
    ----------
    input : str or path-like
        A .trwkv file with a tokenizer.
    output : str or path-like
        A folder; it is made if it is missing. Other files in it stay.
    target : str
        The chip, a target of ``tinyrwkv-build-kernels``: cortex-m7, cortex-m33 or riscv32.
    progress : callable, optional
        Called as ``progress(done, total)``, in files.

    Returns
    -------
    dict
        What was written, and the bytes of memory that it needs; every value is plain JSON.

    Raises
    ------
    FormatError
        The input is damaged or no model, or the output can't be written.
    ArgumentError
        The folder is a file, or has a file of such a name that something else made.
    UnsupportedError
        There is no such target, the compiler is not installed, or the loader can't run the model.
    """
    begin = time.monotonic()
    input, output = os.fsdecode(input), os.fsdecode(output)
    paths = {name: os.path.join(output, name) for name in FILES}
    tell = progress or (lambda done, total: None)
    check_target(target)
    with tinyrwkv.load(input, backend="numpy", verify=True) as model:
        check(model)
        _check_folder(input, output, paths)
        check_packages()
        with os_errors(output, "write"):
            if not os.path.isdir(output):
                os.mkdir(output)
        unused = unused_kernels(operations_of_one_core(model))
        chat = template(model.config.get("template") or "chat")
        header = header_text(model, read_profile(input), chat, identity(target, unused))
        kernels = compile_kernels(target, unused)
        tell(1, len(FILES))
        with new_file(paths["rwkv_kernels.o"], KERNELS) as file, os_errors(output, "write"):
            file.write(kernels)
        with new_file(paths["rwkv_model.h"], HEADER) as file, os_errors(output, "write"):
            file.write(header.encode("ascii"))
        tell(2, len(FILES))
        with new_file(paths["model.trwkv"], MODEL) as file, os_errors(output, "write"):
            with open(input, "rb") as source:
                shutil.copyfileobj(source, file)
        tell(3, len(FILES))
        return {
            "input": input,
            "output": output,
            "format": "mcu",
            "target": target,
            "files": sorted(FILES),
            "file_bytes": model.file.bytes.size,
            "state_bytes": 4 * model.program.state_size,
            "workspace_bytes": model.program.shared_bytes + model.program.private_bytes,
            "left_out": list(unused),
            "seconds": round(time.monotonic() - begin, 3),
        }


def check(model: Model) -> None:
    """Refuse what the loader of a firmware can't run.

    Raises
    ------
    UnsupportedError
        The model has no tokenizer, or its file is too large.
    """
    if "tokenizer.bytes" not in model.file:
        fix = "convert the checkpoint again with --vocab"
        sentence = f"{model.path} has no vocabulary, and a firmware takes text"
        raise UnsupportedError(model.path, "tokenizer", "none", "a vocabulary", fix, sentence)
    if model.file.bytes.size > MAPPED_BYTES:
        found, expected = f"{model.file.bytes.size:,} bytes", f"at most {MAPPED_BYTES:,}"
        sentence = f"{model.path} has {found}, and a chip of 32 bits maps {expected}"
        raise UnsupportedError(
            model.path, "file", found, expected, "take a smaller model", sentence
        )


def _check_folder(input: str, output: str, paths: dict[str, str]) -> None:
    """Refuse a folder in which something else would be replaced."""
    if os.path.isdir(output):
        for name, path in paths.items():
            check_apart({"output": path}, {"input": input})
            check_output(path, FILES[name])
    elif os.path.lexists(output):
        fix = "choose another name: --mcu writes a folder"
        sentence = f"cannot write {output}: it is no folder"
        raise ArgumentError(output, "output", "a file", "a folder", fix, sentence)
