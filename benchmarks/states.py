"""Measure what it costs to save a state in a smaller type, and to go on from it.

python benchmarks/states.py --model a.trwkv book.txt --model b.trwkv documents.txt --save

Every text is read with the state saved and loaded again after each --every tokens. The nll is in
nats a token, beside that of the same text without such round trips. A text with lines <|doc|> is
read document by document, any other in windows of 512 tokens. Each begins with token 0.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import tinyrwkv
from benchmarks import common
from converters.judge.texts import END_OF_DOCUMENT, read_text, split_documents, windows
from tinyrwkv import Model, State
from tinyrwkv.state_file import DTYPES


def texts(model: Model, path: str) -> Iterator[list[int]]:
    """Yield the tokens of each document, or of each window where a text has no documents."""
    text = read_text(path)
    documents = split_documents(text)
    if len(documents) > 1:
        yield from (model.tokenizer.encode(document) for document in documents)
    else:
        yield from windows(model.tokenizer, text.encode())


def round_trip(model: Model, state: State, path: str, dtype: str) -> State:
    """Save a state and load it again."""
    state.save(path, dtype)
    return State.load(path, model)


def total_nll(
    model: Model, ids: Sequence[int], every: int, path: str | None = None, dtype: str = "f32"
) -> float:
    """Return the sum of the nll of some tokens; with a path, the state goes through that file."""
    inputs = [END_OF_DOCUMENT, *ids[:-1]]
    state = model.new_state()
    total = 0.0
    for first in range(0, len(ids), every):
        logits, state = model.forward(inputs[first : first + every], state, logits="all")
        total += _nll(logits.astype(np.float64), np.array(ids[first : first + every]))
        if path is not None:
            state = round_trip(model, state, path, dtype)
    return total


def _nll(logits: np.ndarray, targets: np.ndarray) -> float:
    """Return the sum of log sum exp(logits) - logit of the target."""
    peak = logits.max(axis=1)  # (T,)
    log_sums = peak + np.log(np.exp(logits - peak[:, None]).sum(axis=1))  # (T,)
    chosen = logits[np.arange(len(targets)), targets]  # (T,)
    return float((log_sums - chosen).sum())


def measure(model: Model, path: str, every: int, limit: int | None) -> dict[str, Any]:
    """Return the nll of a text without round trips, and for each type the nll and the bytes."""
    chosen = list(texts(model, path))
    if limit is not None:
        chosen = chosen[:: -(-len(chosen) // limit)]
    tokens = sum(map(len, chosen))
    plain = sum(total_nll(model, ids, every) for ids in chosen) / tokens
    types = {}
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "a.state")
        for dtype in DTYPES:
            nll = sum(total_nll(model, ids, every, file, dtype) for ids in chosen) / tokens
            size = os.path.getsize(file)
            types[dtype] = {"nll": nll, "nll_delta": nll - plain, "file_bytes": size}
    return {
        "model": os.path.basename(model.path),
        "text": os.path.basename(path),
        "texts": len(chosen),
        "tokens": tokens,
        "nll": plain,
        "types": types,
    }


def table(found: dict[str, Any], every: int) -> str:
    """Return what was measured of one model, for people."""
    rows = [["no round trip", f"{found['nll']:.5f}", "", ""]]
    for dtype, one in found["types"].items():
        rows.append([dtype, f"{one['nll']:.5f}", f"{one['nll_delta']:+.5f}", one["file_bytes"]])
    head = f"{found['model']}, {found['text']}: {found['texts']} texts, {found['tokens']:,} tokens"
    head += f", a round trip after each {every}"
    return f"{head}\n{common.table(rows, ['type', 'nll', 'more', 'bytes of a file'])}\n"


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = common.parser(__doc__ or "", threads=(1,))
    parser.add_argument(
        "--model",
        nargs=2,
        action="append",
        required=True,
        metavar=("MODEL", "TEXT"),
        help="a model file with a tokenizer, and the text to read; may be given several times",
    )
    parser.add_argument("--every", type=int, default=64, metavar="N", help="default: 64")
    parser.add_argument(
        "--limit", type=int, metavar="N", help="texts of each file at most, evenly spread"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = options_of(arguments)
    result: dict[str, Any] = {"machine": common.machine(), "every": options.every, "models": []}
    for path, text in options.model:
        with tinyrwkv.load(path, threads=options.threads[0]) as model:
            result["models"].append(measure(model, text, options.every, options.limit))
    told = "\n".join(table(found, options.every) for found in result["models"])
    common.finish("states", options, result, told)


if __name__ == "__main__":
    common.run(main)
