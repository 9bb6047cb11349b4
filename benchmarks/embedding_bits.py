"""Ask how many bits the embedding and the head need, and which of their rows.

    python benchmarks/embedding_bits.py MODEL CALIBRATE TEXT... [--limit WINDOWS]

MODEL is a dense model file with a tokenizer. Its embedding, then its head, are rounded in several
ways and stored as float32; the rest stays as it is. CALIBRATE is the text that GPTQ is fitted to.
It also tells how likely each token is: some ways store the rows of likely tokens in int8, and the
others in int4. Each TEXT is read in windows of 512 tokens, and all ways are judged by the same.

The table has the bytes of the matrix, the mean nll above that of MODEL on each text and on all, and
the divergence E[sum_i p_i (log p_i - log q_i)] from MODEL, with p of MODEL. It is never negative,
and far surer than the nll on so few tokens.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple
from unittest import mock

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import tinyrwkv
from benchmarks import common
from converters.calibrate.collect import collect
from converters.calibrate.documents import choose_documents
from converters.calibrate.probe import Probe
from converters.compress.float_copy import FloatCopy
from converters.judge.texts import END_OF_DOCUMENT, name_of, read_text, windows
from converters.techniques import round_int4
from converters.techniques.gptq import gptq
from converters.techniques.preview_head import mean_probabilities
from tinyrwkv.file.quant import dequantize_rows, quantize_rows

Array = np.ndarray

HEAD, EMBEDDING = "head.weight", "emb.weight"

CALIBRATION_TOKENS = 16384

CUTS = (1024, 2048, 4096, 8192, 16384, 32768)
"""Numbers of likely rows of the head that are tried in int8."""

CUTS_OF_EMBEDDING = (2048, 8192)
"""The same of the embedding, through which the model must read all texts again."""

BLOCK = 256
"""Tokens whose logits are in memory at a time."""

STEPS = np.linspace(1, 0.5, 26, dtype=np.float32)[:, None]
"""Scales of a row that are tried, by the one that clips no weight."""


class Case(NamedTuple):
    """A way to round one of the two matrices.

    Attributes
    ----------
    title : str
    bytes : float
        Of the whole matrix.
    inputs : ndarray, float32, shape (T, C)
        What goes into the head.
    weight : ndarray, float32, shape (V, C)
        The head, most likely rows first.
    """

    title: str
    bytes: float
    inputs: Array
    weight: Array


class Judged(NamedTuple):
    """What a head says about each token, by blocks of rows that end at `CUTS`.

    Attributes
    ----------
    total : ndarray, float64, shape (T, blocks)
        Log of the sum of the exponentials of the logits of a block.
    mean : ndarray, float64, shape (T, blocks)
        Sum of p_i z_i over a block, with p of the model.
    target : ndarray, float64, shape (T,)
        The logit of the token that follows.
    """

    total: Array
    mean: Array
    target: Array


def groups(bits: int, moments: Array | None = None) -> Callable[[Array], tuple[Array, float]]:
    """Return a function that rounds with a scale and a zero point for 64 weights."""

    def rounded(weight: Array) -> tuple[Array, float]:
        with mock.patch.object(round_int4, "LARGEST", 2**bits - 1):
            if moments is None:
                found = round_int4.round_int4(weight)
            else:
                found = gptq(weight, moments).int4
            return found.weights(), weight.size * (bits + (16 + bits) / 64) / 8

    return rounded


def rows(bits: int) -> Callable[[Array], tuple[Array, float]]:
    """Return a function that rounds with a scale for each row."""
    largest = 2 ** (bits - 1) - 1

    def rounded(weight: Array) -> tuple[Array, float]:
        found = np.empty_like(weight)
        for first in range(0, len(weight), 4096):
            some = weight[first : first + 4096]
            most = np.abs(some).max(axis=1, keepdims=True) / largest
            best = np.full(len(some), np.inf, np.float32)
            for step in STEPS:
                scale = np.maximum(most * step, 1e-30)
                tried = np.clip(np.rint(some / scale), -largest, largest) * scale
                error = np.square(tried - some).sum(axis=1)
                is_better = error < best
                best[is_better] = error[is_better]
                found[first : first + 4096][is_better] = tried[is_better]
        return found, weight.size * bits / 8 + 4 * len(weight)

    return rounded


def int8(weight: Array) -> tuple[Array, float]:
    """Round as int8 files do."""
    return dequantize_rows(*quantize_rows(weight)), weight.size + 4.0 * len(weight)


def likely_in_int8(order: Array, count: int) -> Callable[[Array], tuple[Array, float]]:
    """Return a function that rounds some rows to int8, and the others to int4."""

    def rounded(weight: Array) -> tuple[Array, float]:
        fine, coarse = order[:count], order[count:]
        found = np.empty_like(weight)
        found[fine], used = int8(weight[fine])
        found[coarse], more = groups(4)(weight[coarse])
        return found, used + more

    return rounded


def read_states(model: tinyrwkv.Model, texts: Sequence[list[list[int]]]) -> Array:
    """Return what goes into the head while a model reads windows: float32, shape (T, C)."""
    seen: list[Array] = []
    probe = Probe(model, {HEAD: seen.append})
    for text in texts:
        for window in text:
            probe.read([END_OF_DOCUMENT, *window[:-1]])
    return np.concatenate(seen)


def judge(cases: list[Case], targets: Array) -> list[Judged]:
    """Return what each head says; the first one is that of the model."""
    starts = [0, *CUTS]
    ends = [*CUTS, len(cases[0].weight)]
    shape = len(targets), len(starts)
    found = [Judged(np.empty(shape), np.empty(shape), np.empty(len(targets))) for _ in cases]
    for first in range(0, len(targets), BLOCK):
        some = slice(first, first + BLOCK)
        for case, judged in zip(cases, found, strict=True):
            z = case.inputs[some] @ case.weight.T  # (BLOCK, V)
            judged.target[some] = z[np.arange(len(z)), targets[some]]
            if case is cases[0]:
                p = softmax(z)
            for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
                block = z[:, start:end]
                judged.mean[some, i] = np.einsum("ij,ij->i", p[:, start:end], block)
                peak = block.max(axis=1, keepdims=True)
                sums = np.exp(np.subtract(block, peak, out=block), out=block).sum(axis=1)
                judged.total[some, i] = np.log(sums) + peak[:, 0]
    return found


def softmax(z: Array) -> Array:
    """Return the probabilities of logits (T, V)."""
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return p


def mixed(fine: Judged, coarse: Judged, cut: int, targets: Array) -> Judged:
    """Return what a head says whose first rows are those of one head, and the others of another."""
    takes_fine = np.array([0, *CUTS]) < cut
    return Judged(
        np.where(takes_fine, fine.total, coarse.total),
        np.where(takes_fine, fine.mean, coarse.mean),
        np.where(targets < cut, fine.target, coarse.target),
    )


def losses(judged: Judged) -> tuple[Array, Array]:
    """Return of each token the nll, and what log q is on average over p."""
    peak = judged.total.max(axis=1, keepdims=True)
    total = np.log(np.exp(judged.total - peak).sum(axis=1)) + peak[:, 0]
    return total - judged.target, judged.mean.sum(axis=1) - total


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("calibrate", metavar="CALIBRATE")
    parser.add_argument("texts", nargs="+", metavar="TEXT")
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="windows of each text")
    options = parser.parse_args(argv)
    with contextlib.closing(tinyrwkv.load(options.model)) as model:
        texts = [
            list(
                itertools.islice(windows(model.tokenizer, read_text(path).encode()), options.limit)
            )
            for path in options.texts
        ]
        names = [name_of(path) for path in options.texts]
        lengths = [sum(map(len, text)) for text in texts]
        for line in table(measure(model, options.calibrate, texts), names, lengths):
            print(line, flush=True)


def measure(
    model: tinyrwkv.Model, calibrate: str, texts: list[list[list[int]]]
) -> Iterator[tuple[str, float, Array, Array]]:
    """Yield of each way its title, the bytes of the matrix, and two losses of each token."""
    documents = choose_documents(model, read_text(calibrate), CALIBRATION_TOKENS, 0)
    with (
        tempfile.TemporaryDirectory() as folder,
        FloatCopy(model, os.path.join(folder, "float.trwkv"), 1) as copy,
    ):
        seen = collect(copy.model, documents, moments=[HEAD], inputs=[HEAD])
        weight = copy.model.file[HEAD].copy()
        states = seen.inputs[HEAD] * seen.scales[HEAD][:, None]
        order = np.argsort(-mean_probabilities(weight, states), kind="stable")
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        targets = places[np.concatenate([window for text in texts for window in text])]

        inputs = read_states(copy.model, texts)
        cases = [Case("as it is", 0, inputs, weight[order])]
        for title, way in head_ways(seen.moments[HEAD]).items():
            print(title, file=sys.stderr)
            rounded, size = way(weight)
            cases.append(Case(f"head, {title}", size, inputs, rounded[order]))
        heads = len(cases)
        embedding = copy.model.file[EMBEDDING].copy()
        for title, way in embedding_ways(order).items():
            print(title, file=sys.stderr)
            rounded, size = way(embedding)
            copy.replace(EMBEDDING, rounded)
            other = read_states(copy.model, texts)
            cases.append(Case(f"embedding, {title}", size, other, cases[0].weight))
    found = judge(cases, targets)
    for i, (case, judged) in enumerate(zip(cases, found, strict=True)):
        yield case.title, case.bytes, *losses(judged)
        if i == heads - 1:
            yield from mixtures(cases, found, targets)


def head_ways(moments: Array) -> dict[str, Callable[[Array], tuple[Array, float]]]:
    """Return ways to round the head."""
    return {
        "4 bits, nearest": groups(4),
        "4 bits, GPTQ": groups(4, moments),
        "5 bits, GPTQ": groups(5, moments),
        "6 bits, GPTQ": groups(6, moments),
        "int8": int8,
    }


def embedding_ways(order: Array) -> dict[str, Callable[[Array], tuple[Array, float]]]:
    """Return ways to round the embedding; `order` has the likely tokens first."""
    ways = {
        "4 bits": groups(4),
        "5 bits": groups(5),
        "6 bits": groups(6),
        "6 bits, a scale for each row": rows(6),
        "int8": int8,
    }
    for cut in CUTS_OF_EMBEDDING:
        ways[f"{cut:,} rows int8, others 4 bits"] = likely_in_int8(order, cut)
    return ways


def mixtures(
    cases: list[Case], found: list[Judged], targets: Array
) -> Iterator[tuple[str, float, Array, Array]]:
    """Yield the heads whose likely rows are in int8, and the others in fewer bits."""
    by_title = {case.title: (case.bytes, judged) for case, judged in zip(cases, found, strict=True)}
    size, fine = by_title["head, int8"]
    for bits in ("4 bits, nearest", "4 bits, GPTQ"):
        other, coarse = by_title[f"head, {bits}"]
        for cut in CUTS:
            share = cut / len(cases[0].weight)
            title = f"head, {cut:,} rows int8, others {bits}"
            judged = mixed(fine, coarse, cut, targets)
            yield title, share * size + (1 - share) * other, *losses(judged)


def table(
    found: Iterator[tuple[str, float, Array, Array]], names: list[str], lengths: list[int]
) -> Iterator[str]:
    """Yield the lines of a table in Markdown."""
    yield f"| | MB | {' | '.join(names)} | all | divergence |"
    yield "|---" * (len(names) + 4) + "|"
    ends = np.cumsum(lengths)[:-1]
    _, _, own_nll, own_mean = next(found)
    cells = [f"{part.mean():.4f}" for part in (*np.split(own_nll, ends), own_nll)]
    yield f"| as it is | | {' | '.join(cells)} | |"
    for title, size, nll, mean in found:
        more = nll - own_nll
        cells = [f"{part.mean():+.4f}" for part in np.split(more, ends)]
        error = more.std() / len(more) ** 0.5
        cells += [f"{more.mean():+.4f} ± {error:.4f}", f"{(own_mean - mean).mean():.5f}"]
        yield f"| {title} | {size / 1e6:.2f} | {' | '.join(cells)} |"


if __name__ == "__main__":
    common.run(main)
