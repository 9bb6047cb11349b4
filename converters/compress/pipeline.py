"""A model on its way from dense to compressed: stages applied in turn, each measured.

The measure is a text held out from fitting.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tinyrwkv import Model, load
from tinyrwkv.errors import ArgumentError
from tinyrwkv.units import show_size

from ..calibrate import calibration
from ..calibrate.calibration import Calibration, Documents, ErrorMetrics, Tell
from ..calibrate.documents import choose_documents
from ..judge.by_text import JUDGED, step_of_text
from ..judge.compare import differing
from ..judge.cost import chosen_bytes
from ..judge.metrics import TextLoss
from ..techniques.predict_ffn import PredictorSettings
from ..write.edit import edit
from . import stages
from .int4 import round_by_gptq, unrounded
from .options import KEEP, Options
from .spectra import Spectra
from .stages import Stage

SAME = 64
"""Tokens after which the logits of a lossless file are compared with those of the dense one."""

LEAST = 0.1
"""The least nll that a rise is divided by: any rise of a tiny nll would be a large share."""

THREADS = 1
"""A product of calibration is small: threads would wait for each other longer than they work."""


class Judgement(NamedTuple):
    """How a model does on the held-out text.

    Attributes
    ----------
    loss : TextLoss
        Of all documents together.
    nll_of_each : ndarray, float64
        Nll per token of each document.
    chosen : float
        Bytes of the weights that kernels choose for a token.
    """

    loss: TextLoss
    nll_of_each: np.ndarray
    chosen: float


class Pipeline:
    """Applies stages to a model; a context manager.

    Parameters
    ----------
    dense : str
        The file of a dense model in int8, in which some matrices may be int4.
    folder : str
        Where the models in between lie; the caller removes it.
    seed : int
    tell : callable

    Attributes
    ----------
    dense, model : Model
        The model to begin with, and the one that the last stage made.
    metadata : dict
        Of the file to write, with all that was done and what it cost.
    figures : dict
        For the pictures of the report: by technique, and ``bytes`` by stage.
    notes : list of str
        What a reader of the report should know.
    measured : int
        How many models a search has measured.
    """

    def __init__(self, dense: str, folder: str, seed: int, tell: Tell) -> None:
        self.dense = self.model = load(dense, threads=THREADS)
        self.folder = folder
        self.seed = seed
        self.tell = tell
        self.calibration: Calibration | None = None
        self._metrics: ErrorMetrics | None = None
        self._spectra: dict[bool, Spectra] = {}  # by whether they are whitened
        self._calibrated: list[dict[str, Any]] = []
        self._of_dense: Judgement | None = None
        self._judged_texts: dict[str, Documents] = {}
        self._files = 0
        self.measured = 0
        self.reset()

    def reset(self) -> None:
        """Go back to the dense model; what was collected from it stays."""
        self._close(self.model)
        self.model = self.dense
        self.metadata: dict[str, Any] = dict(self.dense.config)
        self.metadata["compression"] = [*self.metadata.get("compression", []), *self._calibrated]
        self.figures: dict[str, Any] = {"bytes": {"dense": self._sizes({})}}
        self.notes: list[str] = []
        self._last = self._of_dense
        # Bytes that kernels choose for a token, by part. Values that hold int4 may lie in rows.
        of_values = 0.0 if self._last is None else self._last.chosen
        self._chosen: dict[str, float] = {"channel_mix": of_values} if of_values else {}

    def calibrate(
        self,
        name: str,
        text: str | None,
        lossless: bool = False,
        judge: Mapping[str, str] | None = None,
    ) -> None:
        """Take or sample calibration text, and judge the dense model by the held-out part of it.

        Parameters
        ----------
        name : str
            Of the text, for the record.
        text : str or None
            None lets the model write one.
        lossless : bool, optional
            Nothing will be lost, so nothing is judged.
        judge : mapping of str to str, optional
            More texts by their names, for `judge_texts`.
        """
        self._judged_texts = {
            one: choose_documents(self.dense, whole, JUDGED, self.seed)
            for one, whole in (judge or {}).items()
        }
        own = calibration.COUNTED if lossless else calibration.OWN
        self.calibration = calibration.make(self.model, name, text, self.seed, self.tell, own)
        report: dict[str, Any] = {
            "fit_tokens": sum(map(len, self.calibration.fit)),
            "held_tokens": sum(map(len, self.calibration.held_out)),
        }
        self._of_dense = None if lossless else self._judge(self.model, "dense")
        if self._of_dense is not None:
            loss = self._of_dense.loss
            report |= {"nll": loss.nll_per_token, "top1": loss.top1}
        params = {"text": self.calibration.source, "seed": self.seed}
        self._calibrated = [{"technique": "calibration", "params": params, "report": report}]
        self.reset()

    def stages(self, options: Options) -> Iterator[Stage]:
        """Yield the stages that options ask for; each is made when those before are applied."""
        if options.factored:
            budget = None if options.rank_budget is None else self._rank_bytes(options.rank_budget)
            yield stages.factor_projections(
                self.model,
                self.spectra(options.whitened),
                self.tell,
                k=options.low_rank,
                budget=budget,
            )
        if options.int4 is not None and not self._is_rounded(options.int4, options.is_sparse):
            yield round_by_gptq(
                *(self.model, self._text(), self.tell, self.folder),
                *(options.int4, options.is_sparse),
                *(options.likely(self.model.config["vocab_size"]), THREADS),
            )
        if options.sparse_ffn is not None:
            settings = None if options.sparse_ffn == "exact" else _predictor_settings(options)
            yield stages.sparsify_ffn(self.model, self._text(), self.tell, settings)
        if options.head is not None:
            rows = options.candidates(self.model.config["vocab_size"])
            yield stages.preview_head(self.model, self._text(), self.tell, rows, self.seed)

    def _is_rounded(self, parts: str, by_neuron: bool) -> bool:
        """Tell whether the model is one of int4 in which nothing is left to round."""
        is_int4 = self.model.config["dtype"] == "int4"
        return is_int4 and not unrounded(self.model, parts, by_neuron)

    def apply(self, stage: Stage, max_nll_rise: float | None = None) -> None:
        """Write the model that a stage makes, measure it, and record both.

        Parameters
        ----------
        stage : Stage
        max_nll_rise : float, optional
            The stage is left out, with a note, if it raises the nll of a held-out document by more
            than this share, on average. Texts that only judge have no say in it.
        """
        before = self.model
        self.model = load(self.write(stage), threads=THREADS)
        loss: dict[str, float]
        if stage.lossless:
            loss = {"differing_logits": self._differing(before)}
            chosen = chosen_bytes(self.model) / SAME
        else:
            judgement = self._judge(self.model, stage.technique)
            loss = self._loss(judgement)
            if max_nll_rise is not None and loss["nll_rise"] > max_nll_rise:
                rise = f"by {loss['nll_rise']:.1%}, more than {max_nll_rise:.1%}"
                cost = f"it raises the nll of {self._text().held_out_name} {rise}"
                self.notes.append(f"{stage.technique} was left out: {cost}")
                self._close(self.model)
                self.model = before
                return
            self._last = judgement
            chosen = judgement.chosen
        self._record(stage, loss, chosen, before)
        self._close(before)

    def judge_texts(self) -> None:
        """Record what was lost in all, on the held-out text and on each text that only judges.

        Without such texts, note by which text the losses were judged. If nothing was lost, there
        is nothing to record.
        """
        before, after = self._of_dense, self._last
        if before is None or after is None or after is before:
            if self._judged_texts:
                self.notes.append("nothing was lost, so no text was judged")
            return
        name = self._text().held_out_name
        if not self._judged_texts:
            judged = f"the losses were measured on {name}, {after.loss.tokens:,} tokens"
            self.notes.append(
                f"{judged}; other text usually loses more: judge by some with --judge"
            )
            return
        steps = [step_of_text(name, before.loss, after.loss)]
        for one, documents in self._judged_texts.items():
            tell = partial(self.tell, f"judge {one}")
            dense, compressed = (
                sum(calibration.losses(model, documents, tell), TextLoss())
                for model in (self.dense, self.model)
            )
            steps.append(step_of_text(one, dense, compressed))
        self.metadata["compression"] = [*self.metadata["compression"], *steps]

    def write(self, stage: Stage) -> str:
        """Write the model that a stage makes of the present one, and return its path."""
        self._files += 1
        path = os.path.join(self.folder, f"{self._files}.trwkv")
        edit(self.model.file, path, stage.edits, self.metadata | _dtype_after(stage))
        return path

    def judge(self, path: str) -> float:
        """Return the nll of another model file on the held-out text."""
        model = load(path, threads=THREADS)
        try:
            return self._judge(model, "option").loss.nll_per_token
        finally:
            model.close()

    @property
    def nll(self) -> float:
        """The present model's nll per token on the held-out text."""
        return self._judged().loss.nll_per_token

    def metrics(self) -> ErrorMetrics:
        """Return the metrics that errors of projections are measured by, collected once."""
        if self._metrics is None:
            names = stages.projections(self.dense)
            self._metrics = ErrorMetrics(self.dense, self._text(), self.folder, names, self.tell)
        return self._metrics

    def spectra(self, whitened: bool) -> Spectra:
        """Return the spectra of the dense model's projections, which no other stage changes."""
        if whitened not in self._spectra:
            metrics = self.metrics() if whitened else None
            self._spectra[whitened] = Spectra(self.dense, metrics, self.folder)
        return self._spectra[whitened]

    def _loss(self, judgement: Judgement) -> dict[str, float]:
        """Return the present model's figures, and how they differ from the model before."""
        last = self._judged()
        rises = judgement.nll_of_each - last.nll_of_each
        rises /= np.maximum(last.nll_of_each, LEAST)
        found, before = judgement.loss, last.loss
        return {
            "nll": found.nll_per_token,
            "top1": found.top1,
            "nll_delta": found.nll_per_token - before.nll_per_token,
            "top1_delta": found.top1 - before.top1,
            "nll_rise": float(rises.mean()),
        }

    def _record(
        self, stage: Stage, loss: Mapping[str, float], chosen: float, before: Model
    ) -> None:
        """Record what a stage did in the metadata and figures; add a note if it is of no use."""
        chosen_before = sum(self._chosen.values())
        if stage.part is not None:
            others = chosen_before - self._chosen.get(stage.part, 0.0)
            self._chosen[stage.part] = chosen - others
        touched = _planned_bytes(self.model) + chosen
        touched_before = _planned_bytes(before) + chosen_before
        if touched >= touched_before:
            sizes = show_size(round(touched)), show_size(round(touched_before))
            reads = f"{sizes[0]} of weights for a token, {sizes[1]} without"
            self.notes.append(f"{stage.technique} does not pay for this model: it reads {reads}")
        report = {**stage.report, **loss, "touched_bytes_per_token": touched}
        step = {"technique": stage.technique, "params": stage.params, "report": report}
        self.metadata["compression"] = [*self.metadata["compression"], step]
        self.metadata |= _dtype_after(stage)
        self.figures[stage.technique] = stage.figures
        self.figures["bytes"][stage.technique] = self._sizes(self._chosen)

    def _judge(self, model: Model, name: str) -> Judgement:
        def tell(done: int, total: int) -> None:
            self.tell(f"judge {name}", done, total)

        losses = calibration.losses(model, self._text().held_out, tell)
        whole = sum(losses, TextLoss())
        if not whole.tokens:
            raise _nothing_to_judge_by(self._text())
        nll_of_each = np.array([loss.nll_per_token for loss in losses])
        chosen = chosen_bytes(model) / whole.tokens
        return Judgement(whole, nll_of_each, chosen)

    def _differing(self, before: Model) -> int:
        """Return how many logits after some tokens differ from those of the model before."""
        ids = np.random.default_rng(self.seed).integers(0, before.config["vocab_size"], SAME)
        old, _ = before.forward(ids, logits="all")
        new, _ = self.model.forward(ids, logits="all")
        return differing(np.asarray(old), np.asarray(new))

    def _sizes(self, chosen: Mapping[str, float]) -> dict[str, dict[str, float]]:
        """Return the bytes of each part of the present model: read for a token, and in the file.

        The rest of the file is its header, its table and the gaps between tensors.
        """
        plan = self.model.plan()
        parts = plan["parts"]
        touched = {
            one["part"]: one["touched_bytes_per_token"] + chosen.get(one["part"], 0.0)
            for one in parts
        }
        file: dict[str, float] = {one["part"]: one["file_bytes"] for one in parts}
        file["rest"] = plan["file_bytes"] - sum(file.values())
        return {"touched": touched, "file": file}

    def _text(self) -> Calibration:
        if self.calibration is None:
            raise ValueError("calibrate comes first")
        return self.calibration

    def _judged(self) -> Judgement:
        if self._last is None:
            raise ValueError("calibrate comes first, with a loss to be judged")
        return self._last

    def _rank_bytes(self, budget: float) -> int:
        """Return the bytes of a rank budget, which may be a share of those of the projections."""
        if budget > 1:
            return int(budget)
        tensors = self.model.file.tensors
        dense = sum(
            tensors[name].nbytes + tensors[name + ".scale"].nbytes
            for name in stages.projections(self.model)
        )
        return int(budget * dense)

    def _close(self, model: Model) -> None:
        """Close and remove a model in between."""
        if model is not self.dense:
            model.close()
            os.unlink(model.path)

    def __enter__(self) -> Pipeline:
        """Return the pipeline itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the models."""
        self.model.close()
        self.dense.close()


def _predictor_settings(options: Options) -> PredictorSettings:
    return PredictorSettings(
        energy=options.recall,
        fraction=KEEP if options.keep is None else options.keep,
        mlp=0 if options.mlp is None else options.mlp,
        seed=options.seed,
    )


def _dtype_after(stage: Stage) -> dict[str, str]:
    """Return what the metadata say about the type of the matrices, if a stage changes it."""
    return {} if stage.dtype is None else {"dtype": stage.dtype}


def _nothing_to_judge_by(text: Calibration) -> ArgumentError:
    """Return the error for held-out text of which no document has a token but the first."""
    name = text.held_out_name
    found, expected = "empty documents", "one token or more to judge by"
    fix = "give another text with --calibrate"
    sentence = f"{name} must have {expected}, but all documents are empty"
    return ArgumentError(name, "text", found, expected, fix, sentence)


def _planned_bytes(model: Model) -> float:
    """Return the bytes of weights that every token reads."""
    return float(model.plan()["touched_bytes_per_token"])
