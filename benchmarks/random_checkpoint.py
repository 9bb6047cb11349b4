"""Write a checkpoint of random weights as .safetensors, with BlinkDL's names and shapes.

python benchmarks/random_checkpoint.py /tmp/v7-0.1b.safetensors --arch v7 --layers 12 --width 768

Any engine can read it.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import struct
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks.random_model import sizes
from converters.checkpoint.raw_shapes import Sizes, raw_shapes
from tinyrwkv.errors import os_errors
from tinyrwkv.file.output import Kind, new_file
from tinyrwkv.versions.forms import LIKE_V7
from tinyrwkv.versions.layout import VERSIONS

NOTHING = Kind("an empty one", lambda path: False)
"""Another checkpoint may be one of somebody's own."""

_RANKS_V7 = {"w": 64, "a": 64, "v": 32, "g": 128}
RANKS = {"v6": {"D": 32, "E": 64}, **dict.fromkeys(LIKE_V7, _RANKS_V7)}
"""Inner sizes of the matrices of low rank, as models of 768 channels have them."""


def values(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return random values as large as trained ones: states neither vanish nor grow."""
    word = name.rsplit(".att.")[-1].rsplit(".ffn.")[-1]
    if word.startswith(("x_", "time_mix_")) or (
        word.startswith("time_maa_") and len(shape) == 3 and shape[0] == 1
    ):
        return rng.uniform(0, 1, shape).astype(np.float32)
    if word in ("w0", "time_decay"):
        return rng.uniform(-5, 0, shape).astype(np.float32)
    if name.endswith(
        (
            *("ln0.weight", "ln1.weight", "ln2.weight", "ln_out.weight", "ln_x.weight"),
            *("k_k", "k_a", "ffn.s0", "ffn.enn.weight"),
        )
    ):
        return rng.uniform(0.7, 1.3, shape).astype(np.float32)
    spread = 0.2
    if name == "emb.weight":
        spread = 0.05
    elif word in ("s_emb.weight", "s_emb_x.weight"):
        spread = 0.1 if word == "s_emb.weight" else 0.1 / shape[1] ** 0.5
    elif name.endswith(".weight"):
        spread = (0.3 if word in ("output.weight", "value.weight") else 1.0) / shape[1] ** 0.5
    elif word[-1] in "12" and len(shape) > 1:  # applied from the right
        spread = 0.8 / shape[-2] ** 0.5
    x: np.ndarray = rng.standard_normal(shape, np.float32)
    x *= np.float32(spread)
    return x


def write(path: str, config: dict, seed: int = 0, ranks: dict[str, int] | None = None) -> None:
    """Write a random checkpoint, float32, one tensor at a time."""
    rng = np.random.default_rng(seed)
    ranks = RANKS.get(config["arch"], {}) if ranks is None else ranks
    shapes = raw_shapes(Sizes.of(config), ranks)
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with new_file(path, NOTHING) as file, os_errors(path, "write"):
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            file.write(values(name, shape, rng).astype("<f4").data)


def read(path: str, mode: str = "c") -> dict[str, np.ndarray]:
    """Map the tensors of such a file; with mode "r+" a change in them changes the file."""
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        start = file.tell()
    return {
        name: np.memmap(path, "<f4", mode, start + one["data_offsets"][0], tuple(one["shape"]))
        for name, one in header.items()
    }


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
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write(args.output, sizes(args.arch, args.layers, args.width, args.vocab), args.seed)


if __name__ == "__main__":
    main()
