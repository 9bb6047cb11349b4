"""Ask what pays to be added to int4: a low-rank term, single weights, or whole columns.

    python benchmarks/int4_repairs.py MODEL FIT_TEXT OTHER_TEXT [--layer N]

MODEL is a dense model in int8 or float. Its matrices are rounded by GPTQ. Then a part of the error
D = W - W' is added back, fitted to the inputs of one text by their second moments H = E[x x^T] and
judged by those of the other text. One step that lowers the error most is, for one weight, for one
column, and for r directions::

    x_ij = (D H)_ij / H_jj            gains (D H)_ij^2 / H_jj
    x_j  = (D H)_j  / H_jj            gains |(D H)_j|^2 / H_jj
    X    = the first r terms of D S,  H = S S^T            (EoRA, arXiv:2410.21271)

What is added is counted in bytes as int8 with a scale for each row. A single weight needs two more
bytes for its place.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from converters.calibrate.collect import collect  # noqa: E402
from converters.calibrate.documents import choose_documents  # noqa: E402
from converters.compress.float_copy import dense_matrix  # noqa: E402
from converters.judge.texts import read_text  # noqa: E402
from converters.techniques import low_rank as factors  # noqa: E402
from converters.techniques.gptq import gptq  # noqa: E402
from converters.techniques.round_int4 import round_int4  # noqa: E402
from converters.write.parts import is_int4  # noqa: E402
from tinyrwkv import Model, load  # noqa: E402
from tinyrwkv.file.int4 import row_bytes  # noqa: E402
from tinyrwkv.file.quant import dequantize_rows, quantize_rows  # noqa: E402

Array = np.ndarray
Repair = Callable[[Array, Array], tuple[Array, int]]
"""Takes D and H; returns what is added, [out, in], and its bytes."""

TOKENS = 16384
"""Of each text."""

STEPS = 20
"""Rounds in which single weights or columns are fitted to each other."""


def nothing(D: Array, H: Array) -> tuple[Array, int]:
    """Add nothing."""
    return np.zeros_like(D), 0


def low_rank(rank: int) -> Repair:
    """Add the product of two factors."""

    def repair(D: Array, H: Array) -> tuple[Array, int]:
        metric = factors.Metric(H)
        pair = factors.round_factors(D, factors.spectrum(D, metric), rank, metric)
        return pair.product(), factors.factored_bytes(D.shape, rank)

    return repair


def single_weights(share: float) -> Repair:
    """Add the weights that gain most."""

    def repair(D: Array, H: Array) -> tuple[Array, int]:
        gains = np.square(D @ H) / np.diag(H)
        count = round(share * D.size)
        chosen = gains >= np.partition(gains, -count, axis=None)[-count]
        return _rounded(_fit(D, H, chosen)), 3 * count + 6 * len(D)

    return repair


def columns(count: int) -> Repair:
    """Add the columns that gain most."""

    def repair(D: Array, H: Array) -> tuple[Array, int]:
        gains = np.square(D @ H).sum(axis=0) / np.diag(H)
        chosen = np.zeros(D.shape, bool)
        chosen[:, np.argsort(gains)[-count:]] = True
        return _rounded(_fit(D, H, chosen)), (count + 4) * len(D)

    return repair


def _fit(D: Array, H: Array, chosen: Array) -> Array:
    """Fit the chosen weights to the error, and to each other by steepest descent."""
    X = np.zeros_like(D)
    for _ in range(STEPS):
        step = np.where(chosen, (D - X) @ H / np.diag(H), 0)
        # The length with the least error along this step, for each row.
        along = np.einsum("ij,ij->i", step @ H, D - X)
        length = along / np.maximum(np.einsum("ij,ij->i", step @ H, step), 1e-30)
        X += length[:, None] * step
    return X


def _rounded(X: Array) -> Array:
    return dequantize_rows(*quantize_rows(X.astype(np.float32)))


REPAIRS: dict[str, Repair] = {
    "nothing": nothing,
    "low rank 8": low_rank(8),
    "low rank 16": low_rank(16),
    "0.5 % of the weights": single_weights(0.005),
    "1 % of the weights": single_weights(0.01),
    "8 columns": columns(8),
    "24 columns": columns(24),
}


def moments(model: Model, path: str, names: list[str]) -> dict[str, Array]:
    """Return E[x x^T] of the inputs of matrices while the model reads a text."""
    documents = choose_documents(model, read_text(path), TOKENS, 0)
    return collect(model, documents, moments=names).moments


def measure(model: Model, layer: int, texts: tuple[str, str]) -> Iterator[tuple[str, float, float]]:
    """Yield for each repair its bits a weight and its relative error on the other text."""
    names = [
        name
        for name, tensor in model.file.tensors.items()
        if name.startswith(f"blocks.{layer}.") and is_int4(name, tensor.shape[-1], "body")
    ]
    fitted, others = (moments(model, text, names) for text in texts)
    weights = {name: dense_matrix(model.file, name) for name in names}
    nearest = {name: round_int4(weight).weights() for name, weight in weights.items()}
    int4 = {name: gptq(weights[name], fitted[name]).int4.weights() for name in names}
    size = sum(weight.size for weight in weights.values())
    base = sum(len(weight) * row_bytes(weight.shape[1]) for weight in weights.values())
    rows = [("rounded to nearest", nearest, nothing)]
    rows += [(repair, int4, REPAIRS[repair]) for repair in REPAIRS]
    for title, found, repair in rows:
        errors, added = [], 0
        for name, weight in weights.items():
            metric = factors.Metric(others[name])
            extra, used = repair(weight - found[name], fitted[name])
            whole = metric.error(weight, np.zeros_like(weight))
            errors.append((metric.error(weight, found[name] + extra) / whole) ** 0.5)
            added += used
        yield title, 8 * (base + added) / size, float(np.mean(errors))


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("model", "fit_text", "other_text"):
        parser.add_argument(name)
    parser.add_argument("--layer", type=int, default=3)
    arguments = parser.parse_args(argv)
    with load(arguments.model) as model:
        texts = arguments.fit_text, arguments.other_text
        print("| added to int4 | bits a weight | relative error |\n|---|---|---|", flush=True)
        for title, bits, error in measure(model, arguments.layer, texts):
            print(f"| {title} | {bits:.2f} | {100 * error:.2f} % |", flush=True)


if __name__ == "__main__":
    main()
