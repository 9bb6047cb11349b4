"""The spectra of a model's projections: each is computed once, however often it is asked for."""

from __future__ import annotations

import os

import numpy as np

from tinyrwkv import Model
from tinyrwkv.errors import os_errors
from tinyrwkv.file.quant import dequantize_rows

from ..calibrate.calibration import ErrorMetrics
from ..techniques.low_rank import Metric, Spectrum, highest_rank, spectrum

Array = np.ndarray


def matrix(model: Model, name: str) -> Array:
    """Return a matrix of an int8 model as float32."""
    return dequantize_rows(model.file[name], model.file[name + ".scale"])


class Spectra:
    """Takes the projections of a model apart.

    Adaptive ranks need the singular values of all projections before the first one is factored.
    So that no decomposition is computed again for its factors, it is kept in a file: the terms of
    all projections together may be larger than the memory.

    Parameters
    ----------
    model : Model
        One in which the projections are dense.
    metrics : ErrorMetrics or None
        What errors are measured by. With None, errors of all weights count the same.
    folder : str
        Where its files lie; the caller removes it.
    """

    def __init__(self, model: Model, metrics: ErrorMetrics | None, folder: str) -> None:
        self.model = model
        self.metrics = metrics
        self._folder = folder
        self._kept: set[str] = set()

    def metric(self, name: str) -> Metric | None:
        """Return what errors of a projection are measured by."""
        return None if self.metrics is None else self.metrics[name]

    def values(self, name: str) -> Array:
        """Return the singular values of a projection, and keep its terms for later."""
        if name not in self._kept:
            self._keep(name, self._compute(name))
        return self._kept_arrays(name)["values"]

    def __getitem__(self, name: str) -> Spectrum:
        """Return the spectrum of a projection, with all terms that factors may have, or more."""
        if name not in self._kept:
            return self._compute(name)
        return Spectrum(**self._kept_arrays(name))

    def _compute(self, name: str) -> Spectrum:
        return spectrum(matrix(self.model, name), self.metric(name))

    def _keep(self, name: str, whole: Spectrum) -> None:
        terms = highest_rank(self.model.file.tensors[name].shape)
        part = Spectrum(whole.left[:, :terms], whole.values, whole.right[:terms])
        path = self._path(name)
        with os_errors(path, "write"):
            np.savez(path, **part._asdict())
        self._kept.add(name)

    def _kept_arrays(self, name: str) -> dict[str, Array]:
        path = self._path(name)
        with os_errors(path, "read"), np.load(path) as arrays:
            return dict(arrays)

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, f"{name}.npz")
