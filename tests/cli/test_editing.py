"""Typing in a chat: pasted texts, blocks of lines, and completion."""

from __future__ import annotations

import json
import pathlib

import pytest

from tests.helpers.talkers import write_talker
from tests.helpers.terminals import Terminal
from tinyrwkv.cli.editing import paths
from tinyrwkv.file.mapped import open_file

PLAIN = """
import sys
sys.modules["readline"] = None
from tinyrwkv.cli.cli import main
sys.exit(main(sys.argv[1:]))
"""
"""A chat on a Python without readline."""


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a model that says "so on and on"."""
    return write_talker(tmp_path_factory.mktemp("talker") / "m.trwkv", [b":", b" so", b" on"])


def chat(path: str, *more: str) -> Terminal:
    """Return a chat in a terminal, at its first prompt, with its transcript on disk at the end."""
    terminal = Terminal(*(more or ("-m", "tinyrwkv")), "chat", path, "-n", "2", columns=80)
    terminal.wait_for("\n> ")
    return terminal


def asked(terminal: Terminal, folder: pathlib.Path) -> list[str]:
    """Save the conversation; return what was asked."""
    terminal.type(f"/save {folder}/talk.state\n")
    terminal.wait_for("Saved after")
    terminal.wait_for("\n> ")
    terminal.type("/exit\n")
    assert terminal.status() == 0
    with open_file(folder / "talk.state") as file:
        return [one[0] for one in json.loads(file["transcript"].tobytes())]


@pytest.mark.parametrize("more", [(), ("-c", PLAIN)], ids=["readline", "plain"])
def test_a_pasted_text_is_one_question(
    talker: str, tmp_path: pathlib.Path, more: tuple[str, ...]
) -> None:
    text = "one\ntwo\n\nthree"
    with chat(talker, *more) as terminal:
        terminal.type(f"\x1b[200~{text}\x1b[201~\n" if not more else f"{text}\n")
        terminal.wait_for("tok/s")
        terminal.wait_for("\n> ")
        terminal.type("four\n")
        terminal.wait_for("tok/s")
        terminal.wait_for("\n> ")
        assert asked(terminal, tmp_path) == [text, "four"]


@pytest.mark.parametrize("more", [(), ("-c", PLAIN)], ids=["readline", "plain"])
def test_a_block_is_one_question(
    talker: str, tmp_path: pathlib.Path, more: tuple[str, ...]
) -> None:
    with chat(talker, *more) as terminal:
        for line, prompt in (('"""one', "... "), ("/two", "... "), ('three"""', "tok/s")):
            terminal.type(f"{line}\n")
            terminal.wait_for(prompt)
        terminal.wait_for("\n> ")
        terminal.type('"""/four"""\n')
        terminal.wait_for("tok/s")
        terminal.wait_for("\n> ")
        assert asked(terminal, tmp_path) == ["one\n/two\nthree", " /four"]


def test_lines_that_were_typed_ahead_are_questions_of_their_own(
    talker: str, tmp_path: pathlib.Path
) -> None:
    with chat(talker) as terminal:
        terminal.type("one\ntwo\n")
        for _ in range(2):
            terminal.wait_for("tok/s")
        terminal.wait_for("\n> ")
        assert asked(terminal, tmp_path) == ["one", "two"]


def test_the_key_of_completion(talker: str) -> None:
    pytest.importorskip("readline", reason="this Python has no readline")
    with chat(talker) as terminal:
        for typed, said in (
            ("/mem\t\n", "in the page cache"),
            ("/set max_to\t3\n", "max_tokens is 3 now."),
            ("/load pyproject.to\t\n", "pyproject.toml"),
            ("/load no\t\n", "no such file: no;"),
        ):
            terminal.type(typed)
            terminal.wait_for(said)
            terminal.wait_for("\n> ")
        terminal.type("/ex\t\n")
        assert terminal.status() == 0


def test_paths_are_completed(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "b.state").touch()
    (tmp_path / "a b").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "one"))
    assert paths("") == paths("o") == ["a b", "one/"]
    assert paths("one/") == paths("one/b") == ["one/b.state"]
    assert paths(f"{tmp_path}/o") == [f"{tmp_path}/a b", f"{tmp_path}/one/"]
    assert paths("nowhere/") == []
    assert paths("~/") == ["~/b.state"]


def test_ctrl_c_drops_what_was_typed_and_leaves_only_an_empty_prompt(
    talker: str, tmp_path: pathlib.Path
) -> None:
    with chat(talker) as terminal:
        terminal.press_ctrl_c()
        terminal.wait_for("once more to leave")
        terminal.wait_for("\n> ")
        terminal.type("half a line")
        terminal.wait_for("half a line")
        terminal.press_ctrl_c()
        terminal.wait_for("\n> ")
        terminal.type('"""\nhalf a block\n')
        terminal.wait_for("... half a block")
        terminal.wait_for("\n... ")
        terminal.press_ctrl_c()
        terminal.wait_for("\n> ")
        terminal.type("whole\n")
        terminal.wait_for("tok/s")
        terminal.wait_for("\n> ")
        assert asked(terminal, tmp_path) == ["whole"]
