"""The text that compression is fitted to, and the text held back from it that tells what each step costs."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from tinyrwkv import Model
from tinyrwkv.errors import ArgumentError

from ..judge.metrics import Score, Scorer
from ..techniques.low_rank import Metric
from .collect import collect
from .documents import choose_documents, sample_documents
from .effects import effects

FIT, HELD = 32768, 4096
"""Tokens of a text to fit to and to judge by."""

OWN = 16384
"""Tokens to fit to that a model writes itself: this takes a pass for each."""

COUNTED = 2048
"""The same where all that is asked is which neurons fire most often."""

EFFECT_TOKENS = 4096
"""Tokens that `effects` reads: it estimates scales, which few tokens show."""

MEMORY = 256 << 20
"""Bytes of statistics to hold at once: for more matrices than that the text is read again."""

Tell = Callable[[str, int, int], None]
"""Called as ``tell(stage, done, total)``."""

Documents = list[list[int]]


class Calibration(NamedTuple):
    """Documents of token ids, each with the token 0 in front.

    Attributes
    ----------
    source : str
        The name of the text, or "own samples".
    fit, held : list of list of int
        What is fitted to; what only judges. No piece of text is in both.
    """

    source: str
    fit: Documents
    held: Documents


def make(
    model: Model, name: str, text: str | None, seed: int, tell: Tell, own: int = OWN
) -> Calibration:
    """Take documents from a text, or let the model write them.

    Parameters
    ----------
    model : Model
        The dense one.
    name : str
        Of the text, for the record.
    text : str or None
        Without one the model samples at temperature 1.
    seed : int
    tell : callable
    own : int, optional
        Tokens to sample besides those held back.

    Returns
    -------
    Calibration

    Raises
    ------
    ArgumentError
        The text is too short to hold a part back.
    UnsupportedError
        There is a text, but the model has no tokenizer.
    """
    if text is not None:
        documents = choose_documents(model, text, FIT + HELD, seed)
    else:
        documents = sample_documents(
            model, own + own // 8, seed, lambda n, total: tell("sample", n, total)
        )
        random.Random(seed).shuffle(documents)
    total, held = sum(map(len, documents)), Documents()
    while len(documents) > 1 and sum(map(len, held)) < min(HELD, total // 9):
        held.append(documents.pop())
    if not held:
        fix = "give a longer text, or leave --calibrate out"
        raise ArgumentError(
            name,
            "text",
            f"one piece of {total} tokens",
            "two pieces of 2,048 characters or more",
            fix,
        )
    return Calibration(name if text is not None else "own samples", documents, held)


def scores(
    model: Model, documents: Documents, tell: Callable[[int, int], None] | None = None
) -> list[Score]:
    """Return how well a model predicts each document, read from a new state, the token 0 not scored."""
    scorer, found, read, total = Scorer(model), list[Score](), 0, sum(map(len, documents))
    for document in documents:
        if len(document) > 1:
            found.append(scorer.score(document[1:]))
        read += len(document)
        if tell is not None:
            tell(read, total)
    return found


def groups(sizes: Iterable[tuple[str, int]], limit: int) -> Iterator[list[str]]:
    """Split names so that those of a group need at most `limit` bytes together, or are alone."""
    group, used = list[str](), 0
    for name, size in sizes:
        if group and used + size > limit:
            yield group
            group, used = [], 0
        group.append(name)
        used += size
    if group:
        yield group


class Metrics:
    """What errors of matrices are measured by; the second moments lie in files, however large the model.

    Parameters
    ----------
    model : Model
        The dense one.
    calibration : Calibration
    folder : str
        For the files; who made it removes it.
    names : iterable of str
        The projections.
    tell : callable
    """

    def __init__(
        self, model: Model, calibration: Calibration, folder: str, names: Iterable[str], tell: Tell
    ) -> None:
        self._folder = folder
        sizes = [(name, 8 * model.file.tensors[name].shape[1] ** 2) for name in names]
        for group in groups(sizes, MEMORY):
            found = collect(
                model,
                calibration.fit,
                moments=group,
                progress=lambda n, total: tell("moments", n, total),
            )
            for name in group:
                np.save(self._path(name), found.moments.pop(name))
        few, used = Documents(), 0
        for document in calibration.fit:
            if used < EFFECT_TOKENS:
                few.append(document)
                used += len(document)
        self.effects = effects(model, few)

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, f"{name}.npy")

    def __getitem__(self, name: str) -> Metric:
        """Return the metric of a projection."""
        return Metric(np.load(self._path(name)), self.effects[name])
