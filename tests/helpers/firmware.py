"""Firmwares of examples/microcontroller: built, run in QEMU, and compared with this machine."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import zlib
from typing import NamedTuple

import numpy as np

from tests.helpers.places import ROOT
from tinyrwkv.chat.profile import read_profile
from tinyrwkv.chat.templates import template
from tinyrwkv.constraints.constraint import Constraint
from tinyrwkv.model import Model

FOLDER = ROOT / "examples" / "microcontroller"
PACKAGES = ("numba", "llvmlite", "ziglang")
TOOLS = ("qemu-system-arm", "qemu-system-riscv32")
END = b"\x04"


def why_not(*tools: str) -> str:
    """Return why no firmware can be built or run here; fail where CI asks for it."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    reason = f"no {missing[0]}: pip install '.[native]'" if missing else ""
    absent = [tool for tool in tools if shutil.which(tool) is None]
    if absent and not reason:
        reason = f"no {absent[0]}: apt install qemu-system-arm qemu-system-misc"
    if reason and os.environ.get("CI_MCU") == "required":
        raise RuntimeError(reason)
    return reason


def build(board: str, model: str, folder: pathlib.Path) -> list[str]:
    """Build a firmware that tells what it computes; return the command that starts it."""
    sys.path.insert(0, str(FOLDER))
    try:
        import build as builder
    finally:
        sys.path.remove(str(FOLDER))
    return list(builder.build(board, model, folder, trace=True))


class Answer(NamedTuple):
    """What a firmware said to a line, and what it computed.

    Attributes
    ----------
    text : str
    crc : int
        The CRC-32 of all logits since the firmware started.
    stack : int
        Bytes of the stack that were used since then.
    prompt, token : int
        Ticks of the board's clock for the prompt, and for the last token.
    ids : list of int
        The tokens, with that of the end.
    """

    text: str
    crc: int
    stack: int
    prompt: int
    token: int
    ids: list[int]


def run(command: list[str], lines: list[bytes], *options: str) -> tuple[int, list[Answer | str]]:
    """Send lines to a firmware; return its exit status, and what it said line by line."""
    at = command.index("-nographic")
    plain = ("-display", "none", "-monitor", "none", "-serial", "stdio")
    full = [*command[:at], *plain, *command[at + 1 :], *options]
    sent = b"".join(line + b"\n" for line in lines) + END
    done = subprocess.run(full, input=sent, capture_output=True, timeout=600)
    assert done.stderr == b"", done.stderr
    said: list[Answer | str] = []
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        if line.startswith("# logits "):
            text = said.pop()
            assert isinstance(text, str)
            words = line.split()
            numbers = [int(words[i], 16) for i in (2, 4, 6, 8)]
            said.append(Answer(text, *numbers, [int(word, 16) for word in words[10:]]))
        else:
            said.append(line)
    return done.returncode, said


def sizes_of(folder: pathlib.Path) -> dict[str, int]:
    """Return the bytes of each section of a firmware, as the map file of the linker has them."""
    rows = [line.split() for line in (folder / "firmware.map").read_text().splitlines()]
    return {row[4]: int(row[2], 16) for row in rows if len(row) == 5 and row[4].startswith(".")}


class Reference:
    """What the native backend computes for the same lines, one after the other."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.template = template(model.config.get("template") or "chat")
        self.most = read_profile(model.path).settings.get("max_tokens", 400)
        self.crc = 0

    def answer(self, line: str, constraint: Constraint | None = None) -> tuple[str, int, list[int]]:
        """Return the text, the CRC-32 of all logits so far, and the tokens."""
        model, walk = self.model, constraint and constraint.start(self.model)
        ids = [0, *model.tokenizer.encode(self.template.prompt(line))]
        logits, state = model.forward(ids, model.new_state())
        tokens: list[int] = []
        text = b""
        stop = self.template.stop[0].encode()
        while len(tokens) < self.most:
            self.crc = zlib.crc32(logits.astype("<f4").tobytes(), self.crc)
            row = np.array(logits)
            if walk is not None:
                walk.mask(row)
            tokens.append(int(np.argmax(row)))
            text += model.tokenizer.token_bytes(tokens[-1])
            if tokens[-1] == 0 or stop in text:
                break
            if walk is not None:
                walk.advance(tokens[-1])
            logits, state = model.forward(tokens[-1], state)
        return text.split(stop)[0].decode("utf-8", "replace").strip(), self.crc, tokens
