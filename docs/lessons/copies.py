"""What lessons need to judge a technique: a copy of a model with other tensors, and its loss."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np

import tinyrwkv
from tinyrwkv.file.writer import Writer


def rewritten(
    model: tinyrwkv.Model, parts: Mapping[str, Mapping[str, np.ndarray]]
) -> tinyrwkv.Model:
    """Load a copy of a model with other tensors in the place of some matrices.

    Parameters
    ----------
    model : Model
    parts : mapping of str to mapping of str to ndarray
        For each matrix that is left out, together with its scale, the tensors in its place.

    Returns
    -------
    Model
    """
    path = pathlib.Path(tempfile.mkdtemp(), "copy.trwkv")
    with Writer(path, model.config) as writer:
        for name in model.file.tensors:
            if name in parts:
                for other, array in parts[name].items():
                    writer.add(other, array, page_aligned=other.endswith("bundles"))
            elif name.removesuffix(".scale") not in parts:
                writer.add(name, model.file[name])
    return tinyrwkv.load(path)


def nll(model: tinyrwkv.Model, documents: Sequence[Sequence[int]]) -> float:
    """Return the mean of -ln p over all tokens of the documents but the first of each."""
    total = 0.0
    for document in documents:
        z = model.forward(document[:-1], logits="all")[0].astype(np.float64)  # (T, V)
        total += (np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), document[1:]]).sum()
    return total / sum(len(document) - 1 for document in documents)
