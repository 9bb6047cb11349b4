"""Compress a model: technique after technique, each fitted to the model as those before left it, each measured."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tinyrwkv import Model, load
from tinyrwkv.errors import ArgumentError, FormatError

from . import calibration, stages
from .calibration import Calibration, Metrics, Tell
from .convert import PathLike, check_arguments, convert
from .rewrite import rewrite
from .sparse_ffn import Settings
from .stages import Stage
from .texts import read_text

SAME = 64
"""Tokens after which the logits of a lossless file are compared with those of the dense one."""


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
    seed : int
    """

    low_rank: float | None = None
    rank_budget: float | None = None
    whiten: bool = False
    sparse_ffn: str | None = None
    keep: float | None = None
    recall: float | None = None
    seed: int = 0

    @property
    def lossless(self) -> bool:
        """Whether the model computes the same bits."""
        return self.low_rank is None and self.rank_budget is None and self.sparse_ffn != "predict"

    @property
    def whitened(self) -> bool:
        """Whether factors are fitted to inputs."""
        return self.rank_budget is not None or (self.whiten and self.low_rank is not None)


KEEP = 0.17
"""Share of the neurons that predictors choose, where it is left open."""

PRESETS = {"exact": Options(sparse_ffn="exact")}


def compress(
    input: PathLike,
    output: PathLike,
    options: Options,
    *,
    calibrate: PathLike | None = None,
    vocab: PathLike | None = None,
    ln_x_eps: float | None = None,
    template: str | None = None,
    license: str | None = None,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Convert a checkpoint or a dense model file to a compressed one.

    Parameters
    ----------
    input : str or path-like
        What `convert` takes.
    output : str or path-like
        Gets its name only when it is complete; until then models in the making lie in a folder beside it, which is
        removed however this ends.
    options : Options
    calibrate : str or path-like, optional
        A text; without one the model samples its own.
    vocab, ln_x_eps, template, license
        As for `convert`.
    tell : callable, optional
        Called as ``tell(stage, done, total)``.

    Returns
    -------
    dict
        As of `convert`, and ``figures``, by technique; every value is plain JSON.

    Raises
    ------
    TinyRWKVError
        The input, a text or an option is wrong; nothing is left under the name of the output.
    """
    begin, tell = time.monotonic(), tell or (lambda stage, done, total: None)
    input, output = os.fsdecode(input), os.fsdecode(output)
    check_arguments(input, output, vocab, "int8", ln_x_eps, template, license)
    _check(options)
    text = None if calibrate is None else read_text(os.fsdecode(calibrate))  # before minutes of work
    with _folder_beside(output) as folder:
        dense = os.path.join(folder, "dense.trwkv")
        show = partial(tell, "convert")
        report = convert(input, dense, "int8", vocab, ln_x_eps, template, license, progress=show)
        with Pipeline(dense, folder, options.seed, tell) as pipeline:
            pipeline.calibrate(os.path.basename(os.fsdecode(calibrate or "")), text, options.lossless)
            for stage in pipeline.stages(options):
                pipeline.apply(stage)
            sizes = rewrite(pipeline.model.file, output, {}, pipeline.metadata)
        return {
            **report, **pipeline.metadata, "input": input, "output": output, "tensors": len(sizes),
            "file_bytes": os.path.getsize(output), "seconds": round(time.monotonic() - begin, 3),
            "figures": pipeline.figures,
        }  # fmt: skip


class Pipeline:
    """A model on its way from a dense one, with what is known of it; a context manager.

    Parameters
    ----------
    dense : str
        The file of a dense int8 model.
    folder : str
        For the models in between.
    seed : int
    tell : callable

    Attributes
    ----------
    model : Model
        As the last stage left it.
    metadata : dict
        Of the file to write, with all that was done and what it cost.
    figures : dict
        For the pictures of the report, by technique.
    """

    def __init__(self, dense: str, folder: str, seed: int, tell: Tell) -> None:
        self.dense = self.model = load(dense, threads=THREADS)
        self.metadata = dict(self.model.config)
        self.folder, self.seed, self.tell = folder, seed, tell
        self.figures: dict[str, Any] = {}
        self.calibration: Calibration | None = None
        self._metrics: Metrics | None = None
        self._made = 0
        self._nll = 0.0
        self._top1 = 0.0

    def calibrate(self, name: str, text: str | None, lossless: bool = False) -> None:
        """Take or sample calibration text; judge the dense model by the part held back, where any loss is to come."""
        own = calibration.COUNTED if lossless else calibration.OWN
        self.calibration = calibration.make(self.model, name, text, self.seed, self.tell, own)
        report: dict[str, Any] = {
            key: sum(map(len, documents))
            for key, documents in (("fit_tokens", self.calibration.fit), ("held_tokens", self.calibration.held))
        }
        report |= {} if lossless else self._judge("dense")
        self._record("calibration", {"text": self.calibration.source, "seed": self.seed}, report)

    def stages(self, options: Options) -> Iterator[Stage]:
        """Yield the stages that options ask for, each made when those before are applied."""
        if options.low_rank is not None or options.rank_budget is not None:
            metrics = self.measures() if options.whitened else None
            yield stages.low_rank(
                self.model, metrics, self.tell, k=options.low_rank, budget=self._rank_bytes(options.rank_budget)
            )
        if options.sparse_ffn is not None:
            settings = None
            if options.sparse_ffn == "predict":
                settings = Settings(energy=options.recall, fraction=options.keep or KEEP)
            yield stages.sparse_ffn(self.model, self._text(), self.tell, settings)

    def apply(self, stage: Stage) -> None:
        """Write the model that a stage makes, measure it, and record both."""
        self._made += 1
        path = os.path.join(self.folder, f"{self._made}.trwkv")
        rewrite(self.model.file, path, stage.edits, self.metadata)
        old, self.model = self.model, load(path, threads=THREADS)
        report = {**stage.report}
        if stage.lossless:
            report["differing_logits"] = self._differing(old)
        else:
            report |= self._judge(stage.technique)
        self._record(stage.technique, stage.params, report)
        self.figures[stage.technique] = stage.figures
        if old is not self.dense:
            old.close()
            os.unlink(old.path)

    def _judge(self, name: str) -> dict[str, float]:
        """Return how the model does on held text, and how far that is from before."""
        held = () if self.calibration is None else self.calibration.held
        score = calibration.score(self.model, [*held], lambda n, total: self.tell(f"judge {name}", n, total))
        nll, top1 = score.nll_per_token, score.top1
        report = {"nll": nll, "top1": top1}
        if name != "dense":
            report |= {"nll_delta": nll - self._nll, "top1_delta": top1 - self._top1}
        self._nll, self._top1 = nll, top1
        return report

    def _differing(self, old: Model) -> int:
        """Return how many logits after some tokens differ from those of the model before."""
        ids = np.random.default_rng(self.seed).integers(0, old.config["vocab_size"], SAME)
        a, b = (np.asarray(model.forward(ids, logits="all")[0]) for model in (old, self.model))
        return int(np.count_nonzero(a.view(np.int32) != b.view(np.int32)))

    def _record(self, technique: str, params: dict[str, Any], report: dict[str, Any]) -> None:
        step = {"technique": technique, "params": params, "report": report}
        self.metadata["compression"] = [*self.metadata.get("compression", []), step]

    def measures(self) -> Metrics:
        """Return what errors of projections are measured by, collected once."""
        if self._metrics is None:
            names = stages.projections(self.dense)
            self._metrics = Metrics(self.dense, self._text(), self.folder, names, self.tell)
        return self._metrics

    def _text(self) -> Calibration:
        if self.calibration is None:
            raise ValueError("calibrate comes first")
        return self.calibration

    def _rank_bytes(self, budget: float | None) -> int | None:
        if budget is None or budget > 1:
            return None if budget is None else int(budget)
        tensors = self.model.file.tensors
        return int(budget * sum(tensors[name].nbytes for name in stages.projections(self.model)))

    def __enter__(self) -> Pipeline:
        """Return the pipeline itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the models."""
        self.model.close()
        self.dense.close()


THREADS = 1


def _check(options: Options) -> None:
    found = None
    if options.low_rank is not None and options.rank_budget is not None:
        found, fix = "--low-rank and --rank-budget", "give one of them: the same ranks for all, or ranks by need"
    elif options.rank_budget is not None and not options.rank_budget > 0:
        found, fix = f"a rank budget of {options.rank_budget}", "give bytes, such as 4MB, or a share, such as 70%"
    elif (options.keep is not None or options.recall is not None) and options.sparse_ffn != "predict":
        found, fix = "--keep or --recall alone", "add --sparse-ffn predict"
    elif options.keep is not None and options.recall is not None:
        found, fix = "--keep and --recall", "give one of them"
    elif options.whiten and not options.whitened:
        found, fix = "--whiten alone", "add --low-rank 4 or --rank-budget 70%"
    if found is not None:
        raise ArgumentError("arguments", "options", found, "options that go together", fix)


@contextlib.contextmanager
def _folder_beside(output: str) -> Iterator[str]:
    """Give a new folder beside a file; it is removed at the end."""
    place, name = os.path.split(output)
    try:
        folder = tempfile.mkdtemp(prefix=f"{name}.tmp-", dir=place or ".")
    except (OSError, ValueError) as error:
        found = getattr(error, "strerror", None) or str(error)
        fix = "check the path, permissions and free space"
        raise FormatError(output, "file", found, "a file to write", fix) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
