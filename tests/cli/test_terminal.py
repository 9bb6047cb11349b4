"""Sizes, wrapped lines, trimmed streams, colours and the progress bar."""

from __future__ import annotations

import io
import itertools
import os
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tinyrwkv.cli import terminal
from tinyrwkv.cli.terminal import Progress, Trimmer, Wrapper, columns, wrap
from tinyrwkv.errors import ArgumentError
from tinyrwkv.units import parse_size, show_size

texts = st.text(st.sampled_from("ab \n\t日é\u0301🙂") | st.characters(codec="utf-8"), max_size=60)


@pytest.fixture(autouse=True)
def usual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("12MB", 12_000_000),
        ("12 mb", 12_000_000),
        ("1.5KiB", 1536),
        ("0.1GB", 100_000_000),
        ("2M", 2_000_000),
        ("7B", 7),
        ("1GiB", 1 << 30),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "MB", "-1MB", "12 TB", "1e3", "12MBB", "٣MB", "nan", "1.", "9" * 400, "1,5MB"]
)
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="write it like 12MB"):
        parse_size(text)


@given(st.integers(0, 10**12))
def test_shown_sizes_are_close(size: int) -> None:
    assert abs(parse_size(show_size(size)) - size) <= 0.05 * size + 1e-9


def test_unknown_sizes_are_shown_as_such() -> None:
    assert show_size(None) == "unknown"


def split(text: str, cuts: list[int]) -> list[str]:
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    return [text[a:b] for a, b in itertools.pairwise(places)]


@given(texts, st.lists(st.integers(0, 60)), st.integers(2, 30))
@example("\t0", [], 2)
def test_lines_are_never_too_long_and_no_word_is_lost(
    text: str, cuts: list[int], limit: int
) -> None:
    wrapper = Wrapper(lambda: limit)
    shown = "".join(wrapper.push(piece) for piece in split(text, cuts)) + wrapper.flush()
    assert all(columns(line) <= limit for line in shown.split("\n"))
    assert shown == wrap(text, lambda: limit)
    kept = "".join(
        "\ufffd" if unicodedata.category(c) == "Cc" else c for c in text if c not in " \n\t\r"
    )
    assert "".join(c for c in shown if c not in " \n") == kept


def test_lines_break_between_words() -> None:
    assert wrap("one two three four", lambda: 9) == "one two\nthree\nfour"
    assert wrap("abcdefghij k", lambda: 4) == "abcd\nefgh\nij k"
    assert wrap("    indented\n\n  too", lambda: 12) == "    indented\n\n  too"
    assert wrap("日本語の文", lambda: 4) == "日本\n語の\n文"


def test_words_wait_only_until_they_are_complete() -> None:
    wrapper = Wrapper(lambda: 20)
    assert [wrapper.push(piece) for piece in ("Wor", "ds", " the", "re ", "日")] == [
        "",
        "",
        "Words",
        " there",
        " 日",
    ]


def test_escape_codes_do_not_reach_the_terminal() -> None:
    assert wrap("\x1b[2Jred\x07 \x9b0m") == "\ufffd[2Jred\ufffd \ufffd0m"


def test_printable_text_keeps_its_lines() -> None:
    assert terminal.printable("a\tb\nc\x1b[2J\x9b\x00é\r") == "a\tb\nc\ufffd[2J\ufffd\ufffdé\ufffd"


@pytest.mark.parametrize(("told", "width"), [("40", 39), ("1", 10), ("wide", 79), ("", None)])
def test_the_width(told: str, width: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", told)
    assert terminal.width() >= 10 and width in (None, terminal.width())


def test_a_serial_console_does_not_know_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(os, "get_terminal_size", lambda stream: os.terminal_size((0, 0)))
    assert terminal.width() == 79


def test_the_window_may_change() -> None:
    limits = iter((20, 5, 5))
    wrapper = Wrapper(lambda: next(limits))
    assert wrapper.push("one two ") + wrapper.push("three ") + wrapper.flush() == "one two\nthree"


@given(texts, st.lists(st.integers(0, 60)))
def test_a_trimmed_stream_is_the_stripped_text(text: str, cuts: list[int]) -> None:
    trimmer = Trimmer()
    assert "".join(trimmer.push(piece) for piece in split(text, cuts)) == text.strip()


def test_colours_only_on_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("WT_SESSION", "1")
    assert terminal.has_colours(Screen())
    assert not terminal.has_colours(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert not terminal.has_colours(Screen())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not terminal.has_colours(Screen())
    assert terminal.dim("a", False) == "a" and terminal.dim("a", True) == "\x1b[2ma\x1b[0m"


def test_a_closed_stream_is_no_terminal() -> None:
    stream = Screen()
    stream.close()
    assert not terminal.is_terminal(io.StringIO()) and not terminal.is_terminal(None)
    assert terminal.is_terminal(Screen())


@pytest.mark.parametrize("columns", [10, 40, 200])
def test_the_bar_fits_and_goes_away(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    times = iter(range(10**6))
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(times) * 0.01)
    screen = Screen()
    with Progress("verify", screen) as progress:
        for done in range(0, 1001, 10):
            progress(done, 1000)
    _, *frames, blank, end = screen.getvalue().split("\r")
    assert "[...." in frames[0] and frames[0].endswith("]   0 %")
    assert "###" in frames[-1] and int(frames[-1].split()[-2]) >= 90
    assert blank == " " * len(frames[-1]) and end == ""
    assert 2 < len(frames) <= 20  # ten a second at most
    assert columns < 40 or all(len(frame) < columns for frame in frames)


@pytest.mark.parametrize(("stream", "kind"), [(io.StringIO(), "xterm"), (Screen(), "dumb")])
def test_no_bar_where_it_cannot_be_drawn(
    stream: io.StringIO, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", kind)
    with Progress("verify", stream) as progress:
        progress(1, 2)
    assert stream.getvalue() == ""


def test_the_bar_goes_away_on_errors() -> None:
    screen = Screen()
    with pytest.raises(ZeroDivisionError), Progress("verify", screen) as progress:
        progress(1, 2)
        raise ZeroDivisionError
    assert screen.getvalue().endswith(" \r")
