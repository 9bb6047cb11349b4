"""How much of a conversion is done, over all its stages, and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Iterator

from .options import Options

WEIGHTS = {
    "convert": 1,
    "export": 1,
    "sample": 30,
    "moments": 60,
    "ranks": 5,
    "low rank": 10,
    "int4": 120,
    "neurons": 26,
    "sparse ffn": 37,
    "network": 20,
    "head inputs": 21,
    "head": 1,
    "search": 1500,
}
"""How long stages take, in relation to each other."""

JUDGE = 4
"""The same for a stage that judges."""


class Work:
    """Adds up the stages of a conversion.

    Parameters
    ----------
    stages : iterable of str
        Those that are expected. Others do not count.

    Examples
    --------
    >>> work = Work(["convert", "judge dense"])
    >>> work("convert", 1, 2), work("convert", 2, 2), work("judge dense", 1, 2)
    (0.1, 0.2, 0.6)
    """

    def __init__(self, stages: Iterator[str] | list[str]) -> None:
        self._weights = {stage: WEIGHTS.get(stage, JUDGE) for stage in stages}
        self._shares = dict.fromkeys(self._weights, 0.0)
        self._begin = time.monotonic()

    def __call__(self, stage: str, done: int, total: int) -> float:
        """Take what a stage has done; return the share of the whole that is done."""
        if stage in self._shares:  # some stages work in several rounds
            self._shares[stage] = max(self._shares[stage], done / max(1, total))
        parts = (self._weights[stage] * share for stage, share in self._shares.items())
        return sum(parts) / max(1, sum(self._weights.values()))

    def left(self, share: float) -> str:
        """Return the time that is left, such as "1:20 left"; "" while that cannot be told."""
        spent = time.monotonic() - self._begin
        if spent < 1 or share < 0.01:
            return ""
        minutes, seconds = divmod(round(spent / share - spent), 60)
        return f"{minutes}:{seconds:02d} left"


def stages(options: Options | None, own_text: bool, texts: list[str], search: bool) -> list[str]:
    """Return the stages that a conversion is expected to have.

    Parameters
    ----------
    options : Options or None
        None if nothing is compressed.
    own_text : bool
        Whether the model writes the text to fit to.
    texts : list of str
        Names of the texts that only judge.
    search : bool
        Whether the options are searched.
    """
    return list(_stages(options, own_text, texts, search))


def _stages(
    options: Options | None, own_text: bool, texts: list[str], search: bool
) -> Iterator[str]:
    yield "convert"
    if options is None:
        return
    if own_text:
        yield "sample"
    if search:
        yield from ("judge dense", "search")
    else:
        yield from _techniques(options)
    for text in texts:
        yield f"judge {text}"


def _techniques(options: Options) -> Iterator[str]:
    if not options.lossless:
        yield "judge dense"
    if options.factored:
        if options.whitened:
            yield "moments"
        if options.rank_budget is not None:
            yield "ranks"
        yield from ("low rank", "judge low rank")
    if options.int4 is not None:
        yield from ("int4", "judge gptq")
    if options.sparse_ffn is not None:
        yield from ("neurons", "sparse ffn")
        if options.mlp:
            yield "network"
    if options.sparse_ffn == "predict":
        yield "judge sparse ffn"
    if options.head is not None:
        yield from ("head inputs", "head", "judge head")
