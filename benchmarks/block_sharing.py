"""Ask whether a block of the model could share its matrices with the block before it.

    python benchmarks/block_sharing.py MODEL TEXT... [--limit WINDOWS] [--rank N]

MODEL is a dense model file with a tokenizer. One block after the other is changed, in three ways:
it is left out; it has the matrices of the block before it; it has these and a correction of low
rank, which comes nearest to its own ones. Vectors, such as norms and decays, stay its own. The
table has how alike the matrices of the two blocks are (the cosine of the angle between them, as
vectors of all their weights), and the mean nll of the texts above that of MODEL.

The idea is that of FlexiGPT (https://arxiv.org/abs/2501.14713).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import tinyrwkv
from benchmarks import common
from converters.compress.float_copy import FloatCopy
from converters.judge.metrics import Judge, TextLoss
from converters.judge.texts import read_text, windows
from converters.recover.body import BODY

Array = np.ndarray

LAST = "att.output.weight", "ffn.value.weight"
"""Those that write to the residual stream: without them a block does nothing."""

WAYS = "left out", "shared", "corrected"


def matrices(model: tinyrwkv.Model, block: int) -> dict[str, Array]:
    """Return the large matrices of a block of a float model, by the ends of their names."""
    start = f"blocks.{block}."
    return {
        name.removeprefix(start): np.array(model.file[name])
        for name in model.file.tensors
        if name.startswith(start) and BODY.fullmatch(name)
    }


def corrected(other: Array, own: Array, rank: int) -> Array:
    """Return the matrix nearest to `own` that is `other` and a matrix of a low rank."""
    U, s, V = np.linalg.svd(own - other, full_matrices=False)
    nearest: Array = other + (U[:, :rank] * s[:rank]) @ V[:rank]
    return nearest


def cosine(own: Mapping[str, Array], other: Mapping[str, Array]) -> float:
    """Return the cosine of the angle between all weights of two blocks."""
    products = sum(float(np.vdot(own[end], other[end])) for end in own)
    lengths = [sum(float(np.square(one).sum()) for one in block.values()) for block in (own, other)]
    return products / float(np.sqrt(lengths[0] * lengths[1]))


def changed(
    own: Mapping[str, Array], other: Mapping[str, Array], rank: int
) -> list[dict[str, Array]]:
    """Return the matrices that take the place of a block's own ones, for each of `WAYS`."""
    return [
        {end: np.zeros_like(own[end]) for end in LAST},
        dict(other),
        {end: corrected(other[end], own[end], rank) for end in own},
    ]


def measure(
    model: tinyrwkv.Model, texts: Sequence[Sequence[int]], rank: int
) -> Iterator[tuple[int, float, list[float]]]:
    """Yield of each block but the first its number, the cosine, and the nll of each of `WAYS`."""
    with (
        tempfile.TemporaryDirectory() as folder,
        FloatCopy(model, os.path.join(folder, "float.trwkv"), 1) as copy,
    ):
        path = copy.model.file.path

        def nll() -> float:
            # Loaded anew: a model refuses a file that was changed while it was in use.
            with contextlib.closing(tinyrwkv.load(path)) as now:
                judge = Judge(now)
                return sum((judge.loss(text) for text in texts), TextLoss()).nll_per_token

        as_it_is = nll()
        blocks = [matrices(copy.model, block) for block in range(model.config["n_layer"])]
        for block in range(1, len(blocks)):
            own, other = blocks[block], blocks[block - 1]
            losses = []
            for change in changed(own, other, rank):
                _replace(copy, block, change)
                losses.append(nll() - as_it_is)
                _replace(copy, block, own)
            yield block, cosine(own, other), losses


def _replace(copy: FloatCopy, block: int, change: Mapping[str, Array]) -> None:
    for end, weights in change.items():
        copy.replace(f"blocks.{block}.{end}", weights)


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("texts", nargs="+", metavar="TEXT")
    parser.add_argument("--limit", type=int, default=4, metavar="N", help="windows of each text")
    parser.add_argument("--rank", type=int, default=64, metavar="N", help="of the corrections")
    options = parser.parse_args(argv)
    with contextlib.closing(tinyrwkv.load(options.model)) as model:
        texts = [
            window
            for path in options.texts
            for window in itertools.islice(
                windows(model.tokenizer, read_text(path).encode()), options.limit
            )
        ]
        ways = (*WAYS[:2], f"shared, and rank {options.rank}")
        print(f"| block | cosine | {' | '.join(ways)} |")
        print("|---" * (2 + len(ways)) + "|")
        for block, alike, losses in measure(model, texts, options.rank):
            cells = " | ".join(f"{loss:+.3f}" for loss in losses)
            print(f"| {block} | {alike:.3f} | {cells} |", flush=True)


if __name__ == "__main__":
    common.run(main)
