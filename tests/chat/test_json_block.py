"""Answers that are blocks of JSON: by the API, and by ``tinyrwkv chat --json-schema``."""

from __future__ import annotations

import io
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyrwkv
from tests.helpers.talkers import END, write_talker
from tests.helpers.terminals import run
from tinyrwkv.chat.chat import Chat
from tinyrwkv.chat.json_block import json_block, read_json_block
from tinyrwkv.chat.templates import TEMPLATES, template
from tinyrwkv.cli.console import EventConsole
from tinyrwkv.cli.schema_file import MOST_BYTES, read_schema
from tinyrwkv.errors import FormatError, UnsupportedError

CALL = {
    "type": "object",
    "properties": {
        "name": {"enum": ["turn", "move"]},
        "arguments": {
            "type": "object",
            "properties": {"by": {"type": "integer", "minimum": 0, "maximum": 9}},
            "required": ["by"],
        },
    },
    "required": ["name", "arguments"],
}


@pytest.mark.parametrize("name", sorted({*TEMPLATES} - {"none"}))
def test_any_model_answers_with_a_block(tiny: Callable[..., str], name: str) -> None:
    chat = Chat(tinyrwkv.load(tiny(), backend="numpy"), name, max_thought=4, seed=2)
    answer = chat.ask("go", constraint=json_block(CALL, chat.template))
    text = answer.text()
    assert answer.result.stop_reason == "stop"
    value = read_json_block(text)
    assert value["name"] in ("turn", "move") and 0 <= value["arguments"]["by"] <= 9
    assert chat.transcript[0].answer == text.strip()


def test_a_text_with_a_constraint_is_no_order(tmp_path: pathlib.Path) -> None:
    path = write_talker(tmp_path / "m", (b":", b" move", b"(1)", END), template="robot")
    chat = Chat(tinyrwkv.load(path, backend="numpy"), commands=["move"])
    text = chat.ask("go", constraint=json_block(CALL, chat.template)).text()
    assert read_json_block(text)["name"] and chat.last is not None and not chat.last.command


@given(st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_a_block_is_read(value: Any) -> None:
    assert read_json_block(f" ```json\n{json.dumps(value)}\n```\n") == value


@pytest.mark.parametrize("text", ["", "```json\n{", "{}", "```json\n{\n```", "```json\n```"])
def test_something_else_is_no_block(text: str) -> None:
    with pytest.raises(FormatError, match="not a whole block of JSON"):
        read_json_block(text)


def test_programs_get_the_value(tiny: Callable[..., str]) -> None:
    chat = Chat(tinyrwkv.load(tiny(), backend="numpy"), "think", max_thought=4, seed=2)

    def end_of(most: int) -> Any:
        chat.set("max_tokens", most)
        out = io.StringIO()
        block = json_block(CALL, chat.template)
        EventConsole(chat, io.StringIO("go\n"), out, block).run()
        return [json.loads(line) for line in out.getvalue().splitlines()][-2]

    end = end_of(400)
    assert end["value"] == read_json_block(end["text"]) and end["stop_reason"] == "stop"
    cut = end_of(5)
    assert "value" not in cut and cut["stop_reason"] == "length"


def test_the_command_line(tmp_path: pathlib.Path) -> None:
    (tmp_path / "call.json").write_text(json.dumps(CALL))
    options = ("--json-schema", str(tmp_path / "call.json"), "--temperature", "0")
    done = run("-m", "tinyrwkv", "chat", *options, text="turn left\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert read_json_block(done.stdout)["name"] in ("turn", "move")
    done = run("-m", "tinyrwkv", "chat", "--json-schema", str(tmp_path / "no"), text="a\n")
    assert done.returncode == 1 and "no such file" in done.stderr and not done.stdout


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"{", b"[" * 100_000, b" " * (MOST_BYTES + 1)], ids=range(5)
)
def test_other_files_are_refused(tmp_path: pathlib.Path, data: bytes) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(FormatError, match=r"a (is not JSON|has more than)"):
        read_schema(str(tmp_path / "a"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(FormatError):
            read_schema(str(path))


def test_what_is_not_understood_is_refused() -> None:
    with pytest.raises(UnsupportedError):
        json_block({"type": "string", "contentSchema": {}, "nothing": 1}, template("chat"))
