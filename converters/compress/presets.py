"""Compress a model: a checkpoint or a dense file in, a file that was measured at each step out."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from tinyrwkv.errors import ArgumentError, FormatError

from ..calibrate.calibration import Tell
from ..judge.texts import read_text
from ..report.report import write_report
from ..write.convert import PathLike, check_arguments, convert
from ..write.edit import edit
from . import search
from .pipeline import Options, Pipeline

PRESETS = {
    "exact": Options(sparse_ffn="exact"),
    "lite": Options(
        rank_budget=0.55, sparse_ffn="predict", keep=0.17, head="preview", head_rows=1024, most=0.03
    ),
}


def compress(
    input: PathLike,
    output: PathLike,
    options: Options,
    *,
    budget: int | None = None,
    calibrate: PathLike | None = None,
    vocab: PathLike | None = None,
    ln_x_eps: float | None = None,
    template: str | None = None,
    license: str | None = None,
    report: PathLike | None = None,
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
    budget : int, optional
        Search the options instead: the lowest loss whose bytes in memory stay within this; of `options` only the seed
        counts.
    calibrate : str or path-like, optional
        A text; without one the model samples its own.
    vocab, ln_x_eps, template, license
        As for `convert`.
    report : str or path-like, optional
        Write a page of pictures here, and the numbers as JSON beside it.
    tell : callable, optional
        Called as ``tell(stage, done, total)``.

    Returns
    -------
    dict
        As of `convert`, with ``figures``, and ``search`` where there was one; every value is plain JSON.

    Raises
    ------
    TinyRWKVError
        The input, a text or an option is wrong; nothing is left under the name of the output.
    """
    begin, tell = time.monotonic(), tell or (lambda stage, done, total: None)
    input, output = os.fsdecode(input), os.fsdecode(output)
    check_arguments(input, output, vocab, "int8", ln_x_eps, template, license)
    _check(options)
    if report is not None and not os.path.isdir(os.path.dirname(os.fsdecode(report)) or "."):
        raise ArgumentError(
            "arguments",
            "report",
            os.fsdecode(report),
            "a file in a folder that exists",
            "make it first",
        )
    name = "" if calibrate is None else os.fsdecode(calibrate)
    text = None if calibrate is None else read_text(name)  # before minutes of work
    with _folder_beside(output) as folder:
        dense = os.path.join(folder, "dense.trwkv")
        show = partial(tell, "convert")
        found = convert(input, dense, "int8", vocab, ln_x_eps, template, license, progress=show)
        with Pipeline(dense, folder, options.seed, tell) as pipeline:
            pipeline.calibrate(os.path.basename(name), text, options.lossless and budget is None)
            if budget is not None:
                found["search"] = search.within(pipeline, budget)
            else:
                for stage in pipeline.stages(options):
                    pipeline.apply(stage, options.most)
            sizes = edit(pipeline.model.file, output, {}, pipeline.metadata)
        found |= {**pipeline.metadata, "input": input, "output": output, "tensors": len(sizes)}
        found |= {
            "file_bytes": os.path.getsize(output),
            "seconds": round(time.monotonic() - begin, 3),
        }
        found |= {"figures": pipeline.figures, "notes": [*found["notes"], *pipeline.notes]}
    if report is not None:
        found["report"] = [os.fsdecode(report), write_report(os.fsdecode(report), found)]
    return found


def _check(options: Options) -> None:
    found, predict = None, options.sparse_ffn == "predict"
    if options.low_rank is not None and options.rank_budget is not None:
        found, fix = (
            "--low-rank and --rank-budget",
            "give one of them: the same ranks for all, or ranks by need",
        )
    elif options.rank_budget is not None and not options.rank_budget > 0:
        found, fix = (
            f"a rank budget of {options.rank_budget}",
            "give bytes, such as 4MB, or a share, such as 70%",
        )
    elif (options.keep, options.recall, options.mlp) != (None, None, None) and not predict:
        found, fix = "--keep, --recall or --mlp alone", "add --sparse-ffn predict"
    elif options.keep is not None and options.recall is not None:
        found, fix = "--keep and --recall", "give one of them"
    elif options.head_rows is not None and options.head is None:
        found, fix = "--head-rows alone", "add --head preview"
    elif options.whiten and not options.whitened:
        found, fix = "--whiten alone", "add --low-rank 4 or --rank-budget 70%"
    if found is not None:
        raise ArgumentError("arguments", "options", found, "options that go together", fix)


@contextlib.contextmanager
def _folder_beside(output: str) -> Iterator[str]:
    """Give a new folder beside a file; it is removed at the end."""
    folder = f"{output}.tmp-{secrets.token_hex(4)}"
    try:  # from before it is there: a signal may come between any two steps
        _make_folder(folder, output)
        yield folder
    finally:
        if os.path.isdir(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _make_folder(folder: str, output: str) -> None:
    try:
        os.mkdir(folder, 0o700)
    except (OSError, ValueError) as error:
        found = getattr(error, "strerror", None) or str(error)
        fix = "check the path, permissions and free space"
        raise FormatError(output, "file", found, "a file to write", fix) from None
