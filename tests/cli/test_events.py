"""Events for programs: every line is JSON, and they say what the text mode says."""

from __future__ import annotations

import io
import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyrwkv
from tests.helpers.places import ROOT
from tests.helpers.talkers import CAFE, END, write_talker
from tests.helpers.terminals import Terminal, run
from tinyrwkv.cli.events import Events
from tinyrwkv.generate import Piece

CAFE_AND_END = (*CAFE, b"x", END)


@pytest.fixture(scope="module")
def cafe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a model that tells a price."""
    return write_talker(
        tmp_path_factory.mktemp("talker") / "m.trwkv", CAFE_AND_END, template="robot"
    )


def events(text: str) -> list[dict[str, Any]]:
    assert text.isascii() and (not text or text.endswith("\n"))
    return [json.loads(line) for line in text.splitlines()]


def of(kind: str, told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in told if event["event"] == kind]


@given(st.text(), st.integers(-1, 10**9), st.floats(max_value=0, allow_nan=False))
def test_a_piece(text: str, token: int, logprob: float) -> None:
    out = io.StringIO()
    Events(out).piece(Piece(text, token, logprob))
    (told,) = events(out.getvalue())
    assert told["event"] == "piece" and told["text"] == text
    assert told["token"] == (None if token == -1 else token)
    assert told["logprob"] == (logprob if token != -1 and logprob != float("-inf") else None)


def test_generate(cafe: str) -> None:
    done = run(
        "-m",
        "tinyrwkv",
        "generate",
        cafe,
        "-p",
        "User:",
        "--temperature",
        "0",
        "--stop",
        "\n\n",
        "--json",
    )
    told = events(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert [event["event"] for event in told[-2:]] == ["end", "stats"]
    pieces, (end,), (stats,) = of("piece", told), of("end", told), of("stats", told)
    assert len(pieces) == len(told) - 2 == stats["tokens"]
    assert "".join(piece["text"] for piece in pieces) == end["text"] == " café costs €5"
    assert end["stop_reason"] == "stop" and all(piece["logprob"] <= 0 for piece in pieces)
    model = tinyrwkv.load(cafe, backend="numpy")
    assert [piece["token"] for piece in pieces] == [
        model.tokenizer.encode(x)[0] for x in CAFE[1:11]
    ]
    assert (
        stats["prompt_tokens"] == 1 + len(model.tokenizer.encode("User:")) and stats["seconds"] > 0
    )
    assert stats.keys() >= {"prompt_seconds", "resident_bytes", "rss_bytes"}


def test_chat(cafe: str, piped: Callable[..., Any]) -> None:
    lines = "price?\n\n/set temperature 9000\n/set nonsense 1\n/nothing\nand now?\n"
    status, out, notes = piped(lines, cafe, "--json", "--temperature", "0")
    told = events(out)
    assert (status, notes) == (1, "")  # some lines were not done
    assert [begin | {"event": ""} for begin in of("begin", told)] == [
        {"event": "", "turn": 1, "prompt": "price?", "command": False},
        {"event": "", "turn": 2, "prompt": "and now?", "command": False},
    ]
    order = [event["event"] for event in told if event["event"] != "piece"]
    assert order == ["begin", "end", "stats", "report", "error", "error", "begin", "end", "stats"]
    assert of("end", told)[0]["text"].strip() == "café costs €5"
    assert (
        "nonsense" in of("error", told)[0]["message"]
        and "/nothing" in of("error", told)[1]["message"]
    )
    first = [event["event"] for event in told].index("end")
    assert (
        "".join(event["text"] for event in of("piece", told[:first])) == of("end", told)[0]["text"]
    )


def test_the_answers_of_a_robot_come_with_a_decision(piped: Callable[..., Any]) -> None:
    lines = "turn left\ngo forward 25 meters\nWhat do you like to do for fun?\n"
    told = events(piped(lines, "--json", "--temperature", "0")[1])
    ends = of("end", told)
    decisions = [end["decision"] for end in ends]
    assert decisions == ["run", "refuse", "unknown"]
    assert "outside" in ends[1]["reasons"][0] and ends[0]["reasons"] == []
    first = told[: told.index(ends[0])]
    logprob = sum(piece["logprob"] for piece in of("piece", first))
    assert ends[0]["logprob"] == pytest.approx(logprob, abs=1e-4) and logprob < 0
    (plain,) = of("end", events(piped("hello\n", "--json", "--template", "chat", "-n", "2")[1]))
    assert plain.keys() == {"event", "stop_reason", "text"}


def test_a_terminal_gets_the_same_lines(cafe: str) -> None:
    with Terminal(
        "-m", "tinyrwkv", "chat", cafe, "--json", "--temperature", "0", columns=200
    ) as terminal:
        terminal.type("price?\n")
        shown = terminal.wait_for('"rss_bytes"')
        assert "> " not in shown and "\x1b" not in shown
        assert (
            json.loads(next(line for line in shown.splitlines() if '"end"' in line))["stop_reason"]
            == "stop"
        )
        terminal.type("\x04")
        assert terminal.status() == 0


def test_what_keeps_it_from_starting_is_no_event(
    piped: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    status, out, notes = piped("a\n", str(tmp_path / "none"), "--json")
    assert (status, out) == (1, "") and notes.startswith("tinyrwkv: ")


def test_every_event_is_documented(cafe: str, piped: Callable[..., Any]) -> None:
    page = (ROOT / "docs" / "events.md").read_text("utf-8")
    rows = {row.split("`")[1]: row for row in page.splitlines() if row.startswith("| `")}
    told = events(piped("price?\n/stats\n/nothing\n", cafe, "--json")[1])
    assert {event["event"] for event in told} == set(rows) - {"thought"}  # of other templates
    for event in told:
        assert all(f"`{key}`" in rows[event["event"]] for key in event if key != "event")
