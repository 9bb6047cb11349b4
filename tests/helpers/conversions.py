"""Conversions on the command line, of a checkpoint that the fixture `files` writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from converters import cli
from tests.helpers.checkpoints import raw_checkpoint
from tests.helpers.pth_writer import write_pth
from tests.helpers.tiny_models import VOCABULARY

SIZES = {"n_layer": 2, "n_embd": 64, "head_size": 16, "vocab_size": 300}
TEXT = "\n<|doc|>\n".join(f"User: the cat {i} ran.\n\nabc " * 40 for i in range(12))

Files = dict[str, str]
MakeFiles = Callable[..., Files]


def write_files(folder: Path, version: str = "v5.2", **sizes: int) -> Files:
    """Write a checkpoint, a vocabulary and a text; return their paths and that of an output.

    `sizes` change those of `SIZES`.
    """
    write_pth(folder / "model.pth", raw_checkpoint(version, **{**SIZES, **sizes}))
    lines = (f"{id} {word!r} {len(word)}\n" for id, word in sorted(VOCABULARY.items()))
    (folder / "vocab.txt").write_text("".join(lines))
    (folder / "text.txt").write_text(TEXT)
    names = ("model.pth", "vocab.txt", "text.txt", "out.trwkv")
    return {name: str(folder / name) for name in names}


def run(files: Files, *options: str, calibrate: bool = True) -> int:
    """Convert from the command line, which prints its report as JSON; return the exit status."""
    arguments = [files["model.pth"], files["out.trwkv"]]
    arguments += ["--vocab", files["vocab.txt"], "--json", *options]
    arguments += ["--calibrate", files["text.txt"]] if calibrate else []
    return cli.main(arguments)
