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


def sparse_exact(neurons: Neurons, counts: Array) -> Tensors:
    """Store a channel mix for exact skipping of neurons that do not fire.

    Parameters
    ----------
    neurons : Neurons
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
    neurons = neurons.ordered(hot_first(counts))
    return {
        "key.weight": neurons.key,
        "key.weight.scale": neurons.key_scale,
        "value.rows": np.ascontiguousarray(neurons.value.T),  # (F, C)
        "value.rows.scale": neurons.value_scale,
    }


def hot_first(counts: Array) -> Array:
    """Return the order of neurons, the most used first, int64, shape (F,); equals stay in order."""
    return np.argsort(-np.asarray(counts), kind="stable")


def bundle(key: Array, value: Array) -> Array:
    """Lay each neuron's key row and value column side by side, as many to a page as fit.

    Parameters
    ----------
    key : ndarray, int8, shape (F, C)
    value : ndarray, int8, shape (C, F)

    Returns
    -------
    ndarray, int8
        (pages, 4096) with zeros at the end of each page; (F, 2 C) if a page holds fewer than two
        neurons.
    """
    F, C = key.shape
    pairs = np.concatenate([key, value.T], axis=1)  # (F, 2 C)
    pages, width = bundle_shape(F, C)
    per_page = FILE_PAGE // (2 * C) if width == FILE_PAGE else 1
    rows = np.zeros((pages * per_page, 2 * C), np.int8)
    rows[:F] = pairs
    bundles = np.zeros((pages, width), np.int8)
    bundles[:, : per_page * 2 * C] = rows.reshape(pages, -1)
    return bundles
