"""A firmware with the bundled model, on emulated processors: it computes the same bits."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
from typing import Any

import pytest

from tests.helpers.firmware import TOOLS, Answer, Reference, build, run, sizes_of, why_not
from tests.helpers.places import ROOT
from tinyrwkv import load
from tinyrwkv.chat.chat import Chat
from tinyrwkv.chat.profile import read_profile
from tinyrwkv.loading import BUNDLED
from tinyrwkv.robot.scripts import Scripts

REASON = why_not(*TOOLS)
pytestmark = [pytest.mark.skipif(bool(REASON), reason=REASON), pytest.mark.slow]

COUNT = int(os.environ.get("CI_MCU_COMMANDS", "2"))
FIRST = "please go forward two meters and then turn left"
NO_ORDER = "What do you like to do for fun?"


def commands() -> list[str]:
    """Return what people said to a robot, as many lines as are asked for."""
    text = (ROOT / "tests/data/commands-human.txt").read_text("utf-8")
    found = re.findall(r"^User: (.*)$", text, re.MULTILINE)
    return [FIRST, *found[: COUNT - 1]]


@pytest.fixture(scope="module", params=["mps2-an500", "virt-riscv32"])
def firmware(request: Any, tmp_path_factory: Any) -> list[str]:
    """Return the command that starts a firmware."""
    return build(request.param, BUNDLED, tmp_path_factory.mktemp(request.param))


def folder_of(command: list[str]) -> pathlib.Path:
    return pathlib.Path(command[command.index("-kernel") + 1]).parent


def test_it_answers_as_the_chat_and_computes_the_same_bits(firmware: list[str]) -> None:
    lines = commands()
    status, said = run(firmware, [line.encode() for line in lines])
    assert status == 0 and said[0] == "ready"
    with load(BUNDLED, backend="native") as model:
        reference = Reference(model)
        expected = [reference.answer(line) for line in lines]
        chat = Chat(model, commands=read_profile(BUNDLED).commands)
        orders = 0
        for line, (text, _, _) in zip(lines, expected, strict=True):
            chat.reset()
            told = chat.ask(line).text().strip()
            assert chat.last is not None
            if chat.last.command:
                assert told == text
                orders += 1
    assert orders > 0.8 * len(lines)
    found = [(one.text, one.crc, one.ids) for one in said[1:] if isinstance(one, Answer)]
    assert found == expected
    assert max(one.stack for one in said[1:] if isinstance(one, Answer)) < 8192


def test_it_says_what_the_command_says(firmware: list[str]) -> None:
    chat = [sys.executable, "-m", "tinyrwkv", "chat"]
    told = subprocess.run(chat, input=FIRST + "\n", capture_output=True, text=True, cwd=ROOT)
    _, said = run(firmware, [FIRST.encode()])
    assert isinstance(said[1], Answer) and said[1].text == told.stdout.strip()


def test_the_grammar_allows_scripts_alone(firmware: list[str]) -> None:
    status, said = run(firmware, [b"/script", NO_ORDER.encode(), b"/script", FIRST.encode()])
    assert status == 0 and (said[1], said[3]) == ("scripts only", "any text")
    with load(BUNDLED) as model:
        reference = Reference(model)
        scripts = Scripts().with_any_number()
        expected = [reference.answer(NO_ORDER, scripts), reference.answer(FIRST)]
    answers = [one for one in said if isinstance(one, Answer)]
    assert [(one.text, one.crc, one.ids) for one in answers] == expected
    assert scripts.parse(answers[0].text) is not None


def test_no_line_is_too_much(firmware: list[str]) -> None:
    longest = b"anticlockwise" * 78 + b"turn right"
    assert len(longest) == 1024
    odd = [b"turn \xff\xfe\xc3 left", longest, b"\0\1\2 stop"]
    lines = [b"x" * 10_000, b"", b" \t \r", *odd]
    status, said = run(firmware, lines)
    assert status == 0
    empty = "error: the line is empty; say something"
    assert said[1:4] == ["error: the line has more than 1,024 bytes; say less", empty, empty]
    with load(BUNDLED) as model:
        reference = Reference(model)
        expected = [reference.answer(line.decode("utf-8", "surrogateescape")) for line in odd]
    found = [(one.text, one.crc, one.ids) for one in said[4:] if isinstance(one, Answer)]
    assert found == expected


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (0, "error: there is no .trwkv file"),
        (24, "error: the file is another model"),
        (5_000_000, "error: the file is damaged"),
        (9_360_000, "error: the file is damaged"),  # in the tokenizer
        (None, "error: there is no .trwkv file"),
    ],
)
def test_a_wrong_file_ends_in_a_message(
    firmware: list[str], place: int | None, message: str, tmp_path: pathlib.Path
) -> None:
    data = bytearray((folder_of(firmware) / "model.trwkv").read_bytes())
    if place is None:
        data = bytearray(1 << 20)
    else:
        data[place] ^= 4
    wrong = tmp_path / "wrong.trwkv"
    wrong.write_bytes(data)
    command = [
        part.replace(str(folder_of(firmware) / "model.trwkv"), str(wrong)) for part in firmware
    ]
    status, said = run(command, [b"turn left"])
    assert status == 1 and len(said) == 1
    assert str(said[0]).startswith(message)


def test_it_fits(firmware: list[str]) -> None:
    """Bytes of memory: the map file of the linker counts them."""
    sizes = sizes_of(folder_of(firmware))
    assert sizes[".text"] <= 64_000
    assert sizes[".bss"] <= 2_000_000
    assert not {".data", ".heap"} & set(sizes)
