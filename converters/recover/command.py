"""The command ``tinyrwkv-convert recover``."""

from __future__ import annotations

import argparse
import functools
import io
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from tinyrwkv.cli import exits
from tinyrwkv.cli.parser import Parser
from tinyrwkv.cli.terminal import Progress
from tinyrwkv.errors import ArgumentError, UnsupportedError
from tinyrwkv.file.apart import check_apart
from tinyrwkv.file.output import Kind, check_output

from ..arguments import count, seed, share
from ..judge.texts import read_text
from ..write.vocab import find_world
from . import trained
from .base import Base, read_base
from .body import VALUES
from .settings import Settings
from .write_checkpoint import CHECKPOINT, write_checkpoint

NAME = "tinyrwkv-convert recover"

_NOTES = """\
examples:
  tinyrwkv-convert recover rwkv.pth better.safetensors --vocab world --calibrate book.txt \\
    --minutes 30
      Then convert better.safetensors like any checkpoint, with --dtype int4 or --preset lite:
      its weights are values of int4 already, and these are kept.
  tinyrwkv-convert recover rwkv.pth better.levels --vocab world --calibrate book.txt --device cuda
      Write only what training changes, a file of half a byte for each weight of the body. So a
      machine with a GPU may train, and another one converts:
  tinyrwkv-convert recover rwkv.pth better.safetensors --from better.levels
      Join the two. This does not need PyTorch.

The student is the checkpoint with the matrices of its blocks in int4. It is trained to predict what
the checkpoint predicts, on the text and on what the checkpoint writes itself. Embedding and head
stay as they are. A training that was interrupted goes on when the same command is given again: it
is kept beside OUT, with .training at the end of its name.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments after ``recover``; those of the process by default.

    Returns
    -------
    int
        0; 1 after an error; 130 after Ctrl-C; 141 if nobody reads the output. A mistake in the
        arguments ends the process with 2.
    """
    told = "interrupted; give the same command to go on from the last minute"
    return exits.run(NAME, functools.partial(_run, argv), told)


def parser() -> Parser:
    """Return the parser of the arguments."""
    made = Parser(
        prog=NAME,
        description="Train the int4 form of a checkpoint to predict what the checkpoint does.",
        epilog=_NOTES,
    )
    add, default = made.add_argument, Settings()
    add("base", metavar="BASE", help="checkpoint of RWKV-5.2, 6 or 7, as tinyrwkv-convert reads")
    add("output", metavar="OUT", help="file to write: .safetensors, or .levels for the changes")
    add("--from", dest="levels", metavar="FILE", help="do not train: take the changes of a .levels")
    add("--vocab", metavar="FILE", help="vocabulary of the text; 'world' finds World models' one")
    add("--calibrate", metavar="FILE", help="text to train on, beside samples of the checkpoint")
    add(
        "--minutes",
        type=float,
        default=default.minutes,
        metavar="N",
        help="how long to train, beside sampling and judging (default: %(default)g)",
    )
    add("--start", metavar="MODEL", help="begin with the levels of a .trwkv in int4 or lite")
    add("--steps", type=count, metavar="N", help="end after N steps, if that is sooner")
    add(
        "--device",
        choices=("cuda", "cpu"),
        help="where to train (default: a GPU if there is one)",
    )
    add("--batch", type=count, metavar="N", help="windows a step (default: 16 on a GPU, else 2)")
    add(
        "--samples",
        type=int,
        metavar="N",
        help="windows of 512 tokens that the checkpoint writes (default: 8192 on a GPU, else 64)",
    )
    add(
        "--values",
        choices=VALUES,
        default=default.values,
        help="groups of the channel mixes' values: of neurons, for sparse channel mixes, or of "
        "rows (default: %(default)s)",
    )
    add(
        "--keep",
        type=share,
        default=default.keep,
        metavar="X",
        help="let only the share X of the neurons count, those that predictors choose for a token",
    )
    _add_rates(made, default)
    add("--seed", type=seed, default=default.seed, metavar="N", help="seed (default: 0)")
    add("--ln-x-eps", type=float, metavar="X", help="epsilon of the group norm (default: 64e-5)")
    add("--quiet", action="store_true", help="show no progress and no summary")
    add("--json", action="store_true", help="print the report as JSON")
    return made


def _add_rates(made: argparse.ArgumentParser, default: Settings) -> None:
    """Add the learning rates and weights of the loss."""
    helps = {
        "rounding": "learning rate of the weights, in steps of their scales",
        "scales": "learning rate of the logarithms of the scales",
        "vectors": "learning rate of norms, mixes and biases",
        "hidden": "weight of the residual streams in the loss",
        "rare": "weight in the loss of the errors of all log probabilities",
    }
    for name, text in helps.items():
        value = getattr(default, name)
        made.add_argument(
            f"--{name}", type=float, default=value, metavar="X", help=f"{text} (default: {value:g})"
        )


def _run(argv: Sequence[str] | None) -> int:
    arguments = parser().parse_args(argv)
    kind = _kind(arguments)
    inputs = {
        "checkpoint": arguments.base,
        "vocabulary": arguments.vocab,
        "calibration text": arguments.calibrate,
        "levels": arguments.levels,
        "model to begin with": arguments.start,
    }
    unfinished = f"{arguments.output}.training"
    check_apart({"output": arguments.output, "unfinished training": unfinished}, inputs)
    check_output(arguments.output, kind)
    settings = Settings(*(getattr(arguments, name) for name in Settings._fields))
    settings.check()
    text = None if arguments.calibrate is None else read_text(arguments.calibrate)
    base = read_base(arguments.base, arguments.ln_x_eps)
    if arguments.levels is not None:
        found = trained.load(arguments.levels, base)
    else:
        found = _train(arguments, base, settings, text, unfinished)
    size = _write(arguments.output, kind, base, found)
    report = {"output": arguments.output, "file_bytes": size, **found.about}
    if arguments.json:
        print(json.dumps(report, indent=1))
    elif not arguments.quiet:
        print(_summary(report))
    return 0


def _kind(arguments: argparse.Namespace) -> Kind:
    """Return what OUT will be, by the end of its name."""
    name = arguments.output.lower()
    if name.endswith(".safetensors"):
        return CHECKPOINT
    if name.endswith(".levels") and arguments.levels is None:
        return trained.LEVELS
    expected = ".safetensors" if arguments.levels else ".safetensors or .levels"
    found = os.path.splitext(arguments.output)[1] or "nothing"
    sentence = f"OUT ends in {found}, but must end in {expected}"
    fix = f"choose a name that ends in {expected}"
    raise ArgumentError("arguments", "OUT", found, expected, fix, sentence)


def _train(
    arguments: argparse.Namespace,
    base: Base,
    settings: Settings,
    text: str | None,
    unfinished: str,
) -> trained.Trained:
    try:
        import torch

        from .recover import recover
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "torch":
            raise
        sentence = "recover needs PyTorch, which is not installed"
        fix = "install it: pip install torch, or the extra train of tinyrwkv"
        raise UnsupportedError(NAME, "PyTorch", "nothing", "torch", fix, sentence) from None
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    vocab = find_world(arguments.base) if arguments.vocab == "world" else arguments.vocab
    with Progress("", io.StringIO() if arguments.quiet else sys.stderr) as bar:

        def tell(stage: str, done: int, total: int) -> None:
            bar.label = f"{stage:<16}"
            bar(done, total)

        return recover(
            base,
            settings,
            text=text,
            vocab=vocab,
            device=device,
            start=arguments.start,
            unfinished_path=unfinished,
            tell=tell,
        )


def _write(path: str, kind: Kind, base: Base, found: trained.Trained) -> int:
    """Write OUT; return its bytes."""
    if kind is trained.LEVELS:
        trained.save(path, found)
        return os.path.getsize(path)
    values = found.about["values"]
    return write_checkpoint(path, found.tensors(base), {"base": base.sha256, "values": values})


def _summary(report: dict[str, Any]) -> str:
    told = report["report"]
    original = told["nll_teacher"]
    return (
        f"{report['output']}: {report['file_bytes'] / 1e6:.1f} MB; "
        f"{told['steps']} steps of {told['tokens'] // max(1, told['steps'])} tokens, "
        f"{told['seconds']:.0f} s on {told['device']}\n"
        f"  nll on {told['held_out_tokens']} tokens held out: checkpoint {original:.4f}, "
        f"rounded {told['nll_before'] - original:+.4f}, "
        f"trained {told['nll_after'] - original:+.4f}\n"
        f"  KL divergence from the checkpoint: {told['kl_before']:.4f}, then {told['kl_after']:.4f}"
    )
