"""States after system texts: kept, found again, bounded, and never trusted."""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyrwkv
from tinyrwkv.chat.chat import Chat
from tinyrwkv.chat.prompt_cache import PromptCache
from tinyrwkv.chat.templates import template
from tinyrwkv.cli import slash
from tinyrwkv.file.output import temporary_name
from tinyrwkv.state_file import data_bytes


@pytest.fixture
def model(tiny: Callable[..., str]) -> tinyrwkv.Model:
    return tinyrwkv.load(tiny(), backend="numpy")


@pytest.fixture
def cache(tmp_path: pathlib.Path) -> PromptCache:
    return PromptCache(tmp_path / "not yet" / "there")


def state_after(model: tinyrwkv.Model, text: str) -> tinyrwkv.State:
    return model.forward([0, *model.tokenizer.encode(text)], logits=None)[1]


def files(cache: PromptCache) -> list[pathlib.Path]:
    return (
        sorted(pathlib.Path(cache.folder).iterdir())
        if cache.folder and os.path.isdir(cache.folder)
        else []
    )


def chat(model: tinyrwkv.Model, system: str, cache: PromptCache | None) -> Chat:
    return Chat(model, "robot", system, cache=cache, temperature=0, max_tokens=6)


def answer(talk: Chat, text: str) -> str:
    return "".join(piece.text for piece in talk.ask(text))


def test_nothing_comes_from_the_cache_before_it_was_looked_up(
    model: tinyrwkv.Model, cache: PromptCache
) -> None:
    talk = chat(model, "Be kind.", cache)
    assert list(talk.ask("Hello", deadline=time.monotonic() - 1)) == []
    assert talk.system_source == "" and "cache" not in slash.run(talk, "/stats")[0]


def test_a_state_comes_back_as_it_was(model: tinyrwkv.Model, tmp_path: pathlib.Path) -> None:
    cache = PromptCache(tmp_path / "not yet" / "there", dtype="f32")
    state = state_after(model, "Be kind.")
    assert cache.get(model, "Be kind.") is None and files(cache) == []
    cache.put(model, "Be kind.", state)
    again = cache.get(model, "Be kind.")
    assert (
        again is not None
        and again.data.tobytes() == state.data.tobytes()
        and again.tokens == state.tokens
    )
    assert cache.get(model, "Be kind") is None


@pytest.mark.parametrize("arch", ["v4", "v7"])
def test_states_are_kept_in_the_smallest_type(
    tiny: Callable[..., str], cache: PromptCache, tmp_path: pathlib.Path, arch: str
) -> None:
    model = tinyrwkv.load(tiny(arch), backend="numpy")
    state = state_after(model, "Be kind.")
    cache.put(model, "Be kind.", state)
    state.save(tmp_path / "same", "f32" if arch == "v4" else "int8")
    assert [path.read_bytes() for path in files(cache)] == [(tmp_path / "same").read_bytes()]
    other = PromptCache(cache.folder, dtype="f32")
    assert (other.get(model, "Be kind.") is None) == (arch == "v7")


def test_the_run_that_reads_a_system_text_answers_as_the_runs_after_it(
    model: tinyrwkv.Model, cache: PromptCache
) -> None:
    first, second = (chat(model, "Be kind.", cache) for _ in range(2))
    assert answer(first, "Hello") == answer(second, "Hello")
    assert (first.system_source, second.system_source) == ("read", "cache")
    assert first.state.data.tobytes() == second.state.data.tobytes()


def test_another_model_has_states_of_its_own(
    model: tinyrwkv.Model, cache: PromptCache, tiny: Callable[..., str]
) -> None:
    cache.put(model, "Be kind.", state_after(model, "Be kind."))
    assert cache.get(tinyrwkv.load(tiny("v6"), backend="numpy"), "Be kind.") is None


def test_damaged_entries_are_as_good_as_none(model: tinyrwkv.Model, cache: PromptCache) -> None:
    expected, text = (
        answer(chat(model, "Be kind.", cache), "Hello"),
        template("robot").system("Be kind."),
    )
    (path,) = files(cache)
    whole = path.read_bytes()
    assert str(path) == cache.path(model, text) and cache.get(model, text) is not None

    @given(data=st.binary(max_size=200), place=st.integers(0, len(whole)))
    def damaged(data: bytes, place: int) -> None:
        path.write_bytes(whole[:place] + data)  # cut, and perhaps something else after it
        assert cache.get(model, text) is None or path.read_bytes() == whole

    damaged()
    path.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    talk = chat(model, "Be kind.", cache)
    assert answer(talk, "Hello") == expected and talk.system_source == "read"
    assert cache.get(model, text) is not None  # kept again


def test_the_folder_is_bounded_and_what_is_used_stays(
    model: tinyrwkv.Model, tmp_path: pathlib.Path
) -> None:
    state = state_after(model, "a")
    probe = PromptCache(tmp_path / "probe")
    probe.put(model, "a", state)
    size = files(probe)[0].stat().st_size
    cache = PromptCache(tmp_path / "cache", limit=3 * size)
    for i, text in enumerate("abc"):
        cache.put(model, text, state)
        os.utime(cache.path(model, text), (i, i))
    leftover = pathlib.Path(temporary_name(cache.path(model, "x")))  # of a killed process
    leftover.write_bytes(b"half")
    assert cache.get(model, "a") is not None  # used: the next to go is b
    cache.put(model, "d", state)
    assert [cache.get(model, text) is not None for text in "abcd"] == [True, False, True, True]
    assert not leftover.exists()
    assert sum(path.stat().st_size for path in files(cache)) <= 3 * size
    small = PromptCache(tmp_path / "small", limit=data_bytes(state, "int8") - 1)
    small.put(model, "a", state)
    assert files(small) == []


def test_a_folder_that_cannot_be_used_is_no_error(
    model: tinyrwkv.Model, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = PromptCache(tmp_path / "file" / "folder")
    cache.put(model, "a", state_after(model, "a"))
    assert cache.get(model, "a") is None
    assert answer(chat(model, "a", cache), "Hello") == answer(chat(model, "a", None), "Hello")


def test_a_chat_reads_its_system_text_once(model: tinyrwkv.Model, cache: PromptCache) -> None:
    plain, first, second = (chat(model, "Be kind.", one) for one in (None, cache, cache))
    expected = answer(plain, "Hello")
    read: list[int] = []
    run = model.backend.run

    def counting(*arguments: object) -> None:
        read.append(len(arguments[3]))  # type: ignore[arg-type]
        run(*arguments)  # type: ignore[arg-type]

    model.backend.run = counting  # type: ignore[method-assign]
    assert answer(first, "Hello") == expected
    with_system = sum(read)
    read.clear()
    assert answer(second, "Hello") == expected
    assert (plain.system_source, first.system_source, second.system_source) == (
        "read",
        "read",
        "cache",
    )
    assert with_system > sum(read)
    assert second.state.tokens == first.state.tokens == plain.state.tokens
    for talk in (first, second):
        talk.reset()
        assert answer(talk, "Hello") == expected
        talk.undo()
        assert talk.state.tokens == 0 and answer(talk, "Hello") == expected
    assert len(files(cache)) == 1


def test_a_deadline_in_the_system_text_leaves_nothing(
    model: tinyrwkv.Model, cache: PromptCache
) -> None:
    talk = chat(model, "Be kind. " * 50, cache)
    assert list(talk.ask("Hello", deadline=time.monotonic())) == []
    assert (talk.state.tokens, talk.turns, files(cache)) == (0, 0, [])
    assert answer(talk, "Hello") == answer(chat(model, "Be kind. " * 50, None), "Hello")


def test_without_a_home_it_is_beside_the_model(
    model: tinyrwkv.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinyrwkv.chat.prompt_cache.cache_folder", lambda: None)
    folder = pathlib.Path(PromptCache().path(model, "a")).parent
    assert folder == pathlib.Path(model.path).parent / ".tinyrwkv-cache"


def test_the_command_keeps_it_in_the_users_cache_folder(
    piped: Callable[..., Any],
    tiny: Callable[..., str],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    arguments = (tiny(), "--system", "Be kind.", "--temperature", "0", "-n", "5")
    plain = piped("Hello\n/stats\n", *arguments, "--no-cache")[1]
    assert "read in this run" in plain and not (tmp_path / "tinyrwkv").exists()
    for source in ("read in this run", "from the cache"):
        told = piped("Hello\n/stats\n", *arguments)[1]
        assert source in told and told.partition("model ")[0] == plain.partition("model ")[0]
    (entry,) = (tmp_path / "tinyrwkv").iterdir()
    assert entry.suffix == ".state"
