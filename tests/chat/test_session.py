"""Conversations in files, and going on from them in another run."""

from __future__ import annotations

import json
import pathlib
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyrwkv
from tests.helpers.talkers import CAFE, LOOP, write_talker
from tests.helpers.terminals import Terminal
from tinyrwkv.chat import session
from tinyrwkv.chat.chat import Chat
from tinyrwkv.errors import ArgumentError, FormatError
from tinyrwkv.file.verify import open_verified
from tinyrwkv.file.writer import Writer

EXAMPLE = "examples/chat.py"

said = st.builds(session.Said, st.text(), st.text(), st.booleans())


@pytest.fixture(scope="module")
def cafe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a model that tells a price."""
    return write_talker(tmp_path_factory.mktemp("talker") / "m.trwkv", CAFE, template="robot")


def test_what_was_said_comes_back(tiny: Callable[..., str], tmp_path: pathlib.Path) -> None:
    model, path = tinyrwkv.load(tiny(), backend="numpy"), tmp_path / "file"
    state = model.forward([0, 5, 6], logits=None)[1]

    @settings(max_examples=30)
    @given(transcript=st.lists(said, max_size=5))
    def comes_back(transcript: list[session.Said]) -> None:
        session.save(path, state, transcript, "f32")
        again, told = session.load(path, model)
        assert (
            told == transcript
            and again.data.tobytes() == state.data.tobytes()
            and again.tokens == 3
        )

    comes_back()
    assert tinyrwkv.State.load(path, model).data.tobytes() == state.data.tobytes()
    with open_verified(path) as file:
        assert set(file.tensors) == {"state", "transcript"}


@pytest.mark.parametrize(("arch", "smallest"), [("v4", "f32"), ("v7", "int8")])
@pytest.mark.parametrize("wanted", [None, "f32"])
def test_a_conversation_has_the_smallest_type_or_the_one_that_is_wanted(
    tiny: Callable[..., str], tmp_path: pathlib.Path, arch: str, smallest: str, wanted: str | None
) -> None:
    chat = Chat(tinyrwkv.load(tiny(arch), backend="numpy"), "robot", state_dtype=wanted)
    list(chat.ask("Hello"))
    chat.save(tmp_path / "saved")
    kept = chat.keep(str(tmp_path / "kept"))
    chat.state.save(tmp_path / "alone", wanted or smallest)
    with open_verified(tmp_path / "alone") as file:
        expected = file["state"].copy()
    for path in (tmp_path / "saved", kept):
        with open_verified(path) as file:
            assert file["state"].dtype == expected.dtype
            assert file["state"].tobytes() == expected.tobytes()


def test_the_file_of_a_state_alone_will_do(
    tiny: Callable[..., str], tmp_path: pathlib.Path
) -> None:
    model = tinyrwkv.load(tiny(), backend="numpy")
    model.forward([0, 5])[1].save(tmp_path / "state")
    state, told = session.load(tmp_path / "state", model)
    assert state.tokens == 2 and told == []


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b"{}x",
        b"5",
        b'["ab"]',
        b'[["a", "b"]]',
        b'[["a", "b", 1]]',
        b'[[1, "b", true]]',
        b"[" * 9999,
    ],
)
def test_other_transcripts_are_refused(
    text: bytes, tiny: Callable[..., str], tmp_path: pathlib.Path
) -> None:
    model, path = tinyrwkv.load(tiny(), backend="numpy"), tmp_path / "file"
    state = model.new_state()
    with Writer(path, {"kind": "state", "tokens": 0, **state.origin}) as writer:
        writer.add("state", state.data)
        writer.add("transcript", np.frombuffer(text or b" ", np.uint8))
    with pytest.raises(FormatError, match="transcript"):
        session.load(path, model)


def test_a_chat_goes_on_with_what_was_said(cafe: str, tmp_path: pathlib.Path) -> None:
    chat, other = (Chat(tinyrwkv.load(cafe, backend="numpy")) for _ in range(2))
    for text in ("price?", "and now?", "still?"):
        list(chat.ask(text))
    chat.undo()
    assert chat.transcript == [
        ("price?", "café costs €5", False),
        ("and now?", "café costs €5", False),
    ]
    chat.save(tmp_path / "file")
    other.load(tmp_path / "file")
    assert other.transcript == chat.transcript and other.turns == 2
    assert other.undo() is None and other.transcript == chat.transcript
    list(other.ask("again?"))
    assert len(other.transcript) == 3
    other.reset()
    assert other.transcript == []
    chat.ask("never answered").cancel()
    assert len(chat.transcript) == 2


def test_a_conversation_is_resumed_and_saved_again(
    cafe: str, piped: Callable[..., Any], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "kept"))
    model = tinyrwkv.load(cafe, backend="numpy")
    for file in ([str(tmp_path / "talk")], []):
        where = (
            pathlib.Path(*file)
            if file
            else tmp_path / "kept" / "tinyrwkv" / f"{model.hash[:16]}.state"
        )
        counts = []
        for _ in range(2):
            assert piped("price?\n", cafe, "--resume", *file) == (0, "café costs €5\n", "")
            state, told = session.load(where, model)
            counts.append((len(told), state.tokens))
        assert [count for count, _ in counts] == [1, 2] and counts[1][1] > counts[0][1]


def test_nothing_is_written_if_nothing_was_said(
    cafe: str, piped: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    path = str(tmp_path / "talk")
    assert piped("\n/stats\n", cafe, "--resume", path)[0] == 0
    assert not (tmp_path / "talk").exists()
    piped("price?\n", cafe, "--resume", path)
    piped("/reset\n", cafe, "--resume", path)  # what was forgotten does not come back
    assert session.load(path, tinyrwkv.load(cafe, backend="numpy"))[1] == []


def test_an_error_saves_what_was_said_before_it(
    cafe: str, piped: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    assert piped("price?\n/nothing\n", cafe, "--resume", str(tmp_path / "talk"))[0] == 1
    assert len(session.load(tmp_path / "talk", tinyrwkv.load(cafe, backend="numpy"))[1]) == 1


@pytest.mark.parametrize("option", ["--resume", "--load"])
def test_a_system_text_that_does_not_count_is_told(
    cafe: str, piped: Callable[..., Any], tmp_path: pathlib.Path, option: str
) -> None:
    path = str(tmp_path / "talk")
    system = ["--system", "Be brief.", "--no-cache"]
    assert piped("price?\n", cafe, "--resume", path, *system)[2] == ""
    notes = piped("price?\n", cafe, option, path, *system)[2]
    said = f"{path} continues a conversation, so --system is not read before the next /reset"
    assert notes == f"tinyrwkv: {said}\n"


def test_what_cannot_be_resumed_is_left_alone(
    cafe: str, piped: Callable[..., Any], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = pathlib.Path(cafe).read_bytes()
    status, out, notes = piped("price?\n", cafe, "--resume", cafe)
    assert (status, out) == (1, "") and "is a model, not a state" in notes
    assert pathlib.Path(cafe).read_bytes() == before
    assert "no folder" in piped("price?\n", cafe, "--resume", str(tmp_path / "no" / "folder"))[2]
    monkeypatch.setattr("tinyrwkv.cli.commands.chat.state_folder", lambda: None)
    assert "--resume FILE" in piped("price?\n", cafe, "--resume")[2]
    with pytest.raises(SystemExit):
        piped("", cafe, "--resume", "a", "--load", "b")


def test_a_terminal_shows_what_was_said(
    cafe: str, piped: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    path = str(tmp_path / "talk")
    piped("one?\ntwo?\nthree?\nfour?\n", cafe, "--resume", path)
    with Terminal(EXAMPLE, cafe, "--resume", path) as terminal:
        banner = terminal.wait_for("\n> ")
        while "four?" not in banner:  # the earlier questions have prompts of their own
            banner += terminal.wait_for("\n> ")
        assert "two?" in banner and "one?" not in banner
        terminal.type("five?\n")
        terminal.wait_for("€5")
        terminal.type("/quit\n")
        assert terminal.status() == 0
    assert len(session.load(path, tinyrwkv.load(cafe, backend="numpy"))[1]) == 5


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no terminal hangs up here")
def test_a_closed_window_saves_too(tmp_path: pathlib.Path) -> None:
    model, path = write_talker(tmp_path / "m.trwkv", LOOP, template="robot"), tmp_path / "talk"
    with Terminal(EXAMPLE, model, "-n", "1000000000", "--resume", str(path)) as terminal:
        terminal.wait_for("\n> ")
        terminal.type("go\n")
        terminal.wait_for("so on and so on")
        terminal.process.send_signal(signal.SIGHUP)
        assert terminal.status() == 128 + signal.SIGHUP
    ((question, answer, command),) = session.load(path, tinyrwkv.load(model, backend="numpy"))[1]
    assert question == "go" and answer.startswith("so on and so on") and not command


def test_saving_over_something_else_is_refused(
    tiny: Callable[..., str], tmp_path: pathlib.Path
) -> None:
    state: Any = tinyrwkv.load(tiny(), backend="numpy").new_state()
    (tmp_path / "letter").write_text(json.dumps("dear"))
    with pytest.raises(ArgumentError, match="not a state") as caught:
        session.save(tmp_path / "letter", state)
    assert caught.value.found == "something else"
    assert (tmp_path / "letter").read_text() == '"dear"'
