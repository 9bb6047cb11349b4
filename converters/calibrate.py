"""What goes on inside a model while it reads: the inputs of its matrices, measured on calibration text.

A `Probe` runs a model by its own kernels and stops at the matrix products asked for, where it can look at the input,
and put another output in the place of the one computed. On this stand `collect`, which sums up inputs for the choice
of factors, predictors and previews, and `Effect`, which tells how far a change moves the model's predictions.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyrwkv import Model, Sampler
from tinyrwkv import opcodes as op
from tinyrwkv.backends import HEAD_OF_ALL, NO_HEAD, Workspace
from tinyrwkv.errors import ArgumentError
from tinyrwkv.program import qmax

from .evaluate import END_OF_DOCUMENT, WINDOW, split_documents

Array = np.ndarray
Progress = Callable[[int, int], None]
Look = Callable[[Array], None]
Edit = Callable[[Array, Array], Array]

_ROWS = 256  # inputs that are summed up together
PIECE = 2048  # characters of a text that are read at once, about 512 tokens: many pieces show more than few long ones
LONGEST_SAMPLE = 256  # tokens of a document that the model writes itself


class Probe:
    """Runs a model and stops at chosen matrix products.

    Parameters
    ----------
    model : Model
        Of any kind; it is read with its own backend.
    looks : mapping of str to callable, optional
        For the name of a matrix: called with its inputs, float32, shape (T, in).
    edits : mapping of str to callable, optional
        For the name of a matrix of the layers: called with its inputs and outputs after the activation, (T, out);
        what it returns is what the model goes on with.

    Raises
    ------
    ArgumentError
        The model has no such matrix, or an output of it can't be changed.
    """

    def __init__(
        self, model: Model, looks: Mapping[str, Look] | None = None, edits: Mapping[str, Edit] | None = None
    ) -> None:
        self.model, self.looks, self.edits = model, dict(looks or {}), dict(edits or {})
        self.workspace = Workspace(model.program, model.backend.threads)
        self._old, self._new = (np.empty(model.program.state_size, np.float32) for _ in range(2))
        self._stops: list[tuple[int, str]] = []
        found = set[str]()
        for i, (row, name) in enumerate(zip(model.program.rows, model.program.notes, strict=True)):
            if row[0] == op.MATMUL and name in {*self.looks, *self.edits} - found:
                found.add(name)
                self._stops.append((i, name))
                if name in self.edits and self._fields(i).mode != op.STORE:
                    raise ArgumentError("Probe", "edits", name, "a matrix whose output is stored", "choose another")
        for name in {*self.looks, *self.edits} - found:
            raise ArgumentError("Probe", "matrix", name, "one of the model's", "give a name of the file")

    def read(self, ids: Sequence[int] | Array, logits: Callable[[Array], None] | None = None) -> None:
        """Read a document from a new state.

        Parameters
        ----------
        ids : sequence of int
            With the token 0 in front.
        logits : callable, optional
            Called with logits, float32, shape (T, V), of up to 16 tokens at a time.
        """
        tokens, program = self.model.check_tokens(ids), self.model.program
        self._old[:] = self.model.new_state().data
        out = None if logits is None else np.empty((op.MAX_TOKENS, self.model.config["vocab_size"]), np.float32)
        head_looked_at = any(i > program.select for i, _ in self._stops)
        last = program.select if logits is None and not head_looked_at else len(program.rows)
        for start in range(0, len(tokens), op.MAX_TOKENS):
            chunk = tokens[start : start + op.MAX_TOKENS]
            self._chunk(chunk, out if out is None else out[: len(chunk)], last)
            if logits is not None and out is not None:
                logits(out[: len(chunk)])
            self._old, self._new = self._new, self._old

    def _chunk(self, ids: Array, out: Array | None, last: int) -> None:
        head = NO_HEAD if last == self.model.program.select else HEAD_OF_ALL
        at = 0
        for stop, name in self._stops:
            if stop > last:
                break
            self._run(at, stop, ids, out, head)
            at = stop
            x = self._input(stop, len(ids))
            if name in self.looks:
                self.looks[name](x)
            if name in self.edits:
                self._run(stop, stop + 1, ids, out, head)
                at = stop + 1
                y = self._output(stop, len(ids))
                y[:] = self.edits[name](x, y)
        if out is not None or last == self.model.program.select:
            self._run(at, last, ids, out, head)

    def _run(self, first: int, last: int, ids: Array, out: Array | None, head: int) -> None:
        if last > first:
            self.model.backend.run(self.workspace, first, last, ids, self._old, self._new, out, head)

    def _fields(self, row: int) -> Any:
        return op.Fields[op.MATMUL](*self.model.program.rows[row][1 : 1 + len(op.FIELDS[op.MATMUL])])

    def _input(self, row: int, tokens: int) -> Array:
        """Return the input of a product, float32, shape (T, in)."""
        p = self._fields(row)
        memory = self.workspace.shared if p.shared else self.workspace.private[0]
        dtype = np.dtype(np.int16 if p.kind == op.INT8 else np.float32)
        x = np.frombuffer(memory, dtype, tokens * p.stride, p.src).reshape(tokens, -1)[:, : p.cols]
        if p.kind != op.INT8:
            return x.copy()
        scale = np.frombuffer(self.workspace.private[0], np.float32, tokens, p.src_scale)
        return x * scale[:, None]

    def _output(self, row: int, tokens: int) -> Array:
        """Return the memory of what a product has made, float32, shape (T, out)."""
        p = self._fields(row)
        flat = np.frombuffer(self.workspace.shared, np.float32, tokens * p.dst_stride, p.dst)
        return flat.reshape(tokens, -1)[:, : p.units * p.unit]


@dataclass
class Statistics:
    """What `collect` found.

    Attributes
    ----------
    tokens : int
        That were read.
    moments : dict of str to ndarray, float64, shape (in, in)
        For each matrix asked for the mean of x x^T over its inputs.
    inputs : dict of str to ndarray, int16, shape (n, in)
        For each matrix asked for inputs as int8 kernels take them.
    scales : dict of str to ndarray, float32, shape (n,)
        What those are multiples of.
    counts : dict of str to ndarray, int64, shape (in,)
        For each matrix asked for how often an input is other than 0 after its rounding to int16.
    """

    tokens: int = 0
    moments: dict[str, Array] = field(default_factory=dict)
    inputs: dict[str, Array] = field(default_factory=dict)
    scales: dict[str, Array] = field(default_factory=dict)
    counts: dict[str, Array] = field(default_factory=dict)


def collect(
    model: Model,
    documents: Sequence[Sequence[int] | Array],
    *,
    moments: Iterable[str] = (),
    inputs: Iterable[str] = (),
    counts: Iterable[str] = (),
    samples: int = 16384,
    seed: int = 0,
    progress: Progress | None = None,
) -> Statistics:
    """Read documents and sum up what goes into matrices.

    Parameters
    ----------
    model : Model
        A dense one.
    documents : sequence of token ids
        From `documents` or `sample`, each with the token 0 in front.
    moments, inputs, counts : iterable of str
        Names of matrices: see `Statistics`.
    samples : int, optional
        Keep the inputs of at most so many tokens, drawn from all.
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
    total = sum(map(len, documents))
    if not total:
        raise ArgumentError("calibrate", "documents", "no tokens", "at least one", "give a text that is not empty")
    kept = np.zeros(total, bool)
    kept[np.random.default_rng(seed).permutation(total)[:samples]] = True
    result, place = Statistics(), [0]
    sums = {name: _Moments(result.moments, name) for name in moments}
    keeps = {name: _Inputs(result, name, kept, place) for name in inputs}
    hits = {name: _Counts(result.counts, name) for name in counts}
    looks: dict[str, list[Look]] = {}
    for group in (sums, keeps, hits):
        for name, look in group.items():
            looks.setdefault(name, []).append(look)

    def all_of(listed: list[Look]) -> Look:
        def look(x: Array) -> None:
            for one in listed:
                one(x)

        return look

    probe = Probe(model, {name: all_of(listed) for name, listed in looks.items()})
    for document in documents:
        for start in range(0, len(document), WINDOW):  # a state of its own for each window, as texts are judged
            part = document[start : start + WINDOW]
            probe.read(part)
            result.tokens += len(part)
            if progress is not None:
                progress(result.tokens, total)
            place[0] = result.tokens
            for keep in keeps.values():
                keep.seen = 0
    for moment in sums.values():
        moment.finish(total)
    return result


class _Moments:
    """Sums x x^T, some hundred rows at a time."""

    def __init__(self, target: dict[str, Array], name: str) -> None:
        self._target, self._name, self._used = target, name, 0
        self._rows = np.empty((0, 0), np.float32)

    def __call__(self, x: Array) -> None:
        if not self._rows.size:
            self._rows = np.empty((_ROWS, x.shape[1]), np.float32)
            self._target[self._name] = np.zeros((x.shape[1], x.shape[1]))
        self._rows[self._used : self._used + len(x)] = x
        self._used += len(x)
        if self._used > _ROWS - op.MAX_TOKENS:
            self._flush()

    def _flush(self) -> None:
        rows = self._rows[: self._used]
        self._target[self._name] += rows.T @ rows
        self._used = 0

    def finish(self, tokens: int) -> None:
        self._flush()
        self._target[self._name] /= tokens


class _Inputs:
    """Keeps the inputs of chosen tokens."""

    def __init__(self, target: Statistics, name: str, kept: Array, place: list[int]) -> None:
        self._target, self._name, self._kept, self._place = target, name, kept, place
        self._used = self.seen = 0

    def __call__(self, x: Array) -> None:
        count = int(self._kept.sum())
        if self._name not in self._target.inputs:
            self._target.inputs[self._name] = np.empty((count, x.shape[1]), np.int16)
            self._target.scales[self._name] = np.empty(count, np.float32)
        first = self._place[0] + self.seen
        self.seen += len(x)
        q, scale = quantize_inputs(x[self._kept[first : first + len(x)]])
        here = slice(self._used, self._used + len(q))
        self._target.inputs[self._name][here], self._target.scales[self._name][here] = q, scale
        self._used += len(q)


class _Counts:
    """Counts which inputs are other than 0."""

    def __init__(self, target: dict[str, Array], name: str) -> None:
        self._target, self._name = target, name

    def __call__(self, x: Array) -> None:
        used = np.count_nonzero(quantize_inputs(x)[0], axis=0)
        self._target[self._name] = self._target.get(self._name, 0) + used


def quantize_inputs(x: Array) -> tuple[Array, Array]:
    """Round each token's inputs to int16 as int8 kernels do: q = round(x / s), s = max|x| / qmax.

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
    inverse = np.where(largest > 0, most / np.where(largest > 0, largest, 1), 0).astype(np.float32)
    return np.rint(x * inverse[:, None]).astype(np.int16), (largest / most).astype(np.float32)


def documents(model: Model, text: str, tokens: int = 20_000, seed: int = 0) -> list[list[int]]:
    """Choose calibration documents from a text.

    Parameters
    ----------
    model : Model
        With a tokenizer.
    text : str
        Documents separated by a line ``<|doc|>``, or a plain text; long ones are cut into pieces.
    tokens : int, optional
        Take so many, or all if there are fewer.
    seed : int, optional
        Of the order in which pieces are drawn.

    Returns
    -------
    list of list of int
        Each begins with token 0.

    Raises
    ------
    ArgumentError
        The text is empty.
    UnsupportedError
        The model has no tokenizer.
    """
    pieces = [
        document[start : start + PIECE]
        for document in split_documents(text)
        for start in range(0, len(document), PIECE)
    ]
    random.Random(seed).shuffle(pieces)
    chosen: list[list[int]] = []
    for piece in pieces:
        if tokens <= 0:
            break
        ids = [END_OF_DOCUMENT, *model.tokenizer.encode(piece)][:tokens]
        chosen.append(ids)
        tokens -= len(ids)
    if not chosen:
        raise ArgumentError("calibrate", "text", "nothing in it", "some text", "give a text that is not empty")
    return chosen


def sample(model: Model, tokens: int = 20_000, seed: int = 0, progress: Progress | None = None) -> list[list[int]]:
    """Let the model write its own calibration documents, at temperature 1.

    Parameters
    ----------
    model : Model
    tokens : int, optional
        How many in all.
    seed : int, optional
        The same seed gives the same documents.
    progress : callable, optional
        Called as ``progress(tokens_done, tokens)``.

    Returns
    -------
    list of list of int
        Each begins with token 0.
    """
    written: list[list[int]] = []
    left, number = tokens, 0
    while left > 0:
        sampler = Sampler(temperature=1, seed=seed * 1_000_003 + number)
        generation = model.generate([], sampler=sampler, max_tokens=min(LONGEST_SAMPLE, left))
        for _ in generation:
            pass
        number += 1
        written.append([END_OF_DOCUMENT, *generation.result.tokens])
        left -= len(written[-1])
        if progress is not None:
            progress(tokens - max(left, 0), tokens)
    return written


class Effect:
    """Tells how far a change moves a model's predictions.

    Parameters
    ----------
    model : Model
    documents : sequence of token ids
        What it reads to find out; a thousand tokens are enough to compare changes.
    """

    def __init__(self, model: Model, documents: Sequence[Sequence[int] | Array]) -> None:
        self.model, self.documents = model, documents
        self.tokens = sum(map(len, documents))
        self._states: list[Array] = []
        self._normal = self._logits({})

    def of(self, edits: Mapping[str, Edit]) -> float:
        """Return the mean divergence, in nats, of the predictions after edits from those without.

        Parameters
        ----------
        edits : mapping of str to callable
            See `Probe`.
        """
        return self._logits(edits)

    def _logits(self, edits: Mapping[str, Edit]) -> float:
        raise NotImplementedError
