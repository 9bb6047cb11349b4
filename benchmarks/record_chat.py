"""Record a chat in a terminal: an asciinema .cast, and a picture that plays in a browser.

    python benchmarks/record_chat.py docs/recordings

Each recording of RECORDINGS is a real run of the command, typed into a pseudo-terminal at the speed
of a person. Nothing is cut out and no time is changed. The transcripts that it prints are those of
docs/recordings.md.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import pathlib
import pty
import re
import select
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
COLUMNS, ROWS = 76, 24
KEY = 0.05  # seconds between keys
PAUSE = 0.8  # before each line

CHAT = ("examples/chat.py", "--seed", "5", "--resume", "talk")
RECORDINGS = {
    "chat": (
        CHAT,
        [
            "please go forward two meters and then turn left",
            *("What do you like to do for fun?", "/why", "/undo", "Do you like pizza?", "/quit"),
        ],
    ),
    "resume": (CHAT, ["And what can you do?", "/stats", "/memory", "/quit"]),
}
"""Arguments of Python, and the lines typed; they follow each other in one folder."""

ESCAPE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])")
STYLE = """
text { font: 14px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; """
STYLE += """fill: #e6e6e6; white-space: pre }
.dim { fill: #8f98a3 }
.prompt { fill: #7fd1ae }
@media not (prefers-reduced-motion) { tspan { animation: show 1ms both } }
@keyframes show { from { visibility: hidden } to { visibility: visible } }
"""


class Event(NamedTuple):
    """What the terminal was sent, and how many seconds after the start."""

    seconds: float
    text: str


class Span(NamedTuple):
    """Part of a line: when it appeared, and whether faintly."""

    seconds: float
    text: str
    dim: bool


def record(arguments: Sequence[str], lines: Sequence[str], folder: str) -> list[Event]:
    """Run Python in a terminal of its own; type a line at each prompt; return what it showed."""
    import fcntl
    import termios

    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": folder}
    environment.pop("NO_COLOR", None)
    begin = time.monotonic()
    command = [sys.executable, str(ROOT / arguments[0]), *arguments[1:]]
    process = subprocess.Popen(
        command, stdin=inner, stdout=inner, stderr=inner, cwd=folder, env=environment
    )
    os.close(inner)
    events: list[Event] = []

    def read(seconds: float) -> bool:
        """Keep what comes within some seconds; tell whether something did."""
        if not select.select([outer], [], [], seconds)[0]:
            return False
        try:
            data = os.read(outer, 65536)
        except OSError:  # closed
            return False
        events.append(Event(round(time.monotonic() - begin, 3), data.decode()))
        return bool(data)

    for line in lines:
        while not ESCAPE.sub("", "".join(event.text for event in events)).endswith("\n> "):
            if not read(30):
                raise SystemExit("no prompt came")
        time.sleep(PAUSE)
        for character in line + "\n":
            os.write(outer, character.encode())
            read(KEY)
            time.sleep(KEY)
    while read(10):
        pass
    process.wait(10)
    os.close(outer)
    return events


def cast(events: Sequence[Event], title: str) -> str:
    """Return a recording as asciicast 2: a header, then [seconds, "o", text] in each line."""
    header = {"version": 2, "width": COLUMNS, "height": ROWS, "title": title}
    return (
        "\n".join(
            [json.dumps(header), *(json.dumps([*event[:1], "o", event.text]) for event in events)]
        )
        + "\n"
    )


def read_cast(text: str) -> list[Event]:
    """Return the events of such a recording."""
    return [Event(seconds, data) for seconds, _, data in map(json.loads, text.splitlines()[1:])]


def spans(events: Sequence[Event]) -> list[list[Span]]:
    """Return the lines on the screen in the end, each in parts by the time of their appearance."""
    lines: list[list[Span]] = [[]]
    dim = False
    for seconds, text in events:
        for part in re.split(r"(\x1b\[[?0-9;]*[A-Za-z]|\r?\n|\r)", text):
            if (escape := ESCAPE.fullmatch(part)) is not None:
                dim = {"2m": True, "0m": False}.get(escape[1] + escape[2], dim)
            elif part.endswith("\n"):
                lines.append([])
            elif part and part != "\r":
                lines[-1].append(Span(seconds, part, dim))
    return lines if lines[-1] else lines[:-1]


def transcript(events: Sequence[Event]) -> str:
    """Return what was shown, as plain text."""
    return "\n".join("".join(span.text for span in line).rstrip() for line in spans(events))


def picture(events: Sequence[Event], title: str) -> str:
    """Return an SVG in which every part appears at its time; without animation all of it shows.

    What came up to the first prompt shows from the beginning.
    """
    lines = spans(events)
    prompts = (line[0].seconds for line in lines if _is_prompt(line))
    first = min(prompts, default=0.0)
    width, height = 8.5 * COLUMNS + 32, 19 * len(lines) + 32
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height}" role="img">',
            f"<title>{html.escape(title)}</title>",
            f"<style>{STYLE}</style>",
            f'<rect width="{width:g}" height="{height}" rx="8" fill="#1d2329"/>',
            *(_line(line, 19 * number + 12, first) for number, line in enumerate(lines, 1)),
            "</svg>\n",
        ]
    )


def _is_prompt(line: Sequence[Span]) -> bool:
    return bool(line) and not line[0].dim and line[0].text.startswith("> ")


def _line(line: Sequence[Span], y: int, first: float) -> str:
    """Return a line of the picture; what a person typed has the colour of the prompt."""
    typed = _is_prompt(line)
    parts = []
    for span in line:
        style = ' class="dim"' if span.dim else ' class="prompt"' if typed else ""
        text = html.escape(span.text, quote=False)
        delay = f"animation-delay:{span.seconds:g}s" if span.seconds > first else "animation:none"
        parts.append(f'<tspan{style} style="{delay}">{text}</tspan>')
    return f'<text x="16" y="{y}" xml:space="preserve">{"".join(parts)}</text>'


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="where to write NAME.cast and NAME.svg")
    folder = pathlib.Path(parser.parse_args(argv).folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        for name, (arguments, lines) in RECORDINGS.items():
            title = f"python {' '.join(arguments)}"
            events = record(arguments, lines, place)
            (folder / f"{name}.cast").write_text(cast(events, title), "utf-8")
            (folder / f"{name}.svg").write_text(picture(events, title), "utf-8")
            print(f"{name}: $ {title}\n\n{transcript(events)}\n")


if __name__ == "__main__":
    main()
