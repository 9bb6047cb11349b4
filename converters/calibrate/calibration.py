"""The text that compression is fitted to, and the held-out text that tells what each step costs."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from tinyrwkv import Model
from tinyrwkv.errors import ArgumentError, os_errors

from ..judge.metrics import Judge, TextLoss
from ..techniques.low_rank import Metric
from .collect import collect
from .documents import break_some, choose_documents, sample_documents
from .effects import effects

FIT = 65536
"""Tokens of a text to fit to."""

HELD_OUT = 4096
"""Tokens of a text to judge by."""

OWN = 16384
"""Tokens to fit to if the model writes them itself: each takes a pass."""

OWN_SAMPLES = "own samples"
"""The name of a text that the model wrote itself."""

COUNTED = 2048
"""The same if it only matters which neurons fire most often."""

EFFECT_TOKENS = 4096
"""Tokens that `effects` reads: it estimates scales, which few tokens show."""

MEMORY = 256 << 20
"""Bytes of statistics to hold at once. The text is read again for the matrices that do not fit."""

Tell = Callable[[str, int, int], None]
"""Called as ``tell(stage, done, total)``."""

Documents = list[list[int]]


class Calibration(NamedTuple):
    """Documents of token ids, each with the token 0 in front.

    Attributes
    ----------
    source : str
        The name of the text, or `OWN_SAMPLES`.
    fit : list of list of int
        What is fitted to.
    held_out : list of list of int
        What losses are measured on. No piece of text is in both.
    """

    source: str
    fit: Documents
    held_out: Documents

    @property
    def held_out_name(self) -> str:
        """What `held_out` is, in words."""
        if self.source == OWN_SAMPLES:
            return "held-out samples of the model"
        return f"the held-out part of {self.source}"


def make(
    model: Model, name: str, text: str | None, seed: int, tell: Tell, own: int = OWN
) -> Calibration:
    """Take documents from a text, or let the model write them.

    Some documents of a text to fit to have their lines broken: see `documents.break_some`.

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
        Tokens to sample, without those that are held out.

    Returns
    -------
    Calibration

    Raises
    ------
    ArgumentError
        The text is too short to hold a part out.
    UnsupportedError
        There is a text, but the model has no tokenizer.
    """
    if text is not None:
        documents = choose_documents(model, text, FIT + HELD_OUT, seed)
    else:
        documents = sample_documents(
            model, own + own // 8, seed, lambda n, total: tell("sample", n, total)
        )
        random.Random(seed).shuffle(documents)
        name = OWN_SAMPLES
    total = sum(map(len, documents))
    least = min(HELD_OUT, total // 9)  # a ninth leaves `own` of the sampled tokens
    held_out: Documents = []
    while len(documents) > 1 and sum(map(len, held_out)) < least:
        held_out.append(documents.pop())
    if not held_out:
        found = f"one piece of {total} tokens"
        expected = "two pieces of 2,048 characters or more"
        fix = "give a longer text, or leave --calibrate out"
        sentence = f"{name} is too short to hold a part out: it takes {expected}"
        raise ArgumentError(name, "text", found, expected, fix, sentence)
    if text is not None:
        documents = break_some(model, documents, seed)
    return Calibration(name, documents, held_out)


def losses(
    model: Model, documents: Documents, tell: Callable[[int, int], None] | None = None
) -> list[TextLoss]:
    """Return how well a model predicts each document from a new state.

    Parameters
    ----------
    model : Model
    documents : list of list of int
        Each with the token 0 in front, which is not scored. One without other tokens is left out.
    tell : callable, optional
        Called as ``tell(tokens_done, tokens)``.

    Returns
    -------
    list of TextLoss
    """
    judge = Judge(model)
    found: list[TextLoss] = []
    total = sum(map(len, documents))
    done = 0
    for document in documents:
        if len(document) > 1:
            found.append(judge.loss(document[1:]))
        done += len(document)
        if tell is not None:
            tell(done, total)
    return found


def groups(sizes: Iterable[tuple[str, int]], limit: int) -> Iterator[list[str]]:
    """Split names into groups.

    Parameters
    ----------
    sizes : iterable of (str, int)
        Names with the bytes that they need.
    limit : int
        Bytes that a group needs, at most. A name that needs more is alone in its group.

    Yields
    ------
    list of str
    """
    group: list[str] = []
    used = 0
    for name, size in sizes:
        if group and used + size > limit:
            yield group
            group, used = [], 0
        group.append(name)
        used += size
    if group:
        yield group


class ErrorMetrics:
    """The metrics that errors of projections are measured by.

    The second moments lie in files, so a large model needs no more memory.

    Parameters
    ----------
    model : Model
        The dense one.
    calibration : Calibration
    folder : str
        Where its files lie; the caller removes it.
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
                with os_errors(self._path(name), "write"):
                    np.save(self._path(name), found.moments.pop(name))
        self.effects = effects(model, _first_documents(calibration.fit, EFFECT_TOKENS))

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, f"{name}.npy")

    def __getitem__(self, name: str) -> Metric:
        """Return the metric of a projection."""
        with os_errors(self._path(name), "read"):
            return Metric(np.load(self._path(name)), self.effects[name])


def _first_documents(documents: Documents, tokens: int) -> Documents:
    """Return the first documents that have this number of tokens together, or more."""
    chosen: Documents = []
    used = 0
    for document in documents:
        if used >= tokens:
            break
        chosen.append(document)
        used += len(document)
    return chosen
