"""Int4 as a stage: GPTQ rounds the matrices of a model, block by block."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tinyrwkv import Model
from tinyrwkv.errors import ArgumentError, os_errors
from tinyrwkv.file.tensors import TensorFile
from tinyrwkv.versions.forms import LIKELY, matrix_shape

from ..calibrate.calibration import Calibration, Tell
from ..calibrate.walk import Walk
from ..techniques.gptq import gptq, gptq_rows
from ..techniques.preview_head import mean_probabilities, places_of
from ..techniques.round_int4 import Int4, round_int4
from ..write.parts import SCALES, is_int4
from .float_copy import FloatCopy, dense_matrix, dense_name, is_packed
from .stages import SAMPLES, Stage

Array = np.ndarray

_FIRST = {
    "time_mix": (
        *("att.receptance.weight", "att.key.weight"),
        *("att.value.weight", "att.gate.weight"),
    ),
    "channel_mix": ("ffn.key.weight", "ffn.receptance.weight"),
}
_LAST = {"time_mix": ("att.output.weight",), "channel_mix": ("ffn.value.weight", "ffn.value.rows")}
"""The matrices of a block: those that read its input, and the one that reads their results."""

_HEAD = "head.weight"


class Error(NamedTuple):
    """The relative error of a matrix: as it was rounded, and if rounded to nearest."""

    gptq: float
    nearest: float


def round_by_gptq(
    model: Model,
    calibration: Calibration,
    tell: Tell,
    folder: str,
    parts: str,
    by_neuron: bool,
    likely: int,
    threads: int,
) -> Stage:
    """Round matrices to int4 so that their outputs change least.

    What a matrix is fitted to are the inputs that it gets when all matrices before it are rounded
    already. So it makes up for some of their errors, too. The embedding is rounded to nearest: each
    token reads one row of it.

    Parameters
    ----------
    model : Model
        Its matrices are dense, factors, or values by rows. Those in int4 stay as they are.
    calibration : Calibration
    tell : callable
    folder : str
        Where files lie, such as a copy of the model in float32; the caller removes it.
    parts : str
        Such as "body" or "all": see ``write.parts``.
    by_neuron : bool
        Group the values of a channel mix by neuron, as sparse forms need them, and store them by
        rows. Values in int4 that are grouped by outputs are rounded again then.
    likely : int
        Rows of the head that stay in int8, those of the likeliest tokens. With 0, all are rounded.
    threads : int

    Returns
    -------
    Stage

    Raises
    ------
    ArgumentError
        There is nothing to round.
    """
    names = unrounded(model, parts, by_neuron)
    if not names:
        expected = "matrices in int8, as wide as a multiple of 64"
        sentence = f"the model has no {expected}, which could become int4"
        fix = "leave --dtype int4 out"
        # Its file is one beside the output, which nobody has named.
        raise ArgumentError("the model", "int4", "no such matrix", expected, fix, sentence)
    with FloatCopy(model, os.path.join(folder, "float.trwkv"), threads) as copy:
        rounding = _Rounding(model, copy, calibration, folder, names, tell)
        rounding.run()
        order = rounding.likely_first() if likely and _HEAD in names else None
    edits: dict[str, Callable[[], Mapping[str, Array]]] = {
        name: partial(_read, folder, new) for name, new in names.items()
    }
    params: dict[str, Any] = {"parts": parts, **SCALES, "text": calibration.source}
    if order is not None:
        edits[_HEAD] = partial(_read_sorted, model.file, folder, order, likely)
        params["likely_rows"] = likely
    if by_neuron:
        params["values"] = "by neuron"
    # The kernels choose among values by rows, which are smaller now.
    part = "channel_mix" if any(new.endswith(".rows") for new in names.values()) else None
    return Stage("gptq", edits, params, _report(rounding.errors), {}, part, dtype="int4")


def unrounded(model: Model, parts: str, by_neuron: bool) -> dict[str, str]:
    """Return the names of the matrices to round, each with its name in the new file.

    The parameters are those of `round_by_gptq`.
    """
    found: dict[str, str] = {}
    for name, tensor in model.file.tensors.items():
        turns = by_neuron and name.endswith("ffn.value.weight")
        new = name.removesuffix("weight") + "rows" if turns else name
        if tensor.dtype == "i8" or (turns and is_packed(model.file, name)):
            outputs, inputs = matrix_shape(tensor) if len(tensor.shape) == 2 else (0, 0)
            if is_int4(new, outputs if turns else inputs, parts):
                found[name] = new
    return found


class _Rounding:
    """Rounds the matrices of a model in the order in which a token meets them."""

    def __init__(
        self,
        model: Model,
        copy: FloatCopy,
        calibration: Calibration,
        folder: str,
        names: dict[str, str],
        tell: Tell,
    ) -> None:
        self.model = model
        self.copy = copy
        self.folder = folder
        self.names = names
        self.tell = tell
        self.errors: dict[str, Error] = {}
        self.walk = Walk(copy.model, calibration.fit, folder)
        self._done = 0

    def run(self) -> None:
        """Round them all."""
        self.tell("int4", 0, len(self.names))
        if "emb.weight" in self.names:
            with _named("emb.weight"):
                rounded = round_int4(dense_matrix(self.model.file, "emb.weight"))
            self._keep("emb.weight", rounded)
        self.walk.advance("embedding")
        for layer in range(self.model.config["n_layer"]):
            for part in ("time_mix", "channel_mix"):
                for words in (_FIRST[part], _LAST[part]):
                    self._fit(part, layer, [f"blocks.{layer}.{word}" for word in words])
                self.walk.advance(part, layer)
        self._fit("head", None, [_HEAD])

    def likely_first(self) -> Array:
        """Return the rows of the head, those of likely tokens first: int64, shape (V,)."""
        weight = dense_matrix(self.model.file, _HEAD)
        states = self.walk.inputs("head", None, _HEAD, SAMPLES)
        return np.argsort(-mean_probabilities(weight, states), kind="stable")

    def _fit(self, part: str, layer: int | None, names: list[str]) -> None:
        """Round matrices of a block whose inputs are final."""
        wanted = [name for name in names if name in self.names]
        if not wanted:
            return
        moments = self.walk.moments(part, layer, map(dense_name, wanted))
        for name in wanted:
            weight = dense_matrix(self.model.file, name)
            with _named(name):
                if self.names[name].endswith(".rows"):
                    fit = gptq_rows(weight.T, moments.pop(dense_name(name)))
                else:
                    fit = gptq(weight, moments.pop(name))
            self.errors[name] = Error(fit.error, fit.rounded_error)
            self._keep(self.names[name], fit.int4)

    def _keep(self, name: str, rounded: Int4) -> None:
        """Keep a matrix of the new file in a file, and let what follows read it."""
        path = _path(self.folder, name)
        with os_errors(path, "write"):
            np.save(path, rounded.packed())
        self.copy.replace(name, rounded.weights())
        self._done += 1
        self.tell("int4", self._done, len(self.names))


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Name the matrix that is refused."""
    try:
        yield
    except ArgumentError as error:
        what = f"tensor '{name}'"
        sentence = f"{what} has {error.found}, but int4 needs {error.expected}"
        raise ArgumentError(
            "int4", what, error.found, error.expected, error.fix, sentence
        ) from None


def _path(folder: str, name: str) -> str:
    return os.path.join(folder, f"{name}.int4.npy")


def _read(folder: str, name: str) -> dict[str, Array]:
    path = _path(folder, name)
    with os_errors(path, "read"):
        return {name: np.load(path)}


def _read_sorted(file: TensorFile, folder: str, order: Array, likely: int) -> dict[str, Array]:
    """Return the tensors of a head in int4 whose likely rows keep the int8 that a file has."""
    first, others = order[:likely], order[likely:]
    return {
        LIKELY: file[_HEAD][first],
        f"{LIKELY}.scale": file[f"{_HEAD}.scale"][first],
        _HEAD: _read(folder, _HEAD)[_HEAD][others],
        "head.places": places_of(order),
    }


def _report(errors: Mapping[str, Error]) -> dict[str, Any]:
    """Return the mean errors, of all matrices and of each kind of them, and the worst one."""
    kinds: dict[str, list[Error]] = {}
    for name, error in errors.items():
        words = dense_name(name).removesuffix(".weight").split(".")
        kinds.setdefault(".".join(words[-2:]), []).append(error)
    if not errors:  # only the embedding, which is rounded to nearest
        return {}
    worst = max(errors, key=lambda name: errors[name].gptq)
    return {
        **_mean(list(errors.values())),
        "worst_tensor": worst,
        "worst_relative_error": errors[worst].gptq,
        "parts": {kind: _mean(some) for kind, some in kinds.items()},
    }


def _mean(errors: list[Error]) -> dict[str, float]:
    return {
        "relative_error": sum(error.gptq for error in errors) / len(errors),
        "relative_error_to_nearest": sum(error.nearest for error in errors) / len(errors),
    }
