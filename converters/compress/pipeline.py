"""A model on its way from dense to compressed: stages applied one after another, each measured on held text."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from tinyrwkv import Model, load
from tinyrwkv.units import show_size

from ..calibrate import calibration
from ..calibrate.calibration import Calibration, Metrics, Tell
from ..judge.compare import differing
from ..judge.cost import chosen_bytes
from ..judge.metrics import Score
from ..techniques.predict_ffn import Settings
from ..write.edit import edit
from . import stages
from .stages import Stage

SAME = 64
"""Tokens after which the logits of a lossless file are compared with those of the dense one."""

KEEP = 0.17
"""Share of the neurons that predictors choose, where it is left open."""

LEAST = 0.1
"""The nll that the rise of a document's is a share of, at least: where there is next to none, any is much."""

ROWS = 1024
"""Rows of the head that are read exactly for a token, where it is left open."""


class Options(NamedTuple):
    """What to do to a model; nothing by default.

    Attributes
    ----------
    low_rank : float, optional
        Ranks of 1/k of the width for all projections,
    rank_budget : float, optional
        or ranks by need: bytes of all projections together, or their share of the dense ones' where it is at most 1.
    whiten : bool
        Fit the factors to the inputs that occur; always so with a budget.
    sparse_ffn : str, optional
        "exact" reads only the values of neurons that fire; "predict" only neurons that a predictor takes for needed:
    keep : float, optional
        this share of them,
    recall : float, optional
        or those that have this share of the energy.
    mlp : int, optional
        Width of a network for each layer that chooses neurons too.
    head : str, optional
        "preview" reads few rows of the head, those that a preview of all takes for needed:
    head_rows : int, optional
        so many.
    most : float, optional
        Leave a technique out that raises the nll of a held document by more than this share, on average.
    seed : int
    """

    low_rank: float | None = None
    rank_budget: float | None = None
    whiten: bool = False
    sparse_ffn: str | None = None
    keep: float | None = None
    recall: float | None = None
    mlp: int | None = None
    head: str | None = None
    head_rows: int | None = None
    most: float | None = None
    seed: int = 0

    @property
    def factored(self) -> bool:
        """Whether projections become factors."""
        return self.low_rank is not None or self.rank_budget is not None

    @property
    def lossless(self) -> bool:
        """Whether the model computes the same bits."""
        return not self.factored and self.sparse_ffn != "predict" and self.head is None

    @property
    def whitened(self) -> bool:
        """Whether factors are fitted to inputs."""
        return self.rank_budget is not None or (self.whiten and self.low_rank is not None)


class Pipeline:
    """Applies stages to a model; a context manager.

    Parameters
    ----------
    dense : str
        The file of a dense int8 model.
    folder : str
        For the models in between; who made it removes it.
    seed : int
    tell : callable

    Attributes
    ----------
    dense, model : Model
        The one to begin with; as the last stage left it.
    metadata : dict
        Of the file to write, with all that was done and what it cost.
    figures : dict
        For the pictures of the report: by technique, and ``bytes`` by stage.
    notes : list of str
        What who reads the report should know.
    """

    def __init__(self, dense: str, folder: str, seed: int, tell: Tell) -> None:
        self.dense = self.model = load(dense, threads=THREADS)
        self.folder, self.seed, self.tell = folder, seed, tell
        self.calibration: Calibration | None = None
        self._metrics: Metrics | None = None
        self._calibrated: list[dict[str, Any]] = []
        self._dense_of_each = np.empty(0)  # nll of each document of the held text
        self._made = 0
        self.reset()

    def reset(self) -> None:
        """Go back to the dense model; what was collected from it stays."""
        self._leave(self.model)
        self.model = self.dense
        self.metadata: dict[str, Any] = dict(self.dense.config)
        self.metadata["compression"] = [*self.metadata.get("compression", []), *self._calibrated]
        self.figures: dict[str, Any] = {"bytes": {"dense": self._sizes({})}}
        self.notes: list[str] = []
        self._chosen: dict[str, float] = {}
        self._last = self._calibrated[0]["report"] if self._calibrated else {}
        self._last_of_each = self._dense_of_each

    def calibrate(self, name: str, text: str | None, lossless: bool = False) -> None:
        """Take or sample calibration text; judge the dense model by the part held back, where any loss is to come."""
        own = calibration.COUNTED if lossless else calibration.OWN
        self.calibration = calibration.make(self.model, name, text, self.seed, self.tell, own)
        sizes = (("fit_tokens", self.calibration.fit), ("held_tokens", self.calibration.held))
        report: dict[str, Any] = {key: sum(map(len, documents)) for key, documents in sizes}
        if not lossless:
            loss, self._dense_of_each, _ = self._judge(self.model, "dense")
            report |= loss
        params = {"text": self.calibration.source, "seed": self.seed}
        self._calibrated = [{"technique": "calibration", "params": params, "report": report}]
        self.reset()

    def stages(self, options: Options) -> Iterator[Stage]:
        """Yield the stages that options ask for, each made when those before are applied."""
        if options.factored:
            metrics = self.measures() if options.whitened else None
            budget = None if options.rank_budget is None else self._rank_bytes(options.rank_budget)
            yield stages.low_rank(self.model, metrics, self.tell, k=options.low_rank, budget=budget)
        if options.sparse_ffn is not None:
            settings = None
            if options.sparse_ffn == "predict":
                share = options.keep or KEEP
                settings = Settings(
                    energy=options.recall, fraction=share, mlp=options.mlp or 0, seed=options.seed
                )
            yield stages.sparse_ffn(self.model, self._text(), self.tell, settings)
        if options.head is not None:
            yield stages.head(
                self.model, self._text(), self.tell, options.head_rows or ROWS, self.seed
            )

    def apply(self, stage: Stage, most: float | None = None) -> None:
        """Write the model that a stage makes, measure it, and record both; not where it costs more than `most`."""
        path = self.write(stage)
        old, self.model = self.model, load(path, threads=THREADS)
        if stage.lossless:
            loss: dict[str, float] = {"differing_logits": self._differing(old)}
            chosen = chosen_bytes(self.model) / SAME
        else:
            loss, of_each, chosen = self._judge(self.model, stage.technique)
            loss |= {f"{name}_delta": loss[name] - self._last[name] for name in ("nll", "top1")}
            rises = (of_each - self._last_of_each) / np.maximum(self._last_of_each, LEAST)
            loss["nll_rise"] = float(rises.mean())
            if most is not None and loss["nll_rise"] > most:
                self._leave(self.model)
                self.model = old
                cost = f"it raises the nll of held documents by {loss['nll_rise']:.1%}, more than {most:.1%}"
                self.notes.append(f"{stage.technique} was left out: {cost}")
                return
            self._last, self._last_of_each = loss, of_each
        sum_before = sum(self._chosen.values())
        if stage.part is not None:
            self._chosen[stage.part] = chosen - sum_before
        touched, before = (
            model.plan()["touched_bytes_per_token"] + read
            for model, read in ((self.model, chosen), (old, sum_before))
        )
        if touched >= before:
            reads = f"{show_size(round(touched))} of weights for a token, {show_size(round(before))} without"
            self.notes.append(f"{stage.technique} does not pay for this model: it reads {reads}")
        report = {**stage.report, **loss, "touched_bytes_per_token": touched}
        step = {"technique": stage.technique, "params": stage.params, "report": report}
        self.metadata["compression"] = [*self.metadata["compression"], step]
        self.figures |= {stage.technique: stage.figures}
        self.figures["bytes"][stage.technique] = self._sizes(self._chosen)
        self._leave(old)

    def write(self, stage: Stage) -> str:
        """Write the model that a stage makes of the present one, and return its path."""
        self._made += 1
        path = os.path.join(self.folder, f"{self._made}.trwkv")
        edit(self.model.file, path, stage.edits, self.metadata)
        return path

    def judge(self, path: str) -> float:
        """Return the nll of another model file on the held text."""
        model = load(path, threads=THREADS)
        try:
            return self._judge(model, "option")[0]["nll"]
        finally:
            model.close()

    @property
    def nll(self) -> float:
        """What the present model has on the held text."""
        return float(self._last.get("nll", self._calibrated[0]["report"]["nll"]))

    def measures(self) -> Metrics:
        """Return what errors of projections are measured by, collected once."""
        if self._metrics is None:
            names = stages.projections(self.dense)
            self._metrics = Metrics(self.dense, self._text(), self.folder, names, self.tell)
        return self._metrics

    def _judge(self, model: Model, name: str) -> tuple[dict[str, float], np.ndarray, float]:
        """Return nll and top-1 on the held text, nll of each document, and the bytes that the kernels chose a token."""
        scores = calibration.scores(
            model, self._text().held, lambda n, total: self.tell(f"judge {name}", n, total)
        )
        score, of_each = sum(scores, Score()), np.array([one.nll_per_token for one in scores])
        return (
            {"nll": score.nll_per_token, "top1": score.top1},
            of_each,
            chosen_bytes(model) / score.tokens,
        )

    def _differing(self, old: Model) -> int:
        """Return how many logits after some tokens differ from those of the model before."""
        ids = np.random.default_rng(self.seed).integers(0, old.config["vocab_size"], SAME)
        a, b = (np.asarray(model.forward(ids, logits="all")[0]) for model in (old, self.model))
        return differing(a, b)

    def _sizes(self, chosen: dict[str, float]) -> dict[str, dict[str, float]]:
        """Return the bytes of each part of the present model: read for a token, and in the file."""
        parts = self.model.plan()["parts"]
        touched = {
            one["part"]: one["touched_bytes_per_token"] + chosen.get(one["part"], 0.0)
            for one in parts
        }
        return {"touched": touched, "file": {one["part"]: one["file_bytes"] for one in parts}}

    def _text(self) -> Calibration:
        if self.calibration is None:
            raise ValueError("calibrate comes first")
        return self.calibration

    def _rank_bytes(self, budget: float) -> int:
        if budget > 1:
            return int(budget)
        tensors, names = self.model.file.tensors, stages.projections(self.model)
        return int(
            budget * sum(tensors[name].nbytes + tensors[name + ".scale"].nbytes for name in names)
        )

    def _leave(self, model: Model) -> None:
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


THREADS = 1
"""A product of calibration is small: threads would wait for each other longer than they work."""
