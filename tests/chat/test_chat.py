"""Conversations: turns, taking them back, saved states, commands, and the program around them."""

from __future__ import annotations

import json
import pathlib
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinyrwkv
from tests.helpers.talkers import CAFE, END, LOOP, write_talker
from tests.helpers.terminals import Terminal, run
from tinyrwkv.chat.chat import KEPT, Chat
from tinyrwkv.chat.profile import Profile, read_profile
from tinyrwkv.chat.templates import template
from tinyrwkv.cli import slash
from tinyrwkv.cli.background import stream
from tinyrwkv.engine.limit import least_resident
from tinyrwkv.errors import ArgumentError, FormatError, TinyRWKVError, UnsupportedError

WORDS = [
    b":",
    b" one",
    b" two",
    b" three",
    b" four",
    b" five",
    b" six",
    b"teen",
    b" seven",
    b"\n\n",
]
EXAMPLE = "examples/chat.py"


@pytest.fixture(scope="module")
def talkers(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Write models that say a text: ``talkers(text)`` is a path."""
    folder = tmp_path_factory.mktemp("talkers")

    def make(*text: bytes, name: str = "robot") -> str:
        path = folder / f"{abs(hash((text, name)))}.trwkv"
        return str(path) if path.exists() else write_talker(path, text, template=name)

    return make


@pytest.fixture
def model(tiny: Callable[..., str]) -> tinyrwkv.Model:
    """Return a random model, whose answers have no end."""
    return tinyrwkv.load(tiny(), backend="numpy")


def answer(chat: Chat, text: str) -> str:
    return "".join(piece.text for piece in chat.ask(text))


def talker(path: str, **settings: float) -> Chat:
    return Chat(tinyrwkv.load(path, backend="numpy"), **settings)


def test_a_conversation_sends_what_its_template_says(model: tinyrwkv.Model) -> None:
    chat = Chat(model, "chat", "Be kind.", temperature=0, max_tokens=5)
    form = template("chat")
    first = answer(chat, "Hello")
    second = answer(chat, "And now?")
    sampler = tinyrwkv.Sampler(temperature=0, presence_penalty=0.2, frequency_penalty=0.2)
    asked = {"sampler": sampler, "max_tokens": 5, "stop": form.stop}
    one = model.generate(form.prompt("Hello", system="Be kind."), **asked)
    assert "".join(piece.text for piece in one) == first
    two = model.generate(form.prompt("And now?", first=False), state=one.result.state, **asked)
    assert "".join(piece.text for piece in two) == second
    # The clock decides how many tokens are read at once, and NumPy then rounds differently.
    np.testing.assert_allclose(chat.state.data, two.result.state.data, rtol=1e-4, atol=1e-4)
    assert chat.state.tokens == two.result.state.tokens
    assert chat.turns == 2


def test_undo_restores_the_state_bit_for_bit(model: tinyrwkv.Model) -> None:
    chat = Chat(model, "robot", max_tokens=8, seed=3)
    states = [chat.state]
    for text in ("one", "two", "three"):
        answer(chat, text)
        states.append(chat.state)
    for text, state in zip(("three", "two", "one"), states[-2::-1], strict=True):
        assert chat.undo() == text
        assert (
            chat.state.data.tobytes() == state.data.tobytes() and chat.state.tokens == state.tokens
        )
    assert chat.undo() is None
    assert chat.turns == 0


def test_after_undo_the_next_turn_is_as_if_nothing_was_taken_back(model: tinyrwkv.Model) -> None:
    plain, other = (Chat(model, "robot", temperature=0, max_tokens=8) for _ in range(2))
    assert answer(plain, "a") == answer(other, "a")
    answer(other, "something else")
    other.undo()
    assert answer(plain, "b") == answer(other, "b")
    # The clock decides how many tokens are read at once, and NumPy then rounds differently.
    np.testing.assert_allclose(plain.state.data, other.state.data, rtol=1e-4, atol=1e-4)


def test_states_are_kept_for_a_few_turns_only(model: tinyrwkv.Model) -> None:
    chat = Chat(model, "robot", max_tokens=1)
    for i in range(KEPT + 3):
        answer(chat, str(i))
    taken = [chat.undo() for _ in range(KEPT + 1)]
    assert taken == [*map(str, range(KEPT + 2, 2, -1)), None]


def test_reset_begins_anew(model: tinyrwkv.Model) -> None:
    chat = Chat(model, "robot", temperature=0, max_tokens=8)
    first = answer(chat, "Hello")
    answer(chat, "Again")
    chat.reset()
    assert chat.state.tokens == 0 and chat.undo() is None
    assert answer(chat, "Hello") == first


def test_a_seed_repeats_a_whole_conversation_and_no_turn(model: tinyrwkv.Model) -> None:
    def talk(seed: int) -> list[str]:
        chat = Chat(model, "none", temperature=2, top_p=1, max_tokens=20, seed=seed)
        answers = [answer(chat, "a")]
        chat.undo()
        return [*answers, answer(chat, "a")]

    one = talk(1)
    assert one == talk(1)
    assert one != talk(2)
    assert one[0] != one[1]  # the random numbers go on


def test_settings_change_between_turns(model: tinyrwkv.Model) -> None:
    chat = Chat(model, "robot", max_tokens=4)
    answer(chat, "a")
    chat.set("temperature", "0")
    chat.set("max_tokens", "2")
    chat.set("seed", "7")
    answer(chat, "b")
    answer(chat, "c")
    assert chat.settings()["temperature"] == 0 and chat.settings()["seed"] == 7
    assert chat.last is not None and len(chat.last.generation.result.tokens) == 2
    chat.set("seed", "none")
    assert chat.settings()["seed"] is None


def test_a_setting_leaves_the_random_numbers_alone(model: tinyrwkv.Model) -> None:
    def talk(*settings: tuple[str, float]) -> list[str]:
        chat = Chat(model, "none", temperature=2, top_p=1, max_tokens=20, seed=1)
        answers = [answer(chat, "a")]
        chat.undo()
        for key, value in settings:
            chat.set(key, value)
        return [*answers, answer(chat, "a")]

    plain = talk()
    assert plain[0] != plain[1]
    assert talk(("top_p", 1), ("max_tokens", 20), ("temperature", 2)) == plain
    again = talk(("seed", 1))
    assert again == [plain[0], plain[0]]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", "warm"),
        ("temperature", "-1"),
        ("temperature", "nan"),
        ("top_p", "2"),
        ("top_k", "1.5"),
        ("max_tokens", "0"),
        ("max_tokens", "1e3"),
        ("max_tokens", None),
        ("max_tokens", True),
        ("seed", "-1"),
        ("temperature", "none"),
        ("logit_bias", "1"),
        ("", ""),
    ],
)
def test_other_settings_are_refused_and_nothing_changes(
    model: tinyrwkv.Model, key: str, value: str | None
) -> None:
    chat = Chat(model)
    before = chat.settings()
    with pytest.raises(ArgumentError):
        chat.set(key, value)
    assert chat.settings() == before


def test_characters_are_never_split(talkers: Callable[..., str]) -> None:
    chat = talker(talkers(*CAFE))
    pieces = [piece.text for piece in chat.ask("price?")]
    assert "".join(pieces) == " café costs €5"
    assert (
        "é" in pieces and "€" in "".join(pieces) and not any("\ufffd" in piece for piece in pieces)
    )


def test_a_cancelled_answer_counts_as_far_as_it_came(talkers: Callable[..., str]) -> None:
    chat = talker(talkers(*LOOP))
    generation = chat.ask("go")
    for _ in range(5):
        next(generation)
    ids = chat.model.tokenizer.encode
    text = template("robot").prompt("go") + " so on and so on"
    expected = chat.model.forward([0, *ids(text)], logits=None)[1]
    np.testing.assert_allclose(chat.state.data, expected.data, rtol=1e-4, atol=1e-5)
    assert chat.state.tokens == expected.tokens
    assert chat.undo() == "go" and chat.state.tokens == 0


def test_a_turn_cancelled_before_its_answer_has_not_been(talkers: Callable[..., str]) -> None:
    chat = talker(talkers(*WORDS))
    answer(chat, "first")
    state = chat.state
    chat.ask("second").cancel()
    assert chat.state is state and chat.turns == 1
    assert list(chat.ask("third", deadline=time.monotonic() - 1)) == []
    assert chat.state is state and chat.turns == 1
    assert chat.undo() == "first"


def test_a_saved_conversation_goes_on(model: tinyrwkv.Model, tmp_path: pathlib.Path) -> None:
    chat, other = (
        Chat(model, "robot", state_dtype="f32", temperature=0, max_tokens=8) for _ in range(2)
    )
    answer(chat, "Hello")
    chat.save(tmp_path / "state")
    other.load(tmp_path / "state")
    assert other.state.data.tobytes() == chat.state.data.tobytes()
    assert answer(other, "more") == answer(chat, "more")
    chat.save(tmp_path / "state")  # over a state


def test_saving_replaces_only_states(model: tinyrwkv.Model, tmp_path: pathlib.Path) -> None:
    chat = Chat(model)
    letter = tmp_path / "letter.txt"
    letter.write_text("dear")
    with pytest.raises(ArgumentError, match="not a state") as caught:
        chat.save(letter)
    assert caught.value.found == "something else"
    with pytest.raises(ArgumentError, match="not a state"):
        chat.save(model.path)
    with pytest.raises(FormatError):
        chat.save(tmp_path / "no" / "folder")
    assert letter.read_text() == "dear"


def test_loading_something_else_changes_nothing(
    model: tinyrwkv.Model, talkers: Callable[..., str], tmp_path: pathlib.Path
) -> None:
    chat, stranger = Chat(model, max_tokens=3), talker(talkers(*WORDS))
    answer(chat, "Hello")
    stranger.save(tmp_path / "strange")
    before = chat.state
    for path in (tmp_path / "nothing", model.path, tmp_path / "strange"):
        with pytest.raises(FormatError):
            chat.load(path)
    assert chat.state is before and chat.turns == 1


def test_commands_are_answered_greedily_and_apart(tmp_path: pathlib.Path) -> None:
    path = write_talker(
        tmp_path / "m", [b":", b" move", b"(", b"1", b")", b"\n\n"], template="robot"
    )
    chat = Chat(
        tinyrwkv.load(path, backend="numpy"), commands=["move", "turn"], temperature=1000, top_p=1
    )
    assert answer(chat, "go ahead") == " move(1)"
    assert chat.last is not None and chat.last.command
    assert chat.state.tokens == 0 and chat.turns == 1
    assert chat.undo() == "go ahead"
    talk = Chat(chat.model, commands=["turn"], temperature=0)
    answer(talk, "go ahead")
    assert talk.last is not None and not talk.last.command and talk.state.tokens > 0
    long = "far " * 70
    answer(chat, long)
    assert chat.last is not None and not chat.last.command


def test_stats_do_not_count_a_turn_that_came_to_nothing(model: tinyrwkv.Model) -> None:
    chat = Chat(model, "robot", max_tokens=3)
    chat.ask("too late", deadline=time.monotonic() - 1)
    told = slash.run(chat, "/stats")[0]
    assert "turns        0\n" in told and "last answer" not in told


def test_why_tells_the_last_step(talkers: Callable[..., str]) -> None:
    chat = talker(talkers(*CAFE), temperature=1)
    assert slash.run(chat, "/why")[0] == "There is no answer yet."
    answer(chat, "price?")
    lines = slash.run(chat, "/why")[0].splitlines()[1:]
    assert len(lines) == 5
    assert "'\\n\\n'  <- chosen" in lines[0] and float(lines[0].split()[0]) > 99
    shares = [float(line.split()[0]) for line in lines]
    assert shares == sorted(shares, reverse=True)


def test_why_after_the_end_and_after_a_cut(talkers: Callable[..., str]) -> None:
    chat = talker(talkers(b":", b" bye", END))
    answer(chat, "go")
    assert "end of the document  <- chosen" in slash.run(chat, "/why")[0]
    chat = talker(talkers(*CAFE))
    generation = chat.ask("price?")
    for _ in range(3):
        next(generation)
    generation.cancel()
    assert [piece.token for piece in generation] == [
        -1
    ]  # a part of a character, which is never completed
    assert "b'\\xc3'  <- chosen" in slash.run(chat, "/why")[0]


def test_slash_commands(model: tinyrwkv.Model, tmp_path: pathlib.Path) -> None:
    chat = Chat(model, "robot", max_tokens=3)

    def say(line: str) -> str:
        return slash.run(chat, line)[0]

    assert say("/undo") == "Nothing to take back."
    answer(chat, "Hello there")
    assert "turns        1" in say("/stats") and "3 tokens" in say("/stats")
    assert "channel_mix" in say("/memory") and "process" in say("/memory")
    path = tmp_path / "a state"
    assert str(path) in say(f"/save {path}")
    assert say("/undo") == "Taken back: Hello there"
    assert str(path) in say(f"/load {path}") and chat.state.tokens > 0
    assert say("/reset") == "A new conversation." and chat.state.tokens == 0
    assert say("/set temperature 0.25") == "temperature is 0.25 now."
    assert say("/set top_k=3") == "top_k is 3 now."
    try:
        assert say("/set lookup off") == "lookup is off now." and not chat.model.lookup
        assert "lookup              off" in say("/set")
    finally:
        assert say("/set lookup on") == "lookup is on now."
    with pytest.raises(TinyRWKVError, match="neither on nor off"):
        say("/set lookup perhaps")
    assert "temperature         0.25\n" in say("/set")
    assert all(name in say("/help") for name in slash.SLASH_COMMANDS)
    with pytest.raises(slash.Leave):
        say("/quit")


@pytest.mark.parametrize(
    "line", ["/", "/nothing", "/save", "/load", "/reset now", "/set temperature", "/set what 1"]
)
def test_wrong_slash_commands_are_explained(model: tinyrwkv.Model, line: str) -> None:
    with pytest.raises(ArgumentError):
        slash.run(Chat(model), line)


def test_a_limit_is_shown(model: tinyrwkv.Model, linux: None) -> None:
    limit = least_resident(model.steps)
    limited = Chat(tinyrwkv.load(model.path, backend="numpy", resident_limit=limit), max_tokens=3)
    answer(limited, "Hello")
    memory = limited.memory()
    assert memory["resident_limit"] == limit and 0 <= (memory["resident"] or 0) <= limit
    assert "limit" in slash.run(limited, "/memory")[0]
    assert "limit" not in slash.run(Chat(model), "/memory")[0]


def test_a_model_without_a_tokenizer_is_refused(tmp_path: pathlib.Path) -> None:
    from benchmarks.random_model import write
    from tests.helpers.tiny_models import shape_of

    write(str(tmp_path / "m"), shape_of("v7"), "f32", low=8)
    with pytest.raises(UnsupportedError, match="--vocab"):
        talker(str(tmp_path / "m"))


def test_unknown_templates_are_refused(model: tinyrwkv.Model) -> None:
    with pytest.raises(ArgumentError, match="alpaca"):
        Chat(model, "alpaca")


# In the background


def test_a_stream_is_the_generation(talkers: Callable[..., str]) -> None:
    chat = talker(talkers(*WORDS))
    assert "".join(piece.text for piece in stream(chat.ask("count"))) == answer(chat, "count")


def test_leaving_a_stream_ends_the_generation(talkers: Callable[..., str]) -> None:
    chat = talker(talkers(*LOOP), max_tokens=10**9)
    generation = chat.ask("go")
    pieces = stream(generation)
    next(pieces)
    pieces.close()
    assert generation.result.stop_reason == "cancelled"
    assert not any(thread.name == "tinyrwkv-generate" for thread in threading.enumerate())
    assert chat.state.tokens > 0


def test_errors_come_out_of_a_stream(talkers: Callable[..., str]) -> None:
    chat = talker(talkers(*LOOP))
    answer_before, state = chat.turns, chat.state
    generation = chat.ask("go")
    generation.model = None  # type: ignore[assignment]
    with pytest.raises(AttributeError):
        list(stream(generation))
    assert chat.turns == answer_before + 1 and chat.state.tokens == state.tokens
    assert chat.turns == answer_before


def test_a_thread_that_the_system_refuses_is_a_sentence(
    talkers: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    chat = talker(talkers(*LOOP))
    generation = chat.ask("go")
    monkeypatch.setattr(threading.Thread, "start", refused)
    with pytest.raises(UnsupportedError, match=r"no thread to answer in.*ulimit -u"):
        list(stream(generation))


# What lies beside a model


def test_profiles(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.v1.trwkv"
    assert read_profile(path) == Profile()
    beside = tmp_path / "m.v1.chat.json"
    beside.write_text(
        '{"prompts": ["a", "é"], "commands": ["move"], "settings": {"temperature": 0}}', "utf-8"
    )
    assert read_profile(path) == Profile(("a", "é"), ("move",), {"temperature": 0})
    beside.write_text("{}")
    assert read_profile(path) == Profile()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b'{"prompt": []}',
        b'{"prompts": "a"}',
        b'{"prompts": [1]}',
        b'{"commands": [" "]}',
        b'{"settings": []}',
        b'{"settings": {"temperature": "0"}}',
        b'{"settings": {"temperature": -1}}',
        b'{"settings": {"temperature": NaN}}',
        b'{"settings": {"max_tokens": 0}}',
        b'{"settings": {"model": 1}}',
        b"[" * 60_000,
        b" " * 70_000,
    ],
)
def test_other_profiles_are_refused(text: bytes, tmp_path: pathlib.Path) -> None:
    (tmp_path / "m.chat.json").write_bytes(text)
    with pytest.raises(FormatError, match=r"m\.chat\.json"):
        read_profile(tmp_path / "m.trwkv")


def test_what_lies_beside_the_bundled_model_can_be_used(model: tinyrwkv.Model) -> None:
    profile = read_profile(pathlib.Path(tinyrwkv.__file__).parent / "models" / "default.trwkv")
    assert len(profile.prompts) == 3
    chat = Chat(model, commands=profile.commands, **profile.settings)
    assert chat.settings()["temperature"] == profile.settings["temperature"]


# The program: through pipes


def test_a_pipe_gets_the_answers_and_nothing_else(talkers: Callable[..., str]) -> None:
    done = run(
        EXAMPLE,
        talkers(*CAFE),
        text="price?\n\n  \r\nand now?\n/set temperature 0\nprice, no newline",
    )
    assert done.stdout == "café costs €5\n" * 3
    assert done.stderr == "temperature is 0 now.\n"
    assert done.returncode == 0


def test_reports_go_through_a_pipe_too(
    piped: Callable[..., Any], talkers: Callable[..., str]
) -> None:
    status, out, notes = piped("price?\n/why\n/quit\nprice?\n", talkers(*CAFE), "-n", "2")
    assert out.startswith("caf\nThe last step") and out.count("caf") == 1
    assert (status, notes) == (0, "")


def test_a_slash_command_that_fails_does_not_end_a_pipe(
    piped: Callable[..., Any], talkers: Callable[..., str]
) -> None:
    status, out, notes = piped("price?\n/load nowhere\nprice?\n", talkers(*CAFE))
    assert out == "café costs €5\ncafé costs €5\n"
    assert notes.startswith("tinyrwkv: no such file: nowhere") and notes.count("\n") == 1
    assert status == 1


def test_any_bytes_can_be_said(piped: Callable[..., Any], talkers: Callable[..., str]) -> None:
    assert piped(b"\xff\xfe caf\xc3\n", talkers(*CAFE)) == (0, "café costs €5\n", "")


def test_a_turn_without_an_answer_is_an_empty_line(
    piped: Callable[..., Any], talkers: Callable[..., str]
) -> None:
    assert piped("one\ntwo\n", talkers(b":", END)) == (0, "\n\n", "")


def test_the_chat_takes_what_lies_beside_the_model(
    piped: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    path = write_talker(tmp_path / "m.trwkv", CAFE, template="robot")
    settings = {"temperature": 0.5, "max_tokens": 3}
    (tmp_path / "m.chat.json").write_text(json.dumps({"settings": settings}))
    rows = dict(
        line.split()
        for line in piped("/set\n", "--model", path, "--temperature", "0.25")[1].splitlines()
    )
    assert rows["temperature"] == "0.25" and rows["max_tokens"] == "3" and rows["top_p"] == "0.5"
    (tmp_path / "m.chat.json").write_text("no")
    assert piped("/set\n", path)[:2] == (1, "")


def test_a_state_can_be_loaded_at_the_start(
    piped: Callable[..., Any], talkers: Callable[..., str], tmp_path: pathlib.Path
) -> None:
    state = str(tmp_path / "state")
    assert piped(f"price?\n/save {state}\n", talkers(*CAFE))[0] == 0
    told = dict(
        line.split("  ", 1)
        for line in piped("/stats\n", talkers(*CAFE), "--load", state)[1].splitlines()
    )
    assert int(told["tokens read"]) > 20


# The program: in a terminal


def test_a_terminal_of_40_columns(talkers: Callable[..., str]) -> None:
    with Terminal(EXAMPLE, talkers(*LOOP), "-n", "120", "--seed", "1") as terminal:
        banner = terminal.wait_for("\n> ")
        assert "RWKV v7" in banner and "/help" in banner and "\x1b[2m" in banner
        terminal.type("go\n")
        shown = terminal.wait_for("\n> ")
        text, _, notes = shown.partition("\x1b[2m")
        lines = text.splitlines()
        assert lines[0] == "go"  # the echo
        assert all(len(line) <= 39 for line in lines) and len(lines) > 10
        assert (
            " ".join(lines[1:]).startswith("so on and so on and")
            and " ".join(lines[1:]).split().count("so") == 40
        )
        assert (
            "120 tokens," in notes
            and "tok/s" in notes
            and "/set max_tokens" in notes.replace("\n", " ")
        )
        terminal.type("/help\n")
        assert all(len(line) <= 39 for line in terminal.wait_for("\n> ").splitlines())
        terminal.type("\x04")
        assert terminal.status() == 0


def test_a_dumb_terminal_gets_plain_text(talkers: Callable[..., str]) -> None:
    with Terminal(EXAMPLE, talkers(*CAFE), TERM="dumb") as terminal:
        shown = terminal.wait_for("\n> ")
        terminal.type("price?\n")
        shown += terminal.wait_for("€5") + terminal.wait_for("\n> ")
        assert "RWKV v7" in shown and "tok/s" in shown and "\x1b" not in shown
        terminal.type("\x04")
        assert terminal.status() == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(talkers: Callable[..., str]) -> None:
    with Terminal(EXAMPLE, talkers(*LOOP), "-n", "1000000000", NO_COLOR="1") as terminal:
        terminal.wait_for("\n> ")
        for _ in range(2):  # the second shows that the program goes on
            terminal.type("go\n")
            terminal.wait_for("so on and so on")
            terminal.type("\x03")
            assert "stopped" in terminal.wait_for("\n> ", 5)
        terminal.type("/stats\n")
        assert "turns        2" in terminal.wait_for("\n> ")
        terminal.press_ctrl_c()
        assert "once more" in terminal.wait_for("\n> ")
        terminal.type("/undo\n")
        assert "Taken back: go" in terminal.wait_for("\n> ")
        terminal.type("/set top_p 2\n")
        assert "top_p" in terminal.wait_for("\n> ")  # an error ends nothing
        terminal.type("half a line")
        terminal.wait_for("half a line")
        terminal.press_ctrl_c()
        shown = terminal.wait_for("\n> ")
        assert "once more" in shown and "\x1b[2m" not in shown
        terminal.press_ctrl_c()
        assert terminal.status() == 0


def test_a_generation_that_fails_leaves_the_chat_usable(model: tinyrwkv.Model) -> None:
    chat = Chat(model, max_tokens=3)
    state = chat.state
    generation = chat.ask("a")

    def fail(logits: np.ndarray) -> tuple[int, float]:
        raise TinyRWKVError("Sampler", "logits", "nan", "numbers", "verify the file")

    generation.sampler.sample = fail  # type: ignore[method-assign]
    with pytest.raises(TinyRWKVError):
        list(generation)
    assert chat.state.tokens == state.tokens and chat.turns == 0
    assert len(list(chat.ask("b"))) == 3
