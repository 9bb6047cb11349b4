"""Models that think before they answer: what is sent, what ends a thought, what is kept of it."""

from __future__ import annotations

import io
import itertools
import json
import pathlib
import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tinyrwkv
from tests.helpers.talkers import END, write_talker
from tests.helpers.terminals import Terminal, run
from tinyrwkv.chat.chat import Chat
from tinyrwkv.chat.templates import TEMPLATES, template
from tinyrwkv.chat.thinking import Thinking, ThoughtPiece, thought_tokens
from tinyrwkv.cli import slash
from tinyrwkv.cli.console import Console, EventConsole
from tinyrwkv.cli.thoughts import ThoughtView
from tinyrwkv.errors import ArgumentError, TinyRWKVError
from tinyrwkv.generate import Piece

THOUGHT = (b" <think", b">", b"\nA caf", b"\xc3", b"\xa9 ", b"</ may", b" be.</", b"think>x")
ANSWER = (b"</think", b">\n", b"\xe2", b"\x82\xac", b"5.", b" Yes", END)
ENDLESS = (b" <think", b">", b" so", b" on", b" and", b" so")
THINKS = [THOUGHT, ANSWER]
STATE = dict(rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tinyrwkv.Model]:
    """Make models that say some texts: ``made(*texts)``."""
    folder = tmp_path_factory.mktemp("thinkers")
    models: dict[Any, tinyrwkv.Model] = {}

    def make(*texts: Any, name: str = "think") -> tinyrwkv.Model:
        if (texts, name) not in models:
            path = write_talker(folder / f"{len(models)}.trwkv", *texts, template=name)
            models[texts, name] = tinyrwkv.load(path, backend="numpy")
        return models[texts, name]

    return make


def thinker(model: tinyrwkv.Model, name: str | None = None, **values: float) -> Chat:
    return Chat(model, name, **{"temperature": 0, **values})


def split(pieces: Iterable[Piece]) -> tuple[str, str]:
    """Return the text of the thought and that of the answer."""
    texts = {True: "", False: ""}
    for piece in pieces:
        assert texts[False] == "" or not isinstance(piece, ThoughtPiece)
        texts[isinstance(piece, ThoughtPiece)] += piece.text
    return texts[True], texts[False]


def after(chat: Chat, text: str) -> tinyrwkv.State:
    """Return the state after a text, as if it had been the prompt."""
    tokens = [0, *chat.tokenizer.encode(text)]
    return chat.model.forward(tokens, None, logits=None)[1]


def same(one: tinyrwkv.State, other: tinyrwkv.State) -> bool:
    return one.tokens == other.tokens and np.allclose(one.data, other.data, **STATE)


# A turn


def test_a_thought_and_an_answer(made: Any) -> None:
    chat = thinker(made(*THINKS))
    answer = chat.ask("price?")
    assert isinstance(answer, Thinking)
    assert split(answer) == ("A café </ may be.", "€5. Yes")
    result = answer.result
    assert (result.thought, result.text) == ("A café </ may be.", "€5. Yes")
    assert result.stop_reason == "stop" and thought_tokens(result) == 7 + 1
    assert result.timings["tokens"] == len(result.tokens) == 7 + 5
    read = ("User: price?\n\nAssistant:", " <think", "</think")  # no line break before the tag
    tokens = sum(len(chat.tokenizer.encode(text)) for text in read)
    assert result.timings["prompt_tokens"] == 1 + tokens


def test_nothing_of_a_thought_stays_in_the_conversation(made: Any) -> None:
    chat = thinker(made(*THINKS))
    split(chat.ask("price?"))
    said = "User: price?\n\nAssistant: €5. Yes"
    assert same(chat.state, after(chat, said))
    assert chat.transcript == [("price?", "€5. Yes", False)]
    split(chat.ask("and?"))
    assert same(chat.state, after(chat, f"{said}\n\nUser: and?\n\nAssistant: €5. Yes"))


@pytest.mark.parametrize(
    ("name", "values"), [("think-fast", {}), ("think", {"max_thought": 0})], ids=["fast", "zero"]
)
def test_an_empty_thought_is_sent(made: Any, name: str, values: Any) -> None:
    chat = thinker(made(*THINKS), name, **values)
    answer = chat.ask("price?")
    assert split(answer) == ("", "€5. Yes")
    sent = template("think-fast").prompt("price?")
    assert answer.result.timings["prompt_tokens"] == 1 + len(
        chat.tokenizer.encode("User: price?\n\nAssistant:")
    ) + len(chat.tokenizer.encode(" <think>\n</think"))
    assert sent == "User: price?\n\nAssistant: <think>\n</think"
    assert same(chat.state, after(chat, "User: price?\n\nAssistant: €5. Yes"))


@settings(max_examples=12, deadline=None)
@given(n=st.integers(1, 12))
def test_a_thought_without_an_end_is_ended(made: Any, n: int) -> None:
    chat = thinker(made(ENDLESS, ANSWER), max_thought=n)
    answer = chat.ask("price?")
    thought, text = split(answer)
    written = (b">", *[b" so", b" on", b" and"] * 4)[1:n]
    assert (thought, text) == (b"".join(written).decode(), "€5. Yes")
    assert thought_tokens(answer.result) == n + 1 and answer.result.stop_reason == "stop"


@settings(max_examples=25, deadline=None)
@given(cuts=st.sets(st.integers(1, 15)))
def test_the_tag_is_found_wherever_tokens_begin(made: Any, cuts: set[int]) -> None:
    data = "xyz é.</think>q".encode()
    places = [0, *sorted(cuts), len(data)]
    tokens = [data[begin:end] for begin, end in itertools.pairwise(places)]
    assume(ANSWER[0] not in tokens)  # after that one, a model of both texts could say either
    chat = thinker(made((b" <think", b">\nW", *tokens), ANSWER))
    assert split(chat.ask("price?")) == ("Wxyz é.", "€5. Yes")
    assert same(chat.state, after(chat, "User: price?\n\nAssistant: €5. Yes"))


@pytest.mark.parametrize("end", [[END], [b"\n\nUser:"], [b"\n\n", b"Us", b"er:"]])
def test_what_ends_a_turn_ends_a_thought_and_the_answer_follows(made: Any, end: Any) -> None:
    chat = thinker(made((b" <think", b">", b"\nHm.", *end), ANSWER))
    answer = chat.ask("price?")
    assert split(answer) == ("Hm.", "€5. Yes")
    assert answer.result.stop_reason == "stop"


def test_a_thought_that_ends_at_once(made: Any) -> None:
    assert split(thinker(made((b" <think", END), ANSWER)).ask("a")) == ("", "€5. Yes")
    model = made((b" <think", b">", b"</", b"think>"), ANSWER)
    assert split(thinker(model).ask("a")) == ("", "€5. Yes")


def test_a_model_may_leave_out_the_tag(made: Any) -> None:
    model = made((b" <think", b" Hm", b"</think>"), (b"</think", b" Yes", END))
    assert split(thinker(model).ask("a")) == (" Hm", " Yes")


def test_stop_strings_of_a_caller_are_about_the_answer(made: Any) -> None:
    model = made(*THINKS)
    told = Thinking(
        *(model, template("think"), template("think").turn("a"), None),
        *(tinyrwkv.Sampler(temperature=0), 50, 50),
        stop=["caf", "5"],
    )
    assert told.text() == "€" and told.result.thought == "A café </ may be."


@pytest.mark.parametrize(("most", "expected"), [(3, ""), (7, ""), (9, "\ufffd"), (11, "€5.")])
def test_tokens_of_both_together(made: Any, most: int, expected: str) -> None:
    model = made(*THINKS)
    told = Thinking(
        *(model, template("think"), template("think").turn("a"), None),
        *(tinyrwkv.Sampler(temperature=0), 50, 50, most),
    )
    assert told.text() == expected and told.result.stop_reason == "length"
    assert len(told.result.tokens) == most


def test_the_answer_is_cut_at_max_tokens(made: Any) -> None:
    chat = thinker(made(*THINKS), max_tokens=4)
    answer = chat.ask("price?")
    assert split(answer) == ("A café </ may be.", "€5.")
    assert answer.result.stop_reason == "length"
    assert same(chat.state, after(chat, "User: price?\n\nAssistant: €5."))


# Ends in between


def test_cancelling_in_a_thought_drops_the_turn(made: Any) -> None:
    chat = thinker(made(ENDLESS, ANSWER), max_thought=10**9)
    before = chat.state.tokens
    answer = chat.ask("go")
    for _ in range(20):
        next(answer)
    answer.cancel()
    split(answer)
    assert answer.result.stop_reason == "cancelled" and answer.result.thought
    assert chat.state.tokens == before and chat.transcript == [] and chat.turns == 0


def test_another_thread_can_cancel_a_thought(made: Any) -> None:
    answer = thinker(made(ENDLESS, ANSWER), max_thought=10**9).ask("go")
    next(answer)
    threading.Timer(0.05, answer.cancel).start()
    split(answer)
    assert answer.result.stop_reason == "cancelled"


def test_cancelling_while_a_part_begins(made: Any) -> None:
    class Leaving(tinyrwkv.Sampler):
        def copy(self) -> tinyrwkv.Sampler:
            if told:  # by the part that begins, before anyone can see it
                told[0].cancel()
            return super().copy()

    told: list[Thinking] = []
    turn = template("think").turn("a")
    sampler = Leaving(temperature=0)
    told.append(Thinking(made(*THINKS), template("think"), turn, None, sampler, 50, 50))
    assert list(told[0]) == [] and told[0].result.stop_reason == "cancelled"


def test_cancelling_in_an_answer_keeps_what_has_come(made: Any) -> None:
    chat = thinker(made(*THINKS))
    answer = chat.ask("price?")
    while next(answer).text != "5.":
        pass
    assert chat.transcript == [("price?", "€5.", False)]
    assert same(chat.state, after(chat, "User: price?\n\nAssistant: €5."))
    assert answer.result.stop_reason == "cancelled"


def test_a_deadline_in_a_thought(made: Any) -> None:
    chat = thinker(made(ENDLESS, ANSWER), max_thought=10**9)
    answer = chat.ask("go", deadline=time.monotonic() + 0.2)
    assert split(answer)[1] == "" and answer.result.stop_reason == "deadline"
    assert chat.state.tokens == 0 and chat.turns == 0
    late = chat.ask("go", deadline=time.monotonic() - 1)
    assert list(late) == [] and late.result.stop_reason == "deadline"
    assert chat.state.tokens == 0 and chat.turns == 0


def test_a_deadline_that_passed_long_ago(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = thinker(made(*THINKS)).ask("price?", deadline=time.monotonic() + 60)
    for _ in range(5):
        next(answer)
    now = 3 * time.monotonic() + 1000
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert [piece.text for piece in answer if piece.token >= 0] == []
    assert answer.result.stop_reason == "deadline"


def test_an_answer_whose_thought_took_the_time(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = thinker(made(*THINKS)).ask("price?", deadline=time.monotonic() + 60)
    while len(answer.result.thought) < len("A café </ may be."):
        next(answer)
    next(answer)  # the tag is complete
    now = 3 * time.monotonic() + 1000
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert split(answer) == ("", "") and answer.result.stop_reason == "deadline"


def test_two_threads_cannot_iterate(made: Any) -> None:
    chat = thinker(made(ENDLESS, ANSWER), max_thought=10**9)
    answer = chat.ask("go")

    class Again(tinyrwkv.Sampler):
        def sample(self, logits: np.ndarray) -> tuple[int, float]:
            next(answer)
            return super().sample(logits)

    next(answer)
    told = Thinking(
        *(chat.model, template("think"), "User: a\n\nAssistant:", None),
        *(Again(temperature=0), 5, 5),
    )
    answer = told
    with pytest.raises(TinyRWKVError, match="another thread"):
        told.text()


def test_undo_and_saved_conversations(made: Any, tmp_path: pathlib.Path) -> None:
    chat = thinker(made(*THINKS), state_dtype="f32")
    split(chat.ask("one"))
    first = chat.state
    split(chat.ask("two"))
    assert chat.undo() == "two" and chat.state.data.tobytes() == first.data.tobytes()
    chat.save(tmp_path / "talk")
    other = thinker(chat.model)
    other.load(tmp_path / "talk")
    assert other.transcript == [("one", "€5. Yes", False)]
    assert split(other.ask("two")) == split(chat.ask("two"))
    assert same(other.state, chat.state)


def test_a_seed_repeats_a_conversation(tiny: Callable[..., str]) -> None:
    model = tinyrwkv.load(tiny(), backend="numpy")
    values = {"seed": 5, "max_tokens": 6, "max_thought": 6}
    one, other = (Chat(model, "think", **values) for _ in range(2))
    assert split(one.ask("a")) == split(other.ask("a"))
    assert split(one.ask("b")) == split(other.ask("b"))


def test_orders_are_answered_without_a_thought(made: Any) -> None:
    model = made((b":", b" move", b"(1)", END), *THINKS)
    chat = Chat(model, commands=["move"])
    assert chat.ask("go").text() == " move(1)"
    assert chat.last is not None and chat.last.command


# Constraints


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_a_constraint_is_about_the_answer(tiny: Callable[..., str], name: str) -> None:
    chat = Chat(tinyrwkv.load(tiny(), backend="numpy"), name, max_thought=5, seed=1)
    answer = chat.ask("a", constraint=tinyrwkv.Choice(["yes", "no"], prefix=chat.template.lead))
    assert split(answer)[1].strip() in ("yes", "no") and answer.result.stop_reason == "stop"


# What a console shows


def shown(chat: Chat, *lines: str, kind: Any = Console) -> str:
    out = io.StringIO()
    console = kind(chat, source=io.StringIO("".join(f"{line}\n" for line in lines)), out=out)
    console.notes = io.StringIO()
    assert console.run()
    return out.getvalue()


def test_thoughts_are_hidden_in_a_pipe(made: Any) -> None:
    chat = thinker(made(*THINKS))
    assert shown(chat, "price?") == "€5. Yes\n"
    assert shown(chat, "/set thoughts show", "price?", "/set thoughts hide", "price?") == (
        "<think>\nA café </ may be.\n</think>\n€5. Yes\n€5. Yes\n"
    )
    assert shown(chat, "/set thoughts dim", "a") == (
        "<think>\nA café </ may be.\n</think>\n€5. Yes\n"  # no colours
    )


def test_thoughts_are_faint_where_there_are_colours() -> None:
    view = ThoughtView("dim", True)
    written = view.push("\n One") + view.push(" two\n") + view.end()
    assert written == "\x1b[2mOne\x1b[0m\x1b[2m two\x1b[0m\n\n"
    assert ThoughtView("dim", True).push("\n") == ThoughtView("show", False).end() == ""


def test_events_carry_thoughts_apart(made: Any) -> None:
    told = [
        json.loads(line)
        for line in shown(thinker(made(*THINKS)), "a", kind=EventConsole).splitlines()
    ]
    texts = {
        kind: "".join(one["text"] for one in told if one["event"] == kind)
        for kind in ("thought", "piece")
    }
    assert texts == {"thought": "A café </ may be.", "piece": "€5. Yes"}
    end, stats = told[-2:]
    assert (end["thought"], end["text"]) == ("A café </ may be.", "€5. Yes")
    assert (stats["thought_tokens"], stats["tokens"]) == (8, 12)


def test_settings_of_thoughts(made: Any) -> None:
    chat = thinker(made(*THINKS))
    assert slash.run(chat, "/set max_thought 3")[0] == "max_thought is 3 now."
    assert slash.run(chat, "/set thoughts dim")[0] == "thoughts is dim now."
    rows = dict(line.split() for line in slash.run(chat, "/set")[0].splitlines())
    assert (rows["max_thought"], rows["thoughts"]) == ("3", "dim")
    assert split(chat.ask("a"))[0] == "A caf\ufffd"
    assert re.search(r"thought +4 tokens", slash.run(chat, "/stats")[0])
    for wrong in ("/set thoughts", "/set thoughts loud", "/set max_thought -1"):
        with pytest.raises(ArgumentError):
            slash.run(chat, wrong)


def test_a_terminal_shows_thoughts_faintly(made: Any) -> None:
    with Terminal("examples/chat.py", made(*THINKS).path, "--temperature", "0") as terminal:
        terminal.wait_for("\n> ")
        terminal.type("price?\n")
        shown = terminal.wait_for("tok/s") + terminal.wait_for("\n> ")
        plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
        assert "A café </ may be.\n\n€5. Yes" in plain.replace("\r", "")
        assert "\x1b[2mA" in shown and "\x1b[2m€" not in shown and "<think>" not in plain
        assert "(8 of them thought)" in plain.replace("\r", "").replace("\n", " ")
        terminal.type("/set thoughts hide\n")
        terminal.wait_for("\n> ")
        terminal.type("price?\n")
        assert "caf" not in terminal.wait_for("tok/s")
        terminal.wait_for("\n> ")
        terminal.type("\x04")
        assert terminal.status() == 0


def test_ctrl_c_in_a_thought_discards_the_turn(made: Any) -> None:
    path = made(ENDLESS, ANSWER).path
    arguments = ("examples/chat.py", path, "--max-thought", "1000000000", "--temperature", "0")
    with Terminal(*arguments, NO_COLOR="1") as terminal:
        terminal.wait_for("\n> ")
        terminal.type("go\n")
        assert "<think>" in terminal.wait_for("so on and so on")
        terminal.type("\x03")
        shown = terminal.wait_for("\n> ", 5)
        assert "</think>" in shown and "turn discarded" in " ".join(shown.split())
        terminal.type("/stats\n")
        assert "turns        0" in terminal.wait_for("\n> ")
        terminal.type("\x04")
        assert terminal.status() == 0


def test_an_option_about_thoughts_needs_a_template_that_has_them(made: Any) -> None:
    arguments = ("-m", "tinyrwkv", "chat", made(*THINKS).path, "--max-thought", "2")
    assert run(*arguments, text="a\n").stdout == "€5. Yes\n"
    done = run(*arguments, "--template", "chat", text="a\n")
    assert (done.returncode, done.stdout) == (1, "") and "--template think" in done.stderr


@pytest.mark.parametrize("line", ["/set thoughts hide", "/set max_thought 5"])
def test_a_template_without_thoughts_says_so(made: Any, line: str) -> None:
    chat = thinker(made(*THINKS), "chat")
    with pytest.raises(ArgumentError, match=r"the template chat has none; .*--template think"):
        slash.run(chat, line)
    assert "thought" not in slash.run(chat, "/set")[0]
