"""docs/errors.md: its table is what the commands say about the mistakes of a newcomer."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import re
from collections.abc import Callable

import numpy as np
import pytest

import converters.cli
from tests.helpers.checkpoint_files import gguf, safetensors
from tests.helpers.checkpoints import raw_checkpoint
from tests.helpers.dialects import to_gguf
from tests.helpers.places import ROOT
from tests.helpers.pth_writer import write_pth
from tests.helpers.talkers import LOOP, write_talker
from tests.helpers.terminals import run
from tests.helpers.vocabularies import single_bytes
from tinyrwkv.cli.cli import main

PAGE = ROOT / "docs" / "errors.md"
BEGIN, END = "<!-- mistakes -->\n", "<!-- end -->\n"

MISTAKES = (
    ("the name is wrong", "tinyrwkv chat my-model.trwkv"),
    ("a folder in place of a file", "tinyrwkv chat models"),
    ("a folder from a hub", "tinyrwkv chat rwkv7-world"),
    ("a file of llama.cpp, not converted", "tinyrwkv chat rwkv7-Q4_K_M.gguf"),
    ("a checkpoint, not converted", "tinyrwkv chat rwkv7.pth"),
    ("a model that is no RWKV, .gguf", "tinyrwkv-convert llama.gguf model.trwkv"),
    ("a model that is no RWKV, .pth", "tinyrwkv-convert llama.pth model.trwkv"),
    ("a type of llama.cpp", "tinyrwkv-convert rwkv7.pth model.trwkv --dtype Q4_K"),
    ("a vocabulary of another model", "tinyrwkv-convert rwkv7.pth model.trwkv --vocab other.txt"),
    ("an unknown option", "tinyrwkv chat --temprature 0"),
    ("the folder of the output is missing", "tinyrwkv-convert rwkv7.pth out/model.trwkv"),
    ("a state of another model", "tinyrwkv chat model.trwkv --load other.state"),
)
"""What a newcomer does, with files that `folder` makes."""

MISSING = (
    ("NumPy is missing", "python3 -m tinyrwkv chat", "numpy"),
    ("Numba is missing", "python3 -m tinyrwkv bench --backend numba", "numba"),
    ("ROS 2 is missing", "python3 examples/ros2_node.py", "rclpy"),
    ("matplotlib is missing", "python3 docs/lessons/2_int8.py", "matplotlib"),
    ("paho-mqtt is missing", "python3 examples/mqtt_bridge.py", "paho"),
)
"""The same for packages: the last word is the one that is not there."""

HASHES = ("2aef07d49170", "f1c2798f4b9e")
"""What stands for the hashes of two models."""

BLOCK = "import os, sys\nsys.modules[os.environ['MISSING']] = None\n"
"""A start of Python without a package."""


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Go to a folder with the files of `MISTAKES`."""
    monkeypatch.chdir(tmp_path)
    raw = raw_checkpoint("v7", n_layer=1, n_embd=32, head_size=8, vocab_size=1024)
    for name in ("models", "rwkv7-world"):
        (tmp_path / name).mkdir()
    (tmp_path / "rwkv7-world" / "config.json").write_text(json.dumps({"model_type": "rwkv7"}))
    (tmp_path / "rwkv7-world" / "model.safetensors").write_bytes(safetensors(raw))
    (tmp_path / "rwkv7-Q4_K_M.gguf").write_bytes(gguf(*to_gguf(raw, "v7")))
    llama = {"blk.0.attn_q.weight": np.zeros((8, 8), np.float32)}
    (tmp_path / "llama.gguf").write_bytes(gguf(llama, {"general.architecture": "llama"}))
    write_pth(tmp_path / "rwkv7.pth", raw)
    write_pth(
        tmp_path / "llama.pth", {"layers.0.attention.wq.weight": np.zeros((8, 8), np.float32)}
    )
    lines = (f"{id} {word!r} {len(word)}\n" for id, word in single_bytes().items())
    (tmp_path / "other.txt").write_text("".join(lines))
    import tinyrwkv

    for name in ("model", "other"):
        write_talker(tmp_path / f"{name}.trwkv", LOOP, source={"name": name, "sha256": "0" * 64})
    with tinyrwkv.load(tmp_path / "other.trwkv", backend="numpy") as model:
        model.new_state().save(tmp_path / "other.state")
    return tmp_path


def said(command: str) -> str:
    """Return what a command says about a mistake, without its name and its usage."""
    name, *arguments = command.split()
    command_line: Callable[[list[str]], int] = {
        "tinyrwkv": main,
        "tinyrwkv-convert": converters.cli.main,
    }[name]
    notes = io.StringIO()
    with contextlib.redirect_stderr(notes), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = command_line(arguments)
        except SystemExit as ended:
            status = ended.code
    assert status in (1, 2)
    text = re.sub(r"^tinyrwkv[a-z -]*: (error: )?", "", notes.getvalue().splitlines()[-1])
    hashes = iter(HASHES)  # those of the files here would be others with another version of NumPy
    return re.sub(r"\b[0-9a-f]{12}\b", lambda found: next(hashes), text)


def said_without(command: str, package: str, place: pathlib.Path) -> str:
    """Return what a command says if a package is missing."""
    (place / "sitecustomize.py").write_text(BLOCK)
    paths = os.pathsep.join((str(place), str(ROOT)))
    done = run(*command.split()[1:], MISSING=package, PYTHONPATH=paths)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done
    return re.sub(r"^tinyrwkv: ", "", done.stderr.rstrip("\n"))


def test_the_table_is_what_the_commands_say(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rows = [(what, command, said(command)) for what, command in MISTAKES]
    (folder / "start").mkdir()
    rows += [
        (what, command, said_without(command, package, folder / "start"))
        for what, command, package in MISSING
    ]
    table = "| what happened | for instance | what is said |\n|---|---|---|\n"
    table += "".join(f"| {what} | `{command}` | {text} |\n" for what, command, text in rows)
    print(table)
    page = PAGE.read_text("utf-8")
    written = page[page.index(BEGIN) + len(BEGIN) : page.index(END)]
    assert written == table, "this is the table; put it into docs/errors.md"


def test_every_sentence_has_a_fix() -> None:
    page = PAGE.read_text("utf-8")
    rows = page[page.index(BEGIN) : page.index(END)].splitlines()[3:]
    assert len(rows) == len(MISTAKES) + len(MISSING)
    for row in rows:
        text = row.split(" | ")[2]
        assert "; " in text or ": " in text, text
