"""Conversations, kept states and profiles on a disk that fails, and two chats with one file."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import Any

import pytest

import tinyrwkv
from tests.helpers import faults
from tests.helpers.talkers import CAFE, write_talker
from tinyrwkv.chat import session
from tinyrwkv.chat.chat import Chat
from tinyrwkv.chat.profile import Profile, read_profile
from tinyrwkv.chat.prompt_cache import PromptCache
from tinyrwkv.cli.cli import main
from tinyrwkv.cli.console import Console
from tinyrwkv.errors import ArgumentError, FormatError, TinyRWKVError
from tinyrwkv.file.output import STATE, new_file, temporary_name

linux = pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs Linux")
said = [session.Said("price?", "five")]


@pytest.fixture
def model(tiny: Callable[..., str]) -> tinyrwkv.Model:
    return tinyrwkv.load(tiny(), backend="numpy")


@pytest.fixture
def state(model: tinyrwkv.Model) -> tinyrwkv.State:
    return model.forward([0, 5, 6], logits=None)[1]


@pytest.fixture(scope="module")
def cafe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a model that tells a price."""
    return write_talker(tmp_path_factory.mktemp("talker") / "m.trwkv", CAFE, template="robot")


@linux
@pytest.mark.parametrize("how", ["save", "keep"])
def test_no_fault_of_the_disk_breaks_a_conversation(
    model: tinyrwkv.Model, state: tinyrwkv.State, tmp_path: pathlib.Path, how: str
) -> None:
    path = tmp_path / "talk.state"
    session.save(path, model.new_state())
    known = session.fingerprint(path)

    def write() -> None:
        if how == "save":
            session.save(path, state, said)
        else:
            session.keep(str(path), state, said, known)

    def is_whole(path: pathlib.Path) -> None:
        assert session.load(path, model)[1] in ([], said)

    # A file that cannot be read counts as another chat's, so `keep` may write beside it.
    if how == "save":
        assert faults.check_writer(write, {path: is_whole}) > 5
        return
    for disk in faults.disks(tmp_path):
        for name in tmp_path.iterdir():
            name.unlink()
        session.save(path, model.new_state())
        try:
            with disk.mounted():
                write()
        except TinyRWKVError as error:
            assert str(tmp_path) in str(error)
        for name in tmp_path.iterdir():
            is_whole(name)
        assert {name.name for name in tmp_path.iterdir()} <= {"talk.state", "talk-2.state"}


@linux
def test_no_fault_of_the_disk_breaks_reading(
    model: tinyrwkv.Model, state: tinyrwkv.State, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "talk.state"
    session.save(path, state, said)
    (tmp_path / "m.chat.json").write_text('{"prompts": ["a"]}')
    met = 0
    for disk in faults.disks(tmp_path):
        for read, found in (
            (lambda: session.load(path, model)[1], said),
            (lambda: read_profile(tmp_path / "m.trwkv"), Profile(("a",))),
        ):
            try:
                with disk.mounted():
                    assert read() == found  # type: ignore[no-untyped-call]
            except TinyRWKVError as error:
                assert str(tmp_path) in str(error)
        met += disk.failed
    assert met > 3


@linux
def test_no_fault_of_the_disk_breaks_the_cache(
    model: tinyrwkv.Model, state: tinyrwkv.State, tmp_path: pathlib.Path
) -> None:
    cache = PromptCache(tmp_path / "cache", dtype="f32")
    for disk in faults.disks(tmp_path):
        with disk.mounted():
            cache.put(model, "a", state)
            first = cache.get(model, "a")
        for kept in (first, cache.get(model, "a")):
            assert kept is None or kept.data.tobytes() == state.data.tobytes()
        assert all(name.endswith(".state") for name in os.listdir(tmp_path / "cache"))


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX")
def test_the_cache_removes_only_what_killed_processes_left(
    model: tinyrwkv.Model, state: tinyrwkv.State, tmp_path: pathlib.Path
) -> None:
    cache = PromptCache(tmp_path, limit=state.data.nbytes + 10_000)
    left = temporary_name(cache.path(model, "b"))
    pathlib.Path(left).write_bytes(b"half")
    with new_file(cache.path(model, "c"), STATE) as living:
        cache.put(model, "a", state)
        assert os.path.exists(living.name) and not os.path.exists(left)
        living.write(b"not a state, and so not found")
    assert cache.get(model, "a") is not None and cache.get(model, "c") is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_pipes_in_the_place_of_small_files_do_not_block(
    model: tinyrwkv.Model, tmp_path: pathlib.Path
) -> None:
    os.mkfifo(tmp_path / "m.chat.json")
    with pytest.raises(FormatError, match=r"m\.chat\.json: not a file but a folder, pipe"):
        read_profile(tmp_path / "m.trwkv")
    os.mkfifo(tmp_path / "talk")
    with pytest.raises(FormatError, match="not a file but a pipe"):
        Chat(model).load(tmp_path / "talk")
    with pytest.raises(FormatError, match="not a file but a folder, pipe"):
        Chat(model).save(tmp_path / "talk")
    cache = PromptCache(tmp_path)
    os.mkfifo(cache.path(model, "a"))
    assert cache.get(model, "a") is None


def talks(path: str, file: pathlib.Path, question: str) -> Chat:
    """Return a chat that has read a file, if there is one, and has got an answer since."""
    chat = Chat(tinyrwkv.load(path, backend="numpy"))
    if file.exists():
        chat.load(file)
    list(chat.ask(question))
    return chat


@pytest.mark.parametrize("begun", [False, True])
def test_two_chats_with_one_file_are_both_kept(
    cafe: str, tmp_path: pathlib.Path, begun: bool
) -> None:
    path = tmp_path / "talk.state"
    if begun:
        talks(cafe, path, "first?").save(path)
    chats = [talks(cafe, path, question) for question in ("one?", "two?", "three?")]
    kept = [pathlib.Path(chat.keep(str(path))) for chat in chats]
    assert [one.name for one in kept] == ["talk.state", "talk-2.state", "talk-3.state"]
    model = tinyrwkv.load(cafe, backend="numpy")
    for one, question in zip(kept, ("one?", "two?", "three?"), strict=True):
        questions = [turn.question for turn in session.load(one, model)[1]]
        assert questions == (["first?"] if begun else []) + [question]


def test_a_chat_keeps_over_what_it_wrote_itself(cafe: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "talk"
    chat = talks(cafe, path, "one?")
    chat.save(path)
    assert chat.keep(str(path)) == str(path)
    path.unlink()  # nothing can be lost
    assert chat.keep(str(path)) == str(path) and os.listdir(tmp_path) == ["talk"]


def test_the_name_beside_fits(cafe: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / ("x" * 255)
    for _ in range(2):
        kept = Chat(tinyrwkv.load(cafe, backend="numpy")).keep(str(path))
    assert os.path.exists(kept) and len(os.listdir(tmp_path)) == 2


def test_the_command_says_where_a_conversation_went(
    cafe: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    piped: Callable[..., Any],
) -> None:
    path, run = tmp_path / "talk.state", Console.run

    def meanwhile(console: Console) -> bool:
        well = run(console)
        talks(cafe, path, "other?").save(path)  # as another chat does while this one runs
        return well

    monkeypatch.setattr(Console, "run", meanwhile)
    status, out, notes = piped("mine?\n", cafe, "--resume", str(path))
    assert (status, out) == (0, "café costs €5\n")
    beside = tmp_path / "talk-2.state"
    assert f"This conversation is in {beside}: --resume {beside} continues it." in notes
    model = tinyrwkv.load(cafe, backend="numpy")
    for file, question in ((path, "other?"), (beside, "mine?")):
        assert [turn.question for turn in session.load(file, model)[1]] == [question]


@pytest.mark.parametrize("output", ["model", "letter", "state", "./state", "no/folder"])
def test_save_state_replaces_nothing_else(
    cafe: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    output: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    tinyrwkv.load(cafe, backend="numpy").new_state().save("state")
    (tmp_path / "letter").write_text("dear")
    (tmp_path / "model").write_bytes(pathlib.Path(cafe).read_bytes())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    arguments = ["-p", "a", "-n", "1", "--state", "state", "--save-state", output]
    assert main(["generate", "model", *arguments]) == 1
    out, told = capsys.readouterr()
    assert out == "" and output in told  # it is refused before the first token
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_saving_a_state_over_the_open_model_is_refused(cafe: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.trwkv"
    path.write_bytes(pathlib.Path(cafe).read_bytes())
    model = tinyrwkv.load(path, backend="numpy")
    with pytest.raises(ArgumentError, match="not a state"):
        model.new_state().save(path)
    assert path.read_bytes() == pathlib.Path(cafe).read_bytes()
