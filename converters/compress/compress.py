"""Compress a checkpoint or a dense model file, and measure what each step costs."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from tinyrwkv.errors import ArgumentError
from tinyrwkv.file.apart import check_apart

from ..calibrate.calibration import Tell
from ..judge.by_text import read_texts
from ..judge.cost import sample_cold
from ..judge.texts import name_of, read_text
from ..report.report import check_report, files_of_report, write_report
from ..write.convert import Adapter, PathLike, check_arguments, convert
from ..write.edit import edit
from ..write.temporary import folder_beside
from . import search
from .options import Options
from .pipeline import Pipeline


def compress(
    input: PathLike,
    output: PathLike,
    options: Options,
    *,
    budget: int | None = None,
    calibrate: PathLike | None = None,
    judge: Sequence[PathLike] = (),
    vocab: PathLike | None = None,
    ln_x_eps: float | None = None,
    template: str | None = None,
    license: str | None = None,
    report: PathLike | None = None,
    tell: Tell | None = None,
    adapter: Adapter | None = None,
    weigh: bool = False,
) -> dict[str, Any]:
    """Convert a checkpoint or a dense model file to a compressed one.

    Matrices that hold values of int4 already, such as recovered ones, keep them in int4.

    Parameters
    ----------
    input : str or path-like
        What `convert` takes.
    output : str or path-like
        Gets its name only when it is complete. Until then, unfinished models lie in a folder
        beside it, which is removed in the end, also after an error.
    options : Options
    budget : int, optional
        Bytes of the file that may be in memory. The options with the lowest loss under this
        budget are searched; only the seed of `options` counts then.
    calibrate : str or path-like, optional
        A text to fit to; without one the model samples its own.
    judge : sequence of str or path-like, optional
        Texts that nothing is fitted to: the loss of all techniques together is measured on each.
        None of them may be the calibration text.
    vocab, ln_x_eps, template, license, adapter
        As for `convert`.
    report : str or path-like, optional
        Write a page of pictures here, and its numbers beside it as JSON.
    tell : callable, optional
        Called as ``tell(stage, done, total)``.
    weigh : bool, optional
        Measure what was gained too.

    Returns
    -------
    dict
        What `convert` returns, with ``figures``, ``search`` if there was one, and ``gain`` if that
        was asked for; all plain JSON.
        With a report or `weigh`, ``figures`` has under ``resident`` the bytes of the dense and of
        the compressed file that are in memory after 200 tokens sampled from a cold start, or None.

    Raises
    ------
    TinyRWKVError
        The input, a text or an option is wrong. There is no new file at `output` then.
    """
    begin = time.monotonic()
    tell = tell or _tell_nobody
    input, output = os.fsdecode(input), os.fsdecode(output)
    check_arguments(input, output, vocab, "int8", ln_x_eps, template, license, adapter)
    options.check()
    inputs = {"input": input, "vocabulary": vocab, "calibration text": calibrate}
    _check_paths(output, report, {**inputs, **{f"text to judge by {one}": one for one in judge}})
    name = "" if calibrate is None else os.fsdecode(calibrate)
    # Texts are read before minutes of work.
    text = None if calibrate is None else read_text(name)
    lossless = options.lossless and budget is None
    texts = _texts_to_judge(judge, lossless, name, text)

    with folder_beside(output) as folder:
        dense = os.path.join(folder, "dense.trwkv")
        show = partial(tell, "convert")
        about = (vocab, ln_x_eps, template, license)
        keep = None if options.factored else options.int4  # factors are made of int8
        found = convert(input, dense, "int8", *about, progress=show, adapter=adapter, keep=keep)
        with Pipeline(dense, folder, options.seed, tell) as pipeline:
            pipeline.calibrate(name_of(name), text, lossless, texts)
            if budget is not None:
                found["search"] = search.within(pipeline, budget)
            else:
                for stage in pipeline.stages(options):
                    pipeline.apply(stage, options.max_nll_rise)
            pipeline.judge_texts()
            sizes = edit(pipeline.model.file, output, {}, pipeline.metadata)
        if weigh or report is not None:
            gain = {"before": _cost(dense), "after": _cost(output)}
            before, after = (cost["resident_bytes"] for cost in gain.values())
            pipeline.figures["resident"] = {"dense": before, "output": after}
            if weigh:
                found["gain"] = gain

    found |= pipeline.metadata
    found |= {"input": input, "output": output, "tensors": len(sizes)}
    found["file_bytes"] = os.path.getsize(output)
    _count_last_records(pipeline.figures["bytes"], found["file_bytes"])
    found["seconds"] = round(time.monotonic() - begin, 3)
    found |= {"figures": pipeline.figures, "notes": [*found["notes"], *pipeline.notes]}
    if report is not None:
        path = os.fsdecode(report)
        found["report"] = [path, write_report(path, found)]
    return found


def _check_paths(output: str, report: PathLike | None, inputs: dict[str, PathLike | None]) -> None:
    """Refuse to write over an input, or over a file that is no report."""
    outputs: dict[str, str | None] = {"output": output}
    if report is not None:
        outputs |= files_of_report(os.fsdecode(report))
    check_apart(outputs, inputs)
    if report is not None:
        check_report(os.fsdecode(report))


def _count_last_records(by_stage: dict[str, Any], file_bytes: int) -> None:
    """Give the last stage the bytes of the file itself, which records more than that stage did."""
    in_file = list(by_stage.values())[-1]["file"]
    in_file["rest"] += file_bytes - sum(in_file.values())


def _texts_to_judge(
    paths: Sequence[PathLike], lossless: bool, calibrate: str, text: str | None
) -> dict[str, str]:
    """Return the texts to judge by; refuse them if nothing can be lost."""
    if paths and lossless:
        found, expected = "--judge", "an option that loses something"
        sentence = "these options lose nothing, so --judge has nothing to judge"
        raise ArgumentError("arguments", "options", found, expected, "leave it out", sentence)
    return read_texts(paths, calibrate, text or "")


def _cost(path: str) -> dict[str, float | None]:
    """Return what a token of a model costs, with one thread."""
    cost = sample_cold(path)
    return {
        "touched_bytes_per_token": cost.touched,
        "resident_bytes": cost.resident,
        "tokens_per_second": round(cost.tokens_s, 1),
    }


def _tell_nobody(stage: str, done: int, total: int) -> None:
    pass
