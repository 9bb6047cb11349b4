"""What goes on inside a model while it reads calibration text.

A `Probe` runs a model by its own kernels and stops at the matrix products asked for, to look at what goes in and what
comes out. On this stand `collect`, which sums up inputs, and `effects`, which tells how much an error in each output
of a projection would change what the layer adds to the residual stream: what choices of factors and predictors rest on.
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
from tinyrwkv.quant import dequantize_rows
from tinyrwkv.reference import sigmoid

from .texts import END_OF_DOCUMENT, WINDOW, split_documents

Array = np.ndarray
Progress = Callable[[int, int], None]
Look = Callable[[Array], None]

_ROWS = 256  # inputs that are summed up together
PIECE = 2048  # characters of a text that are read at once, about 512 tokens: many pieces show more than few long ones
LONGEST_SAMPLE = 256  # tokens of a document that the model writes itself


class Probe:
    """Runs a model and looks at what goes into chosen matrices and what comes out.

    Parameters
    ----------
    model : Model
        It is read with its own backend.
    inputs, outputs : mapping of str to callable, optional
        For the name of a matrix: called with the inputs, float32, shape (T, in), or with the outputs after the
        activation, (T, out), of up to 16 tokens at a time. The matrices of the head have no outputs here.

    Raises
    ------
    ArgumentError
        The model has no such matrix.
    """

    def __init__(
        self, model: Model, inputs: Mapping[str, Look] | None = None, outputs: Mapping[str, Look] | None = None
    ) -> None:
        self.model, self.inputs, self.outputs = model, dict(inputs or {}), dict(outputs or {})
        self.workspace = Workspace(model.program, model.backend.threads)
        self._old, self._new = (np.empty(model.program.state_size, np.float32) for _ in range(2))
        asked = {*self.inputs, *self.outputs}
        self._stops: list[tuple[int, str]] = []
        for i, (row, name) in enumerate(zip(model.program.rows, model.program.notes, strict=True)):
            if row[0] == op.MATMUL and name in asked:
                asked.remove(name)
                self._stops.append((i, name))
                if name in self.outputs and self._product(i).mode != op.STORE:
                    raise ArgumentError("Probe", "outputs", name, "a matrix whose outputs are kept", "leave it out")
        if asked:
            raise ArgumentError("Probe", "matrix", min(asked), "one of the model's", "give the name of a dense matrix")

    def read(self, ids: Sequence[int] | Array) -> None:
        """Read a document from a new state.

        Parameters
        ----------
        ids : sequence of int
            With the token 0 in front.
        """
        tokens, select = self.model.check_tokens(ids), self.model.program.select
        end = max((i for i, _ in self._stops), default=0)
        head = HEAD_OF_ALL if end > select else NO_HEAD
        self._old[:] = self.model.new_state().data
        for start in range(0, len(tokens), op.MAX_TOKENS):
            chunk, at = tokens[start : start + op.MAX_TOKENS], 0
            for stop, name in self._stops:
                self._run(at, stop, chunk, head)
                at = stop
                if name in self.inputs:
                    self.inputs[name](self._input(stop, len(chunk)))
                if name in self.outputs:
                    self._run(stop, stop + 1, chunk, head)
                    at = stop + 1
                    self.outputs[name](self._output(stop, len(chunk)))
            self._run(at, max(select, at), chunk, head)
            self._old, self._new = self._new, self._old

    def _run(self, first: int, last: int, ids: Array, head: int) -> None:
        if last > first:
            self.model.backend.run(self.workspace, first, last, ids, self._old, self._new, None, head)

    def _product(self, row: int) -> Any:
        return op.Fields[op.MATMUL](*self.model.program.rows[row][1 : 1 + len(op.FIELDS[op.MATMUL])])

    def _input(self, row: int, tokens: int) -> Array:
        p = self._product(row)
        memory = self.workspace.shared if p.shared else self.workspace.private[0]
        dtype = np.dtype(np.int16 if p.kind == op.INT8 else np.float32)
        x = np.frombuffer(memory, dtype, tokens * p.stride, p.src).reshape(tokens, -1)[:, : p.cols]
        if p.kind != op.INT8:
            return x.copy()
        scale = np.frombuffer(self.workspace.private[0], np.float32, tokens, p.src_scale)
        return x * scale[:, None]

    def _output(self, row: int, tokens: int) -> Array:
        p = self._product(row)
        flat = np.frombuffer(self.workspace.shared, np.float32, tokens * p.dst_stride, p.dst)
        return flat.reshape(tokens, -1)[:, : p.units * p.unit].copy()


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
    squares : dict of str to ndarray, float64, shape (out,)
        For each matrix asked for the mean of the squares of each output, after the activation.
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
    """Read documents and sum up what goes into matrices, and what comes out.

    Parameters
    ----------
    model : Model
        One in which these matrices are dense.
    documents : sequence of token ids
        From `choose_documents` or `sample_documents`, each with the token 0 in front.
    moments, inputs, counts, squares : iterable of str
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

    outputs = {name: _Squares(result.squares, name, total) for name in squares}
    probe = Probe(model, {name: all_of(listed) for name, listed in looks.items()}, outputs)
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
        """Turn the sums into means."""
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


class _Squares:
    """Adds up the squares of outputs, as parts of their mean."""

    def __init__(self, target: dict[str, Array], name: str, tokens: int) -> None:
        self._target, self._name, self._tokens = target, name, tokens

    def __call__(self, y: Array) -> None:
        squares = np.square(y, dtype=np.float64).sum(axis=0) / self._tokens
        self._target[self._name] = self._target.get(self._name, 0) + squares


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


def choose_documents(model: Model, text: str, tokens: int = 20_000, seed: int = 0) -> list[list[int]]:
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


def sample_documents(
    model: Model, tokens: int = 20_000, seed: int = 0, progress: Progress | None = None
) -> list[list[int]]:
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


def effects(model: Model, documents: Sequence[Sequence[int] | Array]) -> dict[str, Array]:
    """Measure how much an error in each output of a projection changes what the layer adds to the residual stream.

    An error of 1 in output i of a projection changes the residual stream by about ``effects[name][i]``, root of the
    mean over tokens of the sum of squares. Only what one forward pass shows is used, so these are estimates: how the
    energy of what goes into att.output splits among the channels it came from, and slopes of the gates. With z the
    input of att.output, o_i the length of its column i, per channel::

        value       z o / v                        what it adds is linear in it
        gate        z o silu'(g) / silu(g)
        receptance  of a head's energy |z o|^2 its share r^2 k^2 / sum(r^2 k^2), divided by r^2; by k^2 for the key
        ffn gate    (1 - sigmoid(r)) times what the channel mix adds

    Parameters
    ----------
    model : Model
        A dense one.
    documents : sequence of token ids
        A few thousand tokens are enough.

    Returns
    -------
    dict of str to ndarray, float64, shape (out,)
        For each projection that may be factored.

    Raises
    ------
    ArgumentError
        There is nothing to read.
    """
    tokens = sum(map(len, documents))
    if not tokens:
        raise ArgumentError("calibrate", "documents", "no tokens", "at least one", "give a text that is not empty")
    layers = [_Layer(model, layer) for layer in range(model.config["n_layer"])]
    inputs, outputs = dict[str, Look](), dict[str, Look]()
    for layer in layers:
        inputs |= layer.inputs()
        outputs |= layer.outputs()
    probe = Probe(model, inputs, outputs)
    for document in documents:
        for start in range(0, len(document), WINDOW):
            probe.read(document[start : start + WINDOW])
    return {name: np.sqrt(effect / tokens) for layer in layers for name, effect in layer.effects().items()}


class _Layer:
    """Sums over tokens that the effects of one layer's projections follow from."""

    def __init__(self, model: Model, number: int) -> None:
        self.model, self.config = model, model.config
        self.att, self.ffn = f"blocks.{number}.att.", f"blocks.{number}.ffn."
        self.sums: dict[str, Array] = {}
        self.last: dict[str, Array] = {}

    def inputs(self) -> dict[str, Look]:
        looks: dict[str, Look] = {self.att + "output.weight": self._read_out}
        if self._has(self.att + "gate.weight"):
            looks[self.att + "gate.weight"] = self._read_gate
        if self._has(self.ffn + "receptance.weight"):
            looks[self.ffn + "value.weight"] = self._read_hidden
        return looks

    def outputs(self) -> dict[str, Look]:
        looks: dict[str, Look] = {}
        for name in (self.att + "receptance", self.att + "key", self.att + "value", self.ffn + "receptance"):
            if self._has(name + ".weight"):
                looks[name + ".weight"] = self._keep(name)
        return looks

    def effects(self) -> dict[str, Array]:
        """Return the sums over tokens of the squared effects."""
        tiny = 1e-12
        energy = self.sums["out"] * self._columns(self.att + "output.weight")  # (C,)
        r, k, v = (self.sums[self.att + name] for name in ("receptance", "key", "value"))
        mean = np.maximum(self.sums["tokens"], 1)
        found = {self.att + "value.weight": energy / np.maximum(v / mean, tiny)}
        if self.config["arch"] == "v4":
            found[self.att + "receptance.weight"] = self.sums["slope"] * self._columns(self.att + "output.weight")
            found[self.att + "key.weight"] = energy
        else:
            heads = self.config["n_head"], self.config["head_size"]
            share = (r * k).reshape(heads) + tiny
            of_head = energy.reshape(heads).sum(axis=1, keepdims=True)
            split = (share / share.sum(axis=1, keepdims=True) * of_head).reshape(-1)
            found[self.att + "receptance.weight"] = split / np.maximum(r / mean, tiny)
            found[self.att + "key.weight"] = split / np.maximum(k / mean, tiny)
        if "gate" in self.sums:
            found[self.att + "gate.weight"] = self.sums["gate"] * self._columns(self.att + "output.weight")
        if "ffn" in self.sums:
            found[self.ffn + "receptance.weight"] = self.sums["ffn"]
        return {name: np.maximum(effect, effect.max() * 1e-6) for name, effect in found.items()}

    def _keep(self, name: str) -> Look:
        def look(y: Array) -> None:
            self.last[name] = y
            self._add(name, y)

        return look

    def _read_gate(self, x: Array) -> None:
        self.last["gate"] = x @ self._weight(self.att + "gate.weight").T

    def _read_out(self, z: Array) -> None:
        self._add("out", z)
        self._add("tokens", np.ones((len(z), 1)))
        if self.config["arch"] == "v4":
            self._add("slope", (1 - self.last[self.att + "receptance"]) * z)
        if "gate" in self.last:
            g = self.last["gate"]
            s = sigmoid(g)
            # silu'(g) / silu(g) = 1 / g + 1 - sigmoid(g)
            self._add("gate", z * (1 / np.where(np.abs(g) < 1e-3, 1e-3, g) + 1 - s))

    def _read_hidden(self, hidden: Array) -> None:
        s = self.last[self.ffn + "receptance"]
        self._add("ffn", (1 - s) * s * (hidden @ self._weight(self.ffn + "value.weight").T))

    def _add(self, name: str, x: Array) -> None:
        self.sums[name] = self.sums.get(name, 0) + np.square(x, dtype=np.float64).sum(axis=0)

    def _has(self, name: str) -> bool:
        return name in self.model.file

    def _weight(self, name: str) -> Array:
        array = self.model.file[name]
        return dequantize_rows(array, self.model.file[name + ".scale"]) if array.dtype == np.int8 else array

    def _columns(self, name: str) -> Array:
        """Return the sum of squares of each column."""
        return np.square(self._weight(name), dtype=np.float64).sum(axis=0)
