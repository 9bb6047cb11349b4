"""Time `forward` of a few tokens with the logits of all, in times of one token.

A speculation reads a few guessed tokens at once. It pays if that costs little more than one token.
`speculation.py` shows these rows.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import time
from collections.abc import Sequence
from typing import Any

import tinyrwkv
from benchmarks import common

TOKENS = (2, 4, 8)
"""Tokens that are read at once."""

BARS = {1: (1.1, 1.9, 3.2), 2: (1.15, 2.0, 3.4)}
"""The most that they may cost, in times of one token, for each number of threads."""


def of_shapes(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return rows for random models, as the options `chunks_of`, `threads` and `turns` ask for."""
    rows = []
    for shape in options.chunks_of:
        layers, width = map(int, shape.split("x"))
        form = {"model": None, "arch": "v7", "dtype": "int8", "vocab": options.vocab}
        one = argparse.Namespace(**form, layers=layers, width=width)
        with common.model_path(one) as path:
            for threads in options.threads:
                rows += measure(path, threads, options.turns)
    return rows


def measure(path: str, threads: int, turns: int) -> list[dict[str, Any]]:
    """Return a row for each of TOKENS: medians of some turns, in which all take turns with one.

    Parameters
    ----------
    path : str
        Of a model.
    threads, turns : int
    """
    model = tinyrwkv.load(path, threads=threads)
    _, state = model.forward([1])  # it reads the file in
    seconds: dict[int, list[float]] = {count: [] for count in (1, *TOKENS)}
    for turn in range(turns):
        for count, times in seconds.items():
            tokens = [(turn + i * 7919) % model.config["vocab_size"] for i in range(count)]
            begin = time.perf_counter()
            model.forward(tokens, state, logits="all")
            times.append(time.perf_counter() - begin)
    bars: Sequence[float | None] = BARS.get(threads, (None,) * len(TOKENS))
    rows = []
    for count, bar in zip(TOKENS, bars, strict=True):
        pairs = zip(seconds[count], seconds[1], strict=True)
        ratio = statistics.median(some / one for some, one in pairs)
        row = {"model": pathlib.Path(path).name, "threads": threads, "tokens": count}
        row["one_token_ms"] = round(1e3 * statistics.median(seconds[1]), 3)
        row["ms"] = round(1e3 * statistics.median(seconds[count]), 3)
        rows.append(row | {"times_one_token": round(ratio, 3), "bar": bar})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as text, those that miss their bar marked."""
    head = ("model", "threads", "tokens", "one token, ms", "all, ms", "times one token", "bar", "")
    shown = []
    for row in rows:
        missed = row["bar"] is not None and row["times_one_token"] > row["bar"]
        numbers = [f"{row[key]:.2f}" for key in ("one_token_ms", "ms", "times_one_token")]
        bar = None if row["bar"] is None else f"{row['bar']:.2f}"
        names = (row["model"], row["threads"], row["tokens"])
        shown.append((*names, *numbers, bar, "missed" if missed else ""))
    return common.table(shown, head)
