"""Tell what public checkpoints need: ``plan`` on files of their shapes without weights.

    python benchmarks/what_runs.py --save

docs/what-runs.md holds the table that this prints. Such a file has a table and a hole: it takes a
few hundred kB of the disk.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import tinyrwkv
from benchmarks import common
from benchmarks.random_model import is_packed, sizes
from tinyrwkv.engine.limit import least_resident
from tinyrwkv.file import int4
from tinyrwkv.file.packed import make_header
from tinyrwkv.file.row_table import SCALE_BYTES
from tinyrwkv.file.table import ALIGN, FILE_PAGE, alignment
from tinyrwkv.file.tensors import DTYPES, Tensor
from tinyrwkv.versions.forms import DEEP_TABLE
from tinyrwkv.versions.layout import tensor_shapes

SHAPES = {
    "0.1B": (12, 768),
    "0.4B": (24, 1024),
    "1.5B": (24, 2048),
    "3B": (32, 2560),
    "7B": (32, 4096),
}
"""Layers and width.

There is no RWKV-6 below 1.5B, which is called 1.6B there. The RWKV-7 of 3B is called 2.9B.
"""

MODELS = [("v7", size) for size in SHAPES] + [("v6", size) for size in ("1.5B", "3B", "7B")]
MODELS += [("v5.2", size) for size in ("0.4B", "1.5B", "3B", "7B")]

VOCABULARY = {
    "tokenizer.bytes": ("u8", 373358),
    "tokenizer.starts": ("i32", 65530),
    "tokenizer.ids": ("i32", 65529),
}
"""The World vocabulary as tinyrwkv-convert packs it."""

MEMORY = {
    "512 MB": 512 << 20,
    "1 GB": 1 << 30,
    "2 GB": 2 << 30,
    "4 GB": 4 << 30,
    "8 GB": 8 << 30,
    "16 GB": 16 << 30,
}
SYSTEM = 150 << 20
"""What is left to the system and its other programs."""

PROCESS = """
import json, sys, tinyrwkv
from tinyrwkv.file import memory
model = tinyrwkv.load(sys.argv[1], backend="auto")
print(json.dumps([memory.process_memory().get("rss"), model.resident()]))
"""


def ranks(width: int) -> dict[str, int]:
    """Return the inner sizes of the small matrices, by the rules that RWKV-LM sets them with."""

    def about(x: float) -> int:
        return max(32, round(x / 32) * 32)

    decay, gate = about(1.8 * width**0.5), about(0.6 * width**0.8)
    v6 = (
        {"low": 32, "5 low": 5 * 32, "low w": 64}
        if width < 4096
        else {"low": 64, "5 low": 5 * 64, "low w": 128}
    )
    return {**v6, "w": decay, "a": decay, "v": about(1.3 * width**0.5), "g": gate}


def placeholder(path: str, config: dict[str, Any], dtype: str) -> int:
    """Write a model file whose weights are a hole; return the number of weights."""
    entries, end, count = [], FILE_PAGE, 0
    for name, kind, shape in _tensors(config, dtype):
        nbytes = math.prod(shape) * DTYPES[kind].itemsize
        align = FILE_PAGE if name == DEEP_TABLE else alignment(nbytes)
        offset = -(-end // align) * align
        entries.append(Tensor(name, kind, shape, offset, nbytes, 0)._asdict())
        end = offset + nbytes
        if not name.startswith("tokenizer.") and not name.endswith(".scale"):
            scales = SCALE_BYTES * math.prod(shape[:-1]) if kind == "u8" else 0
            count += math.prod(shape) - scales
    raw = json.dumps({"metadata": {**config, "dtype": dtype}, "tensors": entries}).encode()
    offset = -(-end // ALIGN) * ALIGN
    with open(path, "wb") as file:
        file.write(make_header(raw, offset))
        file.seek(offset)
        file.write(raw)
    return count


def _tensors(config: dict[str, Any], dtype: str) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    low = ranks(config["n_embd"])
    for name, shape in tensor_shapes(config).items():
        numbers = tuple(
            n if isinstance(n, int) else low[n] if n in low else low[n.split()[-1]] for n in shape
        )
        if name == DEEP_TABLE and dtype in ("int8", "int4"):
            *tokens_and_layers, width = numbers
            yield name, "u8", (*tokens_and_layers, width + SCALE_BYTES)
            continue
        is_matrix = name == DEEP_TABLE or (len(numbers) == 2 and name.endswith(".weight"))
        if is_matrix and dtype == "int4":
            if is_packed(name, numbers):
                yield name, "u8", (numbers[0], int4.row_bytes(numbers[1]))
            else:
                yield name, "i8", numbers
                yield name + ".scale", "f32", numbers[:1]
            continue
        yield name, {"int8": "i8"}.get(dtype, dtype) if is_matrix else "f32", numbers
        if is_matrix and dtype == "int8":
            yield name + ".scale", "f32", numbers[:1]
    for name, (kind, count) in VOCABULARY.items():
        yield name, kind, (count,)


def needs(arch: str, size: str, folder: str) -> dict[str, Any]:
    """Return what a model of int8 needs and what one of int4, and how large its f16 file is."""
    layers, width = SHAPES[size]
    config = sizes(arch, layers, width, 65536)
    path = os.path.join(folder, f"{arch}-{size}.trwkv")
    weights = placeholder(path, config, "f16")
    f16 = os.path.getsize(path)
    placeholder(path, config, "int4")
    packed, _ = plan_of(path)
    placeholder(path, config, "int8")
    plan, least = plan_of(path)
    beside = plan["workspace_bytes"] + 2 * plan["state_bytes"]  # before a token and after it
    beside_packed = packed["workspace_bytes"] + 2 * packed["state_bytes"]
    told = {
        **{
            "arch": arch,
            "size": size,
            "layers": layers,
            "width": width,
            "weights": weights,
            "f16_bytes": f16,
        },
        **{
            key: plan[key]
            for key in ("file_bytes", "touched_bytes_per_token", "state_bytes", "workspace_bytes")
        },
        "whole_bytes": plan["resident_bytes_max"] + beside,
        "least_bytes": least + beside,
        "int4_file_bytes": packed["file_bytes"],
        "int4_touched_bytes_per_token": packed["touched_bytes_per_token"],
        "int4_whole_bytes": packed["resident_bytes_max"] + beside_packed,
    }
    os.unlink(path)
    return told


def plan_of(path: str) -> tuple[dict[str, Any], int]:
    """Return the plan of a model file, and the smallest limit that it can run in."""
    model = tinyrwkv.load(path, backend="numpy")
    found = model.plan(), least_resident(model.steps)
    model.close()
    return found


def process_bytes(folder: str) -> int | None:
    """Return the memory of a process that has loaded a model, without pages of the model."""
    path = os.path.join(folder, "probe.trwkv")
    placeholder(path, sizes("v7", *SHAPES["0.1B"], 65536), "int8")
    root = str(pathlib.Path(__file__).resolve().parent.parent)
    command = [sys.executable, "-c", PROCESS, path]
    ended = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, check=True
    )
    rss, resident = json.loads(ended.stdout)
    return None if rss is None else rss - (resident or 0)


def fits(needed: int) -> str:
    """Return the smallest memory in which there is room for so many bytes and the system."""
    return next((name for name, size in MEMORY.items() if needed + SYSTEM <= size), "more")


def markdown(rows: list[dict[str, Any]], process: int) -> str:
    """Return the table of docs/what-runs.md."""
    head = (
        "model",
        "weights",
        "file, f16",
        "file, int8",
        "read a token",
        "whole in memory",
        "runs in",
        "at least",
        "file, int4",
        "read a token",
        "runs in",
    )
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        name = f"RWKV-{row['arch'][1]} {row['size']}, {row['layers']} x {row['width']}"
        megabytes = [
            row[key]
            for key in ("f16_bytes", "file_bytes", "touched_bytes_per_token", "whole_bytes")
        ]
        cells = [
            name,
            f"{row['weights'] / 1e9:.2f} G",
            *(f"{size / 1e6:,.0f} MB" for size in megabytes),
        ]
        cells += [fits(row["whole_bytes"] + process), f"{row['least_bytes'] / 1e6:,.0f} MB"]
        for key in ("int4_file_bytes", "int4_touched_bytes_per_token"):
            cells.append(f"{row[key] / 1e6:,.0f} MB")
        cells.append(fits(row["int4_whole_bytes"] + process))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = common.parser(__doc__, threads=())
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        process = process_bytes(folder)
        rows = [needs(arch, size, folder) for arch, size in MODELS]
    text = markdown(rows, process or 0)
    text += "\n\nPython, NumPy and the engine before the first token: "
    text += "unknown here" if process is None else f"{process / 1e6:.1f} MB"
    common.finish(
        "what_runs",
        options,
        {"machine": common.machine(), "process_bytes": process, "models": rows},
        text,
    )


if __name__ == "__main__":
    common.run(main)
