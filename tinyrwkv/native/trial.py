"""Let an object compute one token of small models, and tell what comes out as one hash.

On every system and processor the kernels give the same bits, so the hash of an object must be the
one in the record. The models are made of numbers that are the same everywhere.

``proof`` runs this in a process of its own, because wrong machine code can end a process.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import sys
import tempfile
from typing import Any

import numpy as np

from ..engine.compiled import Compiled
from ..engine.workspace import Workspace
from ..file import int4
from ..file.mapped import open_file
from ..file.writer import Writer
from ..kernels.abi import HEAD_OF_ALL
from ..program.program import Program
from ..versions.layout import tensor_shapes
from .load import run_of

DENSE, SPARSE = (), ("ffn.value.rows",)

MODELS = (
    ("v4", "int8", DENSE),
    ("v5.2", "int8", DENSE),
    ("v6", "int8", SPARSE),
    ("v7", "int8", DENSE),
    ("v5.2", "int4", DENSE),
    ("v7", "int4", SPARSE),
)
"""Version, type, and what each layer has in another form: SPARSE skips neurons that are zero."""

CHANNELS = {"int8": 64, "int4": 320}
"""Channels by type; of int4 a span of four groups, and one group besides."""

LAYERS, VOCABULARY, RANK = 2, 96, 8

TOKENS = 1, 7, 1
"""How many tokens each call of the kernels reads."""

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: its multiples look random


def answer(function: Any) -> str:
    """Return the hash of what an object's ``run`` computes: of logits and states."""
    whole = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        for arch, dtype, form in MODELS:
            model = os.path.join(folder, f"{arch}-{dtype}.trwkv")
            write_model(model, arch, dtype, form)
            with open_file(model) as file:
                for array in outputs(function, Program(file)):
                    whole.update(array.astype("<f4").tobytes())
    return whole.hexdigest()


def outputs(function: Any, program: Program) -> list[np.ndarray]:
    """Return the logits of a few tokens, and the state after them."""
    workspace = Workspace(program, threads=1)
    backend = Compiled("native", program, function, threads=1)
    state, found = program.initial_state(), []
    token = 0
    for count in TOKENS:
        ids = np.arange(token, token + count, dtype=np.int32) * 29 % VOCABULARY
        logits, new = np.zeros((count, VOCABULARY), np.float32), np.zeros_like(state)
        last = len(program.operations)
        backend.run(workspace, 0, last, ids, state, new, logits, HEAD_OF_ALL)
        found.append(logits)
        state, token = new, token + count
    return [*found, state]


def write_model(path: str, arch: str, dtype: str, form: tuple[str, ...]) -> None:
    """Write a small model of a version; its numbers are the same on every machine."""
    channels = CHANNELS[dtype]
    size = channels if arch == "v4" else 32
    config = {
        **{"kind": "model", "arch": arch, "n_layer": LAYERS, "n_embd": channels},
        **{"n_ffn": 2 * channels, "n_head": channels // size, "head_size": size},
        **{"vocab_size": VOCABULARY, "ln_x_eps": 64e-5, "dtype": dtype},
    }
    others = [f"blocks.{layer}.{part}" for layer in range(LAYERS) for part in form]
    with Writer(path, config) as writer:
        for salt, (name, sizes) in enumerate(tensor_shapes(config, others).items()):
            shape = tuple(
                n if isinstance(n, int) else RANK * (5 if n.startswith("5 ") else 1) for n in sizes
            )
            for part, array in stored(name, arch, dtype, numbers(shape, salt)).items():
                writer.add(part, array)


def stored(name: str, arch: str, dtype: str, x: np.ndarray) -> dict[str, np.ndarray]:
    """Return the tensors of a file that stand for one of the model, from -1 <= x < 1."""
    if x.ndim != 2 or not name.endswith((".weight", ".rows")):
        return {name: vector(name, arch, x)}
    rows, columns = x.shape
    if dtype == "int4" and columns % int4.GROUP == 0 and not is_small(name):
        # Scales and zero points that differ by row and by group.
        turn = np.add.outer(np.arange(rows), 2 * np.arange(columns // int4.GROUP)) % 5
        scale, zero = (2**-9 * (2 + turn)).astype(np.float16), (6 + turn).astype(np.uint8)
        return {name: int4.pack(((x + 1) * 8).astype(np.uint8), scale, zero)}
    outputs = columns if name.endswith(".rows") else rows
    scales = np.full(outputs, 2**-10, np.float32)
    return {name: (x * 127).astype(np.int8), f"{name}.scale": scales}


def is_small(name: str) -> bool:
    """Tell whether a matrix has a small inner rank; such ones stay in int8."""
    return re.search(r"\.att\.\w*[12]\.weight$", name) is not None


def vector(name: str, arch: str, x: np.ndarray) -> np.ndarray:
    """Return values of a tensor that is no matrix, as large as trained ones, from -1 <= x < 1."""
    if name.endswith("time_decay"):
        return {"v4": x - 2, "v6": 2 * x - 3}.get(arch, x / 4 + np.float32(0.5))
    if name.endswith(("ln1.weight", "ln2.weight", "ln_out.weight", "ln_x.weight", "k_k", "k_a")):
        return x / 4 + 1
    if name.endswith(("token_shift", "time_maa_x")):
        return x / 2 + np.float32(0.5)
    return x / 4


def numbers(shape: tuple[int, ...], salt: int) -> np.ndarray:
    """Return float32 from -1 to below 1 that look random; a float32 holds each exactly."""
    count = int(np.prod(shape))
    places = np.arange(count, dtype=np.uint64) + np.uint64(1 + 100_000 * salt)
    mixed = places * _MULTIPLIER
    mixed = (mixed ^ (mixed >> np.uint64(29))) * _MULTIPLIER
    top = (mixed >> np.uint64(40)).astype(np.float32)  # 24 bits
    return (top / np.float32(2**23) - np.float32(1)).reshape(shape)


def main() -> None:
    """Print the answer of the object that the arguments name."""
    if os.name == "nt":  # no window that tells of a crash
        fail_critical_errors, no_fault_box = 1, 2
        ctypes.CDLL("kernel32").SetErrorMode(fail_critical_errors | no_fault_box)
    print(answer(run_of(sys.argv[1])))
