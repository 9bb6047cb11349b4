"""Write a model file of random weights in any shape: what speed and memory are measured on.

python benchmarks/random_model.py /tmp/v7-0.1b.trwkv --arch v7 --layers 12 --width 768
"""

from __future__ import annotations

import argparse
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from tinyrwkv.file import int4
from tinyrwkv.file.quant import quantize_rows
from tinyrwkv.file.row_table import SCALE_BYTES, with_scales
from tinyrwkv.file.tensors import DTYPES
from tinyrwkv.file.writer import Writer
from tinyrwkv.versions.forms import DEEP_TABLE, QUANTISED
from tinyrwkv.versions.layout import VERSIONS, tensor_shapes


def sizes(
    arch: str, layers: int, width: int, vocab: int, head_size: int = 64, ffn: int | None = None
) -> dict:
    """Return the metadata of a model of this shape.

    By default the channel mix is as wide as in the official checkpoints.
    """
    if ffn is None:
        ffn = int(3.5 * width) // 32 * 32 if arch in ("v5.2", "v6") else 4 * width
    heads = (1, width) if arch == "v4" else (width // head_size, head_size)
    return {
        "kind": "model",
        "arch": arch,
        "n_layer": layers,
        "n_embd": width,
        "n_ffn": ffn,
        "n_head": heads[0],
        "head_size": heads[1],
        "vocab_size": vocab,
        "ln_x_eps": 64e-5,
    }


def values(name: str, shape: tuple[int, ...], arch: str, rng: np.random.Generator) -> np.ndarray:
    """Return random values as large as trained ones: states neither vanish nor grow."""
    last = name.split(".", 2)[-1].removeprefix("att.").removeprefix("ffn.")
    if len(shape) == 2 and name.endswith(".weight"):
        gain = 0.3 if last in ("output.weight", "value.weight") else 1.0
        return (rng.standard_normal(shape, np.float32) * np.float32(gain / shape[1] ** 0.5)).astype(
            np.float32
        )
    if last == "time_decay":
        low, high = {"v4": (-3.0, -0.02), "v6": (-6.0, 0.0)}.get(arch, (0.3, 0.999))
        return rng.uniform(low, high, shape).astype(np.float32)
    if name.endswith(("ln1.weight", "ln2.weight", "ln_out.weight", "ln_x.weight", "k_k", "k_a")):
        return rng.uniform(0.7, 1.3, shape).astype(np.float32)
    if last == "token_shift" or last == "time_maa_x":
        return rng.uniform(0.0, 1.0, shape).astype(np.float32)
    spread = 2.0 if last == "w0" else 0.2
    return (rng.standard_normal(shape, np.float32) * np.float32(spread)).astype(np.float32)


def add_table(
    writer: Writer, shape: tuple[int, ...], stored: str, rng: np.random.Generator
) -> None:
    """Add the table of a deep embedding, some thousand rows at a time: (V, L, n)."""
    V, L, n = shape
    step = max(1, (1 << 22) // (L * n))

    def blocks() -> Iterator[np.ndarray]:
        for first in range(0, V, step):
            rows = min(step, V - first)
            block = np.float32(1) + rng.standard_normal((rows * L, n), np.float32) / 4
            if stored == "u8":
                yield with_scales(*quantize_rows(block)).reshape(rows, L, -1)
            else:
                yield block.astype(DTYPES[stored]).reshape(rows, L, n)

    width = n + SCALE_BYTES if stored == "u8" else n
    writer.add_blocks(DEEP_TABLE, (V, L, width), blocks(), page_aligned=True)


def packed(w: np.ndarray) -> np.ndarray:
    """Round a matrix to int4, from the smallest to the largest weight of each group."""
    by_group = int4.order(w.shape[1])
    groups = w[:, by_group].reshape(len(w), -1, int4.GROUP)  # (out, in / 64, 64)
    low = np.minimum(groups.min(axis=2), 0)
    scale = ((np.maximum(groups.max(axis=2), 0) - low) / int4.LARGEST).astype(np.float16)
    step = np.where(scale > 0, scale, 1).astype(np.float32)
    zero = np.clip(np.rint(-low / step), 0, int4.LARGEST)
    q = np.empty(w.shape, np.uint8)
    levels = np.rint(groups / step[..., None]) + zero[..., None]
    q[:, by_group] = np.clip(levels, 0, int4.LARGEST).reshape(w.shape)
    return int4.pack(q, scale, zero.astype(np.uint8))


def is_packed(name: str, shape: tuple[int, ...]) -> bool:
    """Tell whether a matrix is packed in a model of int4; small ones stay in int8."""
    is_small = re.search(r"\.\w*[12]\.weight$", name) is not None
    return shape[1] % int4.GROUP == 0 and not is_small


def write(
    path: str,
    config: dict,
    dtype: str = "int8",
    seed: int = 0,
    low: int = 64,
    others: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> None:
    """Write a random model; `low` is the inner rank of v6's and v7's small matrices.

    `others` are further tensors, such as those of a vocabulary.
    """
    rng, arch = np.random.default_rng(seed), config["arch"]
    with Writer(path, {**config, "dtype": dtype}) as writer:
        for name, shape in tensor_shapes(config).items():
            if name == DEEP_TABLE:
                stored = "u8" if dtype in QUANTISED else dtype
                add_table(writer, tuple(map(int, shape)), stored, rng)
                continue
            numbers = [
                n if isinstance(n, int) else 5 * low if n.startswith("5 ") else low for n in shape
            ]
            array = values(name, tuple(numbers), arch, rng)
            if array.ndim != 2 or not name.endswith(".weight") or dtype == "f32":
                writer.add(name, array)
            elif dtype == "f16":
                writer.add(name, array.astype(np.float16))
            elif dtype == "int4" and is_packed(name, array.shape):
                writer.add(name, packed(array))
            else:
                q, scale = quantize_rows(array)
                writer.add(name, q)
                writer.add(name + ".scale", scale)
        for name, array in others.items():
            writer.add(name, array)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output")
    parser.add_argument("--arch", choices=VERSIONS, default="v7")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--vocab", type=int, default=65536)
    parser.add_argument("--dtype", choices=("f32", "f16", "int8", "int4"), default="int8")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write(args.output, sizes(args.arch, args.layers, args.width, args.vocab), args.dtype, args.seed)


if __name__ == "__main__":
    main()
