"""Recordings of the chat: what is kept of a terminal, how it is drawn, what is on the page."""

from __future__ import annotations

import json
import pathlib
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.talkers import write_talker

pytest.importorskip("pty", reason="this system has no pseudo-terminals")

from benchmarks import record_chat
from benchmarks.record_chat import RECORDINGS, Event, cast, picture, read_cast, spans, transcript

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "recordings"

visible = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12)
shown = st.builds(
    "".join,
    st.lists(visible | st.sampled_from(["\r\n", "\x1b[2m", "\x1b[0m", "\x1b[?2004h"]), max_size=8),
)
recordings = st.lists(
    st.builds(Event, st.floats(0, 100).map(lambda x: round(x, 3)), shown), max_size=6
)


def text_of(svg: str) -> str:
    """Return the text of a picture."""
    lines = ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    return "\n".join("".join(line.itertext()).rstrip() for line in lines)


@given(recordings)
def test_a_cast_is_the_recording(events: list[Event]) -> None:
    text = cast(events, "a title")
    assert read_cast(text) == events
    header = json.loads(text.splitlines()[0])
    assert header == {"version": 2, "width": 76, "height": 24, "title": "a title"}


@given(recordings)
def test_a_picture_shows_what_the_terminal_showed(events: list[Event]) -> None:
    svg = picture(events, "<&>")
    assert text_of(svg) == transcript(events)
    assert ET.fromstring(svg)[0].text == "<&>"
    plain = "".join(event.text for event in events)
    for escape in ("\x1b[2m", "\x1b[0m", "\x1b[?2004h"):
        plain = plain.replace(escape, "")
    assert "".join(transcript(events).split()) == "".join(plain.split())


def test_faint_text_and_times() -> None:
    events = [Event(0.5, "a\x1b[2mb"), Event(1.0, "c\x1b[0m\r\n> "), Event(2.0, "d\r\n\x1b[2me")]
    assert spans(events) == [
        [(0.5, "a", False), (0.5, "b", True), (1.0, "c", True)],
        [(1.0, "> ", False), (2.0, "d", False)],
        [(2.0, "e", True)],
    ]
    svg = picture(events, "x")
    assert '<tspan class="prompt" style="animation-delay:2s">d</tspan>' in svg
    assert '<tspan class="dim" style="animation-delay:2s">e</tspan>' in svg


def test_the_first_frame_has_all_up_to_the_first_prompt() -> None:
    svg = picture([Event(0.5, "hello\r\n> "), Event(2.0, "d\r\n> ")], "x")
    shown = re.findall(r'"animation:none">([^<]*)<', svg)
    assert shown == ["hello", "&gt; "]


def test_a_run_is_recorded(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_talker(tmp_path / "m.trwkv", [b":", b" one", b" two", b"\n\n"], template="robot")
    monkeypatch.setattr(record_chat, "KEY", 0.001)
    monkeypatch.setattr(record_chat, "PAUSE", 0.01)
    monkeypatch.setattr(
        record_chat, "RECORDINGS", {"x": (("examples/chat.py", model), ["count", "/quit"])}
    )
    monkeypatch.setenv("TINYRWKV_BACKEND", "numpy")
    record_chat.main([str(tmp_path / "out")])
    events = read_cast((tmp_path / "out" / "x.cast").read_text("utf-8"))
    assert (
        "\n> count\none two\n" in transcript(events)
        and transcript(events) in capsys.readouterr().out
    )
    assert [event.seconds for event in events] == sorted(event.seconds for event in events)


@pytest.mark.parametrize("name", RECORDINGS)
def test_the_page_shows_the_recordings(name: str) -> None:
    text = (FOLDER / f"{name}.cast").read_text("utf-8")
    title, events = json.loads(text.splitlines()[0])["title"], read_cast(text)
    arguments, lines = RECORDINGS[name]
    assert title == f"python {' '.join(arguments)}"
    assert (FOLDER / f"{name}.svg").read_text("utf-8") == picture(events, title)
    page = (ROOT / "docs" / "recordings.md").read_text("utf-8")
    assert transcript(events) in page and f"recordings/{name}.svg" in page
    assert all(f"\n> {line}" in transcript(events) for line in lines)
