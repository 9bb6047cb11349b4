"""What a command line needs of a terminal: colours, wrapped lines, a progress bar."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO


def is_terminal(stream: TextIO | None) -> bool:
    """Tell whether a stream is open and a terminal."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def has_colours(stream: TextIO | None) -> bool:
    """Tell whether to colour what goes to a stream: a terminal that knows how, and no NO_COLOR in the environment."""
    capable = bool(os.environ.get("WT_SESSION")) if os.name == "nt" else not is_dumb()
    return is_terminal(stream) and capable and not os.environ.get("NO_COLOR")


def is_dumb() -> bool:
    """Tell whether the terminal says that it only writes one character after another."""
    return os.name != "nt" and os.environ.get("TERM", "") in ("", "dumb")


def dim(text: str, colours: bool) -> str:
    """Return text to be shown faintly, as it is without colours."""
    return f"\x1b[2m{text}\x1b[0m" if colours and text else text


def width() -> int:
    """Return the columns to fill: one is left free, because terminals differ in what they do after a full line."""
    try:
        told = int(os.environ.get("COLUMNS") or os.get_terminal_size(1).columns)
    except (OSError, ValueError):  # standard output is no terminal, or COLUMNS no number
        told = 80
    return max(10, told - 1)


def printable(text: str) -> str:
    """Return text without the control characters that terminals obey, but with its line breaks and tabs."""
    return "".join("\ufffd" if _is_control(character) else character for character in text)


def _is_control(character: str) -> bool:
    return character not in "\n\t" and (character < " " or "\x7f" <= character < "\xa0")


def columns(text: str) -> int:
    """Return how many columns a text takes: two for wide East Asian characters, none for combining ones.

    Examples
    --------
    >>> columns("abc"), columns("日本"), columns("e\u0301")
    (3, 4, 1)
    """
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(character: str) -> int:
    import unicodedata  # 0.1 MB, and most people write ASCII

    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


class Trimmer:
    r"""Passes on a stream of text without the white space around it.

    Examples
    --------
    >>> trimmer = Trimmer()
    >>> [trimmer.push(piece) for piece in (" ", " on", "e ", "two", "\n\n")]
    ['', 'on', 'e', ' two', '']
    """

    def __init__(self) -> None:
        self._begun, self._space = False, ""

    def push(self, text: str) -> str:
        """Return the text that is certain by now."""
        text = self._space + text if self._begun else text.lstrip()
        shown = text.rstrip()
        self._begun = self._begun or bool(shown)
        self._space = text[len(shown) :]
        return shown


class Wrapper:
    r"""Breaks a stream of text into lines between words, and lets no control character through to the terminal.

    Parameters
    ----------
    limit : callable
        Returns the columns of a line; asked anew, because windows change their size.

    Examples
    --------
    >>> wrapper = Wrapper(lambda: 10)
    >>> wrapper.push("one two thr") + wrapper.push("ee") + wrapper.flush()
    'one two\nthree'
    """

    def __init__(self, limit: Callable[[], int] = width) -> None:
        self.limit = limit
        self._column, self._space, self._word = 0, "", ""

    def push(self, text: str) -> str:
        """Return the words that are complete by now, with line breaks."""
        return "".join(self._push(text, self.limit()))

    def flush(self) -> str:
        """Return the last word."""
        return self._place(self.limit())

    def _push(self, text: str, limit: int) -> Iterator[str]:
        for character in text:
            if character == "\n":
                yield self._place(limit) + "\n"
                self._column, self._space = 0, ""
            elif character in " \t":
                yield self._place(limit)
                self._space += " " if character == " " else "    "
            elif character != "\r":
                wide = not character.isascii() and _columns(character) == 2
                if wide:  # such scripts have no spaces: a line may end after every character
                    yield self._place(limit)
                self._word += "\ufffd" if _is_control(character) else character
                if wide:
                    yield self._place(limit)

    def _place(self, limit: int) -> str:
        """Return the word, on a new line where it does not fit on this one, cut where it fits on none."""
        space, word, self._space, self._word = self._space, self._word, "", ""
        if not word:
            self._space = space
            return ""
        if self._column + len(space) + columns(word) > limit and self._column:
            space = "\n"
            self._column = 0
        else:
            space = (
                space if self._column + len(space) <= limit else ""
            )  # an indentation wider than the line
            self._column += len(space)
        parts = [space]
        for character in word if self._column + columns(word) > limit else (word,):
            size = columns(character)
            if self._column and self._column + size > limit:
                parts.append("\n")
                self._column = 0
            parts.append(character)
            self._column += size
        return "".join(parts)


def wrap(text: str, limit: Callable[[], int] = width) -> str:
    """Return a whole text with line breaks between words."""
    wrapper = Wrapper(limit)
    return wrapper.push(text) + wrapper.flush()


class Progress:
    """A bar on a terminal, drawn at most ten times a second, and gone afterwards; elsewhere, and on dumb ones, nothing.

    Parameters
    ----------
    label : str
    stream : text stream, optional
        Standard error by default.
    """

    def __init__(self, label: str, stream: TextIO | None = None) -> None:
        self.label, self.stream = label, sys.stderr if stream is None else stream
        self.shown = is_terminal(self.stream) and not is_dumb()
        self._last, self._drawn = -1.0, 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._drawn:
            self.stream.write("\r" + " " * self._drawn + "\r")
            self.stream.flush()

    def __call__(self, done: int, total: int) -> None:
        """Show how much is done."""
        if not self.shown or (self._drawn and time.monotonic() - self._last < 0.1):
            return
        self._last = time.monotonic()
        size = max(4, min(40, width() - len(self.label) - 10))
        filled = size * done // max(1, total)
        bar = f"{self.label} [{'#' * filled}{'.' * (size - filled)}] {100 * done // max(1, total):3d} %"
        self._drawn = len(bar)
        self.stream.write("\r" + bar)
        self.stream.flush()
