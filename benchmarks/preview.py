"""Tell what the preview of a head loses, by the rows of its second level and the exact rows.

python benchmarks/preview.py MODEL CALIBRATE TEXT... --likely 0.999 0.9999 --rows 1024 3072
python benchmarks/preview.py MODEL CALIBRATE TEXT... --seeds 0 1 2 3

MODEL is a model file with a dense int8 head and a tokenizer, CALIBRATE the text that the preview is
fitted to. Each TEXT is scored as `tinyrwkv-convert eval --text` does it, with the dense head and
with each preview. All other parts of the model stay as they are.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import tinyrwkv
from benchmarks import common
from converters.calibrate import calibration
from converters.calibrate.collect import collect
from converters.compress.spectra import matrix
from converters.compress.stages import SAMPLES
from converters.judge.cost import chosen_bytes
from converters.judge.metrics import nll_of_text
from converters.judge.texts import read_text
from converters.techniques.preview_head import (
    LIKELY,
    default_levels,
    fit_preview,
    mean_probabilities,
)
from converters.write.edit import edit

NAME = "head.weight"


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("calibrate", metavar="CALIBRATE")
    parser.add_argument("texts", nargs="+", metavar="TEXT")
    share = "share of the probability that the rows of the second level hold"
    parser.add_argument(
        "--likely", nargs="+", type=float, default=[LIKELY], metavar="P", help=share
    )
    rows = "exact rows for a token (default: 3072)"
    parser.add_argument("--rows", nargs="+", type=int, default=[3072], metavar="N", help=rows)
    seeds = "seeds of the rotation of its directions (default: 0)"
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N", help=seeds)
    limit = "windows of 512 tokens to score (default: all)"
    parser.add_argument("--limit", type=int, metavar="N", help=limit)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(argv)
    texts = {os.path.basename(path): read_text(path) for path in options.texts}

    found = []
    for row in previews(options, texts):
        found.append(row)
        print(row, file=sys.stderr)
    print(json.dumps(found, indent=1) if options.json else "\n".join(table(found)))


def previews(options: argparse.Namespace, texts: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Yield what the dense head reads and loses, then each preview."""
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(tinyrwkv.load(options.model)) as model,
    ):
        yield {
            "second_level": None,
            "exact_rows": None,
            "seed": None,
            **judge(options.model, texts, options.limit),
        }
        fitted = calibration.make(
            model, options.calibrate, read_text(options.calibrate), 0, lambda *told: None
        )
        statistics = collect(model, fitted.fit, inputs=[NAME], samples=SAMPLES, seed=0)
        states = statistics.inputs[NAME] * statistics.scales[NAME][:, None]  # (n, C)
        weight = matrix(model, NAME)  # (V, C)
        p = mean_probabilities(weight, states)
        for likely, seed in itertools.product(options.likely, options.seeds):
            levels = default_levels(p, weight.shape[1], likely)
            parts, _ = fit_preview(weight, states, levels=levels, seed=seed)
            for rows in options.rows:
                path = os.path.join(folder, "preview.trwkv")
                head = {**parts, "wanted": np.array([rows], np.int32)}
                tensors = {f"head.{part}": array for part, array in head.items()}
                edit(model.file, path, {NAME: partial(dict, tensors)}, model.config)
                second_level = levels[-1].rows if len(levels) > 1 else 0
                found = judge(path, texts, options.limit)
                chosen = {"second_level": second_level, "exact_rows": rows, "seed": seed}
                yield {**chosen, **found}


def judge(path: str, texts: dict[str, str], limit: int | None) -> dict[str, Any]:
    """Return the nll of each text, and the bytes of weights that a token of them reads."""
    with contextlib.closing(tinyrwkv.load(path, threads=1)) as model:
        losses = {name: nll_of_text(model, text, limit=limit) for name, text in texts.items()}
        chosen = chosen_bytes(model) / sum(loss.tokens for loss in losses.values())
        touched = model.plan()["touched_bytes_per_token"] + chosen
    return {
        "touched_bytes": round(touched),
        "nll": {name: loss.nll_per_token for name, loss in losses.items()},
    }


def table(found: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a table in Markdown: losses are compared with the dense head."""
    dense, *rows = found
    names = list(dense["nll"])
    yield f"| second level, rows | exact rows | seed | read, MB | {' | '.join(names)} |"
    yield "|---" * (4 + len(names)) + "|"
    cells = (f"{dense['nll'][name]:.4f}" for name in names)
    yield f"| dense head | all | - | {dense['touched_bytes'] / 1e6:.2f} | {' | '.join(cells)} |"
    for row in rows:
        cells = (f"{row['nll'][name] - dense['nll'][name]:+.4f}" for name in names)
        sizes = f"{row['second_level']:,} | {row['exact_rows']:,} | {row['seed']}"
        yield f"| {sizes} | {row['touched_bytes'] / 1e6:.2f} | {' | '.join(cells)} |"


if __name__ == "__main__":
    common.run(main)
