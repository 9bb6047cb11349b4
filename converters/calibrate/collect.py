"""What goes into matrices while a model reads calibration text: second moments, samples, counts.

Factors, predictors and previews are fitted to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tinyrwkv import Model
from tinyrwkv.kernels.abi import MAX_TOKENS
from tinyrwkv.program.builder import qmax

from ..judge.texts import WINDOW
from .probe import Array, Look, Probe, count_tokens

Progress = Callable[[int, int], None]

_ROWS = 256
"""Inputs that are summed up together."""


@dataclass
class Statistics:
    """What `collect` found, for each matrix that was asked for.

    Attributes
    ----------
    tokens : int
        That were read.
    moments : dict of str to ndarray, float64, shape (in, in)
        The mean of x x^T over the inputs.
    inputs : dict of str to ndarray, int16, shape (n, in)
        Inputs as int8 kernels take them: each is this number times its scale.
    scales : dict of str to ndarray, float32, shape (n,)
        The scales of those inputs.
    counts : dict of str to ndarray, int64, shape (in,)
        How often each input is other than 0 after its rounding to int16.
    squares : dict of str to ndarray, float64, shape (out,)
        The mean of the squares of each output, after the activation.
    """

    tokens: int = 0
    moments: dict[str, Array] = field(default_factory=dict)
    inputs: dict[str, Array] = field(default_factory=dict)
    scales: dict[str, Array] = field(default_factory=dict)
    counts: dict[str, Array] = field(default_factory=dict)
    squares: dict[str, Array] = field(default_factory=dict)


def collect(
    model: Model,
    documents: Sequence[Sequence[int] | Array],
    *,
    moments: Iterable[str] = (),
    inputs: Iterable[str] = (),
    counts: Iterable[str] = (),
    squares: Iterable[str] = (),
    samples: int = 16384,
    seed: int = 0,
    progress: Progress | None = None,
) -> Statistics:
    """Read documents, and sum up what goes into matrices and what comes out of them.

    Parameters
    ----------
    model : Model
        One in which these matrices are dense.
    documents : sequence of token ids
        From `choose_documents` or `sample_documents`, each with the token 0 in front.
    moments, inputs, counts, squares : iterable of str
        Names of matrices: see `Statistics`.
    samples : int, optional
        Tokens whose inputs are kept, at most; they are drawn from all.
    seed : int, optional
        Of that draw.
    progress : callable, optional
        Called as ``progress(tokens_done, tokens)``.

    Returns
    -------
    Statistics

    Raises
    ------
    ArgumentError
        There is nothing to read, or the model has no such matrix.
    """
    total = count_tokens(documents)
    kept = np.zeros(total, bool)
    kept[np.random.default_rng(seed).permutation(total)[:samples]] = True
    result = Statistics()
    sums = {name: Moments(result.moments, name) for name in moments}
    keeps = {name: _Inputs(result, name, kept) for name in inputs}
    hits = {name: _Counts(result.counts, name) for name in counts}
    looks: dict[str, list[Look]] = {}
    for group in (sums, keeps, hits):
        for name, look in group.items():
            looks.setdefault(name, []).append(look)
    joined = {name: _all_of(listed) for name, listed in looks.items()}
    outputs = {name: _Squares(result.squares, name, total) for name in squares}
    probe = Probe(model, joined, outputs)
    for document in documents:
        # Each window has a state of its own, as when texts are judged.
        for start in range(0, len(document), WINDOW):
            part = document[start : start + WINDOW]
            probe.read(part)
            result.tokens += len(part)
            if progress is not None:
                progress(result.tokens, total)
    for moment in sums.values():
        moment.finish(total)
    return result


def _all_of(looks: Sequence[Look]) -> Look:
    def look(x: Array) -> None:
        for one in looks:
            one(x)

    return look


class Moments:
    """Sums x x^T, some hundred rows at a time.

    Parameters
    ----------
    target : dict
        Gets the sums, and in the end the means.
    name : str
        The matrix, which is the key there.
    """

    def __init__(self, target: dict[str, Array], name: str) -> None:
        self._target = target
        self._name = name
        self._used = 0
        self._rows = np.empty((0, 0), np.float32)

    def __call__(self, x: Array) -> None:
        """Add the inputs of some tokens: (T, in)."""
        if not self._rows.size:
            self._rows = np.empty((_ROWS, x.shape[1]), np.float32)
            self._target[self._name] = np.zeros((x.shape[1], x.shape[1]))
        self._rows[self._used : self._used + len(x)] = x
        self._used += len(x)
        if self._used > _ROWS - MAX_TOKENS:
            self._flush()

    def _flush(self) -> None:
        rows = self._rows[: self._used]
        self._target[self._name] += rows.T @ rows
        self._used = 0

    def finish(self, tokens: int) -> None:
        """Turn the sums into means."""
        self._flush()
        self._target[self._name] /= tokens


class _Inputs:
    """Keeps the inputs of chosen tokens."""

    def __init__(self, target: Statistics, name: str, kept: Array) -> None:
        self._target = target
        self._name = name
        self._kept = kept
        self._seen = 0  # tokens of all documents so far
        self._used = 0  # those of them that are kept

    def __call__(self, x: Array) -> None:
        if self._name not in self._target.inputs:
            count = int(self._kept.sum())
            self._target.inputs[self._name] = np.empty((count, x.shape[1]), np.int16)
            self._target.scales[self._name] = np.empty(count, np.float32)
        kept = self._kept[self._seen : self._seen + len(x)]
        self._seen += len(x)
        q, scale = quantize_inputs(x[kept])
        here = slice(self._used, self._used + len(q))
        self._target.inputs[self._name][here] = q
        self._target.scales[self._name][here] = scale
        self._used += len(q)


class _Counts:
    """Counts which inputs are other than 0."""

    def __init__(self, target: dict[str, Array], name: str) -> None:
        self._target = target
        self._name = name

    def __call__(self, x: Array) -> None:
        used = np.count_nonzero(quantize_inputs(x)[0], axis=0)
        self._target[self._name] = self._target.get(self._name, 0) + used


class _Squares:
    """Adds up the squares of outputs, as parts of their mean."""

    def __init__(self, target: dict[str, Array], name: str, tokens: int) -> None:
        self._target = target
        self._name = name
        self._tokens = tokens

    def __call__(self, y: Array) -> None:
        squares = np.square(y, dtype=np.float64).sum(axis=0) / self._tokens
        self._target[self._name] = self._target.get(self._name, 0) + squares


def quantize_inputs(x: Array) -> tuple[Array, Array]:
    """Round each token's inputs to int16 as int8 kernels do.

    ::

        q = round(x / scale),  scale = max|x| / qmax

    Parameters
    ----------
    x : ndarray, float32, shape (T, in)

    Returns
    -------
    q : ndarray, int16, shape (T, in)
    scale : ndarray, float32, shape (T,)
    """
    most = np.float32(qmax(x.shape[1]))
    largest = np.abs(x).max(axis=1, initial=0)  # (T,)
    has_size = largest > 0
    inverse = np.where(has_size, most / np.where(has_size, largest, 1), 0).astype(np.float32)
    q = np.rint(x * inverse[:, None]).astype(np.int16)
    return q, (largest / most).astype(np.float32)
