"""Store a channel mix so that only the weights of neurons that matter are read.

::

    hidden = relu(K x)^2,  y = V hidden

Neuron f is row f of K and column f of V. Most of hidden is exactly 0. Two forms do not read the
weights that this makes useless:

* exact: all of K is read, then the columns of V of neurons that fire. The same integers are summed,
  so nothing changes.
* predict: a cheap score of each neuron tells which may matter (``predict_ffn.py``). Only their rows
  and columns are read. These lie side by side, in bundles that do not cross pages.

Both forms sort the neurons, the most used first, so that the weights often used share pages.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tinyrwkv.errors import ArgumentError
from tinyrwkv.file import int4
from tinyrwkv.file.quant import dequantize_rows
from tinyrwkv.file.table import FILE_PAGE
from tinyrwkv.versions.layout import bundle_shape

Array = np.ndarray
Tensors = dict[str, Array]


class Neurons(NamedTuple):
    """The channel mix of one layer in int8, as a dense file has it.

    Attributes
    ----------
    key : ndarray, int8, shape (F, C)
    key_scale : ndarray, float32, shape (F,)
    value : ndarray, int8, shape (C, F)
    value_scale : ndarray, float32, shape (C,)
    """

    key: Array
    key_scale: Array
    value: Array
    value_scale: Array

    def ordered(self, order: Array) -> Neurons:
        """Return the same neurons in another order; integer sums do not depend on it."""
        return Neurons(
            self.key[order], self.key_scale[order], self.value[:, order], self.value_scale
        )

    def check(self) -> tuple[int, int]:
        """Return F and C; ArgumentError if the arrays are not those of one layer in int8."""
        F, C = self.key.shape
        shapes = [array.shape for array in self]
        is_int8 = self.key.dtype == np.int8 and self.value.dtype == np.int8
        if shapes != [(F, C), (F,), (C, F), (C,)] or not is_int8:
            found = (
                f"key {self.key.dtype} {self.key.shape}, value {self.value.dtype} "
                f"{self.value.shape}, scales {self.key_scale.shape} and {self.value_scale.shape}"
            )
            expected = f"int8 ({F}, {C}) and ({C}, {F}), scales ({F},) and ({C},)"
            fix = "give the arrays of one layer"
            raise ArgumentError("sparse ffn", "neurons", found, expected, fix)
        return F, C

    @property
    def row_bytes(self) -> int:
        """Bytes of a neuron's row of the key, or of the value."""
        return self.key.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self)

    def weights(self) -> tuple[Array, Array]:
        """Return key and value in float32, shapes (F, C) and (C, F)."""
        return (
            dequantize_rows(self.key, self.key_scale),
            dequantize_rows(self.value, self.value_scale),
        )

    def exact_form(self) -> Tensors:
        """Return the tensors of the form that skips values."""
        return {
            "key.weight": self.key,
            "key.weight.scale": self.key_scale,
            "value.rows": np.ascontiguousarray(self.value.T),  # (F, C)
            "value.rows.scale": self.value_scale,
        }

    def bundled(self) -> Tensors:
        """Return the tensors of the form that skips keys and values."""
        return {
            "bundles": bundle(self.key, self.value.T),
            "bundles.key_scale": self.key_scale,
            "bundles.value_scale": self.value_scale,
        }


class PackedNeurons(NamedTuple):
    """The channel mix of one layer in int4: two rows for each neuron, as `int4.pack` writes them.

    The methods are those of `Neurons`.

    Attributes
    ----------
    key : ndarray, uint8, shape (F, row_bytes(C))
        Groups lie along the inputs.
    value : ndarray, uint8, shape (F, row_bytes(C))
        The weights of each neuron; groups lie along the outputs.
    """

    key: Array
    value: Array

    def ordered(self, order: Array) -> PackedNeurons:
        """Return the same neurons in another order."""
        return PackedNeurons(self.key[order], self.value[order])

    def check(self) -> tuple[int, int]:
        """Return F and C; ArgumentError if the arrays are not those of one layer in int4."""
        F, width = self.key.shape
        C = int4.columns(width)
        is_packed = self.key.dtype == np.uint8 and self.value.dtype == np.uint8
        if self.value.shape != (F, width) or int4.row_bytes(C) != width or not is_packed:
            found = (
                f"key {self.key.dtype} {self.key.shape}, value {self.value.dtype} "
                f"{self.value.shape}"
            )
            expected = "two packed arrays of uint8 with a row for each neuron"
            fix = "give the arrays of one layer"
            raise ArgumentError("sparse ffn", "neurons", found, expected, fix)
        return F, C

    @property
    def row_bytes(self) -> int:
        """Bytes of a neuron's row of the key, or of the value."""
        return self.key.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of both arrays."""
        return self.key.nbytes + self.value.nbytes

    def weights(self) -> tuple[Array, Array]:
        """Return key and value in float32, shapes (F, C) and (C, F)."""
        return int4.dequantize(self.key), int4.dequantize(self.value).T

    def exact_form(self) -> Tensors:
        """Return the tensors of the form that skips values."""
        return {"key.weight": self.key, "value.rows": self.value}

    def bundled(self) -> Tensors:
        """Return the tensors of the form that skips keys and values."""
        return {"bundles": bundle(self.key, self.value)}


AnyNeurons = Neurons | PackedNeurons


def sparse_exact(neurons: AnyNeurons, counts: Array) -> Tensors:
    """Store a channel mix for exact skipping of neurons that do not fire.

    Parameters
    ----------
    neurons : Neurons or PackedNeurons
    counts : ndarray, shape (F,)
        How often each neuron fires: `Statistics.counts` of the value matrix.

    Returns
    -------
    dict of str to ndarray
        Tensors by the ends of their names, what follows ``blocks.N.ffn.``: they replace key and
        value.

    Raises
    ------
    ArgumentError
        The arrays are not those of one layer.
    """
    neurons.check()
    return neurons.ordered(hot_first(counts)).exact_form()


def hot_first(counts: Array) -> Array:
    """Return the order of neurons, the most used first, int64, shape (F,); equals stay in order."""
    return np.argsort(-np.asarray(counts), kind="stable")


def bundle(key: Array, value: Array) -> Array:
    """Lay each neuron's two rows side by side, as many neurons to a page as fit.

    Parameters
    ----------
    key, value : ndarray, int8 or uint8, shape (F, b)
        In int8, b = C; in int4, it is the bytes of a packed row.

    Returns
    -------
    ndarray, of the same type
        (pages, 4096) with zeros at the end of each page; (F, 2 b) if a page holds fewer than two
        neurons.
    """
    F, row_bytes = key.shape
    pairs = np.concatenate([key, value], axis=1)  # (F, 2 b)
    pages, width = bundle_shape(F, row_bytes)
    per_page = FILE_PAGE // (2 * row_bytes) if width == FILE_PAGE else 1
    rows = np.zeros((pages * per_page, 2 * row_bytes), key.dtype)
    rows[:F] = pairs
    bundles = np.zeros((pages, width), key.dtype)
    bundles[:, : per_page * 2 * row_bytes] = rows.reshape(pages, -1)
    return bundles


def unbundle(bundles: Array, neurons: int, row_bytes: int) -> tuple[Array, Array]:
    """Return the rows that `bundle` has laid side by side: key and value, shape (neurons, b)."""
    per_page = FILE_PAGE // (2 * row_bytes) if bundles.shape[1] == FILE_PAGE else 1
    pairs = bundles[:, : per_page * 2 * row_bytes].reshape(-1, 2, row_bytes)[:neurons]
    return pairs[:, 0], pairs[:, 1]
