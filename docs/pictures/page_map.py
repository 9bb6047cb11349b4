"""Draw a model file as a map of its pages that light up token by token.

python docs/pictures/page_map.py model.trwkv page-map.gif

Each square is a page of 4,096 bytes. Before every token the file is dropped from the process and
from the system's cache. So exactly those pages are present afterwards that the token touched:
/proc/self/pagemap tells. Linux only.
"""

from __future__ import annotations

import argparse
import mmap
import os
import pathlib
import shutil
import sys
import tempfile

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.patches import Patch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import tinyrwkv
from tinyrwkv.file import memory

PROMPT = "User: please go forward two meters and then turn left\n\nAssistant:"
COLOURS = {
    "embedding": "#4c78a8",
    "time_mix": "#54a24b",
    "channel_mix": "#e45756",
    "head": "#b279a2",
    "tokenizer": "#9d755d",
}


def part(name: str) -> str:
    """Return the part of a model that a tensor belongs to."""
    if name.startswith("blocks."):
        return "channel_mix" if ".ffn." in name or ".ln2" in name else "time_mix"
    return {"emb": "embedding", "tokenizer": "tokenizer"}.get(name.split(".", 1)[0], "head")


def present(model: tinyrwkv.Model) -> np.ndarray:
    """Return which pages of the file are in this process, bool, one for each page."""
    pages = -(-len(model.file.bytes) // mmap.PAGESIZE)
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        pagemap.seek(model.file.bytes.ctypes.data // mmap.PAGESIZE * 8)
        return np.frombuffer(pagemap.read(pages * 8), np.uint64) >> np.uint64(63) == 1


def forget(model: tinyrwkv.Model) -> None:
    """Take the file out of the process and out of the system's cache."""
    model.file.drop()
    memory.drop_from_cache(model.path)


def watch(model: tinyrwkv.Model, tokens: int) -> tuple[list[str], np.ndarray]:
    """Return the text of each token, and the pages that it touched, bool, (tokens, pages)."""
    model.file.advise("MADV_NOHUGEPAGE")
    model.file.advise("MADV_RANDOM")  # no page is read ahead
    ids, texts, touched = [0, *model.tokenizer.encode(PROMPT)], [], []
    state = None
    while len(texts) < tokens:
        token = ids[len(texts)]
        forget(model)
        logits, state = model.forward(token, state)
        touched.append(present(model))
        texts.append(model.tokenizer.decode([token]) or "begin")
        if len(texts) == len(ids):
            ids.append(int(logits.argmax()))
    return texts, np.array(touched)


def draw(model: tinyrwkv.Model, texts: list[str], touched: np.ndarray, path: str) -> None:
    """Write the animation."""
    pages = touched.shape[1]
    columns = int(np.sqrt(1.5 * pages))
    rows = -(-pages // columns)
    colour = np.full((rows * columns, 3), 1.0)
    colour[:pages] = 0.85
    for tensor in model.file.tensors.values():
        rgb = [int(COLOURS[part(tensor.name)][i : i + 2], 16) / 255 for i in (1, 3, 5)]
        colour[
            tensor.offset // mmap.PAGESIZE : -(-(tensor.offset + tensor.nbytes) // mmap.PAGESIZE)
        ] = rgb
    figure, axes = plt.subplots(figsize=(6.4, 4.4), dpi=80)
    figure.subplots_adjust(0.02, 0.09, 0.98, 0.92)
    image = axes.imshow(np.ones((rows, columns, 3)), interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    handles = [Patch(color=value, label=name.replace("_", " ")) for name, value in COLOURS.items()]
    figure.legend(
        handles=handles, loc="lower center", ncols=len(handles), fontsize=8, frameon=False
    )

    def frame(k: int) -> None:
        strength = np.full(len(colour), 0.15)  # never touched
        strength[:pages][touched[:k].any(axis=0)] = 0.45  # by an earlier token
        strength[:pages][touched[k]] = 1.0
        strength[pages:] = 0
        shade = 1 - strength[:, None] * (1 - colour)
        image.set_data(shade.reshape(rows, columns, 3))
        ever = touched[: k + 1].any(axis=0).sum() * mmap.PAGESIZE / 1e6
        now = touched[k].sum() * mmap.PAGESIZE / 1e6
        whole = pages * mmap.PAGESIZE / 1e6
        title = f"{texts[k]!r}: {now:.1f} MB, so far {ever:.1f} of {whole:.1f} MB"
        axes.set_title(title, fontsize=10)

    FuncAnimation(figure, frame, frames=len(texts)).save(path, writer=PillowWriter(fps=2))


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("output")
    parser.add_argument("--tokens", type=int, default=24)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = shutil.copy(
            args.model, folder
        )  # nobody else maps the copy, so that the cache lets it go
        memory.drop_from_cache(path)
        model = tinyrwkv.load(path)
        texts, touched = watch(model, args.tokens)
        draw(model, texts, touched, args.output)
    mean = touched.sum(axis=1).mean()
    size = os.path.getsize(args.output)
    print(f"{args.output}: {size:,} bytes; a token touched {mean:.0f} pages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
