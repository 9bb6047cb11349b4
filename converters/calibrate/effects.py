"""How much an error in each output of a projection changes the residual stream."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinyrwkv import Model
from tinyrwkv.file.quant import dequantize_rows
from tinyrwkv.versions.reference import sigmoid

from ..judge.texts import WINDOW
from .probe import Array, Look, Probe, count_tokens

TINY = 1e-12
"""The least divisor."""


def effects(model: Model, documents: Sequence[Sequence[int] | Array]) -> dict[str, Array]:
    """Measure how much an error in each output of a projection changes the residual stream.

    An error of 1 in output i of a projection changes the residual stream by about
    ``effects[name][i]``, the root of the mean over tokens of the sum of squares. These are
    estimates from a forward pass alone. They follow from two things: how the energy of the input of
    att.output splits among the channels that it comes from, and the slopes of the gates. With z
    the input of att.output and o_i the length of its column i, per channel::

        value       z o / v                    what it adds is linear in it
        gate        z o silu'(g) / silu(g)
        receptance  sqrt(e r^2 k^2 / sum(r^2 k^2)) / r,  e = |z o|^2 of its head
        key         sqrt(e r^2 k^2 / sum(r^2 k^2)) / k
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
    tokens = count_tokens(documents)
    layers = [_Layer(model, layer) for layer in range(model.config["n_layer"])]
    inputs: dict[str, Look] = {}
    outputs: dict[str, Look] = {}
    for layer in layers:
        inputs |= layer.inputs()
        outputs |= layer.outputs()
    probe = Probe(model, inputs, outputs)
    for document in documents:
        for start in range(0, len(document), WINDOW):
            probe.read(document[start : start + WINDOW])
    return {
        name: np.sqrt(effect / tokens)
        for layer in layers
        for name, effect in layer.effects().items()
    }


class _Layer:
    """The sums over tokens that give the effects of one layer's projections."""

    def __init__(self, model: Model, number: int) -> None:
        self.model = model
        self.config = model.config
        self.att = f"blocks.{number}.att."
        self.ffn = f"blocks.{number}.ffn."
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
        names = [self.att + "receptance", self.att + "key", self.att + "value"]
        names.append(self.ffn + "receptance")
        return {name + ".weight": self._keep(name) for name in names if self._has(name + ".weight")}

    def effects(self) -> dict[str, Array]:
        """Return the sums over tokens of the squared effects."""
        output = self._column_squares(self.att + "output.weight")  # (C,)
        energy = self.sums["out"] * output  # |z o|^2
        v_square = self.sums[self.att + "value"] / self._tokens()
        found = {self.att + "value.weight": energy / np.maximum(v_square, TINY)}
        if self.config["arch"] == "v4":
            found[self.att + "receptance.weight"] = self.sums["slope"] * output
            found[self.att + "key.weight"] = energy
        else:
            found |= self._split_within_heads(energy)
        if "gate" in self.sums:
            found[self.att + "gate.weight"] = self.sums["gate"] * output
        if "ffn" in self.sums:
            found[self.ffn + "receptance.weight"] = self.sums["ffn"]
        return {name: np.maximum(effect, effect.max() * 1e-6) for name, effect in found.items()}

    def _split_within_heads(self, energy: Array) -> dict[str, Array]:
        """Split the energy of each head among its channels in proportion to r^2 k^2."""
        r_square = self.sums[self.att + "receptance"]
        k_square = self.sums[self.att + "key"]
        shape = self.config["n_head"], self.config["head_size"]
        product = (r_square * k_square).reshape(shape) + TINY
        of_head = energy.reshape(shape).sum(axis=1, keepdims=True)
        split = (product / product.sum(axis=1, keepdims=True) * of_head).reshape(-1)
        tokens = self._tokens()
        return {
            self.att + "receptance.weight": split / np.maximum(r_square / tokens, TINY),
            self.att + "key.weight": split / np.maximum(k_square / tokens, TINY),
        }

    def _tokens(self) -> Array:
        return np.maximum(self.sums["tokens"], 1)

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
        if array.dtype == np.int8:
            return dequantize_rows(array, self.model.file[name + ".scale"])
        return array

    def _column_squares(self, name: str) -> Array:
        """Return the sum of squares of each column."""
        return np.square(self._weight(name), dtype=np.float64).sum(axis=0)
