"""What a command line shows on a terminal: colours, wrapped lines, a progress bar."""

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
    """Tell whether the output to a stream may have colours.

    The stream must be a terminal that knows colours, and NO_COLOR must not be set.
    """
    if not is_terminal(stream) or os.environ.get("NO_COLOR"):
        return False
    if os.name == "nt":
        return bool(os.environ.get("WT_SESSION"))
    return not is_dumb()


def is_dumb() -> bool:
    """Tell whether the terminal can only write one character after another."""
    return os.name != "nt" and os.environ.get("TERM", "") in ("", "dumb")


def dim(text: str, colours: bool) -> str:
    """Return text that a terminal shows faintly. Without colours, return the text as it is."""
    return f"\x1b[2m{text}\x1b[0m" if colours and text else text


def width() -> int:
    """Return the number of columns to fill.

    One column is left free, because terminals differ in what they do after a full line.
    """
    try:
        told = int(os.environ.get("COLUMNS") or os.get_terminal_size(1).columns)
    except (OSError, ValueError):  # standard output is not a terminal, COLUMNS not a number
        told = 0
    return max(10, (told or 80) - 1)  # a serial console says 0: it does not know its width


def printable(text: str) -> str:
    """Return text with U+FFFD in place of control characters other than line breaks and tabs."""
    return "".join("\ufffd" if _is_control(character) else character for character in text)


def _is_control(character: str) -> bool:
    return character not in "\n\t" and (character < " " or "\x7f" <= character < "\xa0")


def columns(text: str) -> int:
    """Return how many columns a text takes.

    Wide East Asian characters take two columns, combining characters take none.

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
        self._begun = False
        self._space = ""

    def push(self, text: str) -> str:
        """Take a piece; return the text that is certain by now."""
        text = self._space + text if self._begun else text.lstrip()
        shown = text.rstrip()
        self._begun = self._begun or bool(shown)
        self._space = text[len(shown) :]
        return shown


class Wrapper:
    r"""Breaks a stream of text into lines between words.

    It lets no control character through to the terminal.

    Parameters
    ----------
    limit : callable
        Returns the number of columns of a line. It is called for each piece, because windows can
        change their size.

    Examples
    --------
    >>> wrapper = Wrapper(lambda: 10)
    >>> wrapper.push("one two thr") + wrapper.push("ee") + wrapper.flush()
    'one two\nthree'
    """

    def __init__(self, limit: Callable[[], int] = width) -> None:
        self.limit = limit
        self._column = 0
        self._space = ""
        self._word = ""

    def push(self, text: str) -> str:
        """Take a piece; return the words that are complete by now, with line breaks."""
        return "".join(self._push(text, self.limit()))

    def flush(self) -> str:
        """Return the last word."""
        return self._place(self.limit())

    def _push(self, text: str, limit: int) -> Iterator[str]:
        for character in text:
            if character == "\n":
                yield self._place(limit) + "\n"
                self._column = 0
                self._space = ""
            elif character in " \t":
                yield self._place(limit)
                self._space += " " if character == " " else "    "
            elif not character.isascii() and _columns(character) == 2:
                yield self._place(limit)
                self._word = character
                yield self._place(limit)  # wide scripts have no spaces: a line may end anywhere
            elif character != "\r":
                self._word += "\ufffd" if _is_control(character) else character

    def _place(self, limit: int) -> str:
        """Return the spaces and the word that wait, on a new line if they do not fit."""
        if not self._word:
            return ""
        space, word = self._space, self._word
        self._space = self._word = ""
        fits = self._column + len(space) + columns(word) <= limit
        if not fits and self._column:
            return "\n" + self._cut(word, limit, column=0)
        column = self._column + len(space)
        if column > limit:  # an indentation that is wider than the line
            return self._cut(word, limit, self._column)
        return space + self._cut(word, limit, column)

    def _cut(self, word: str, limit: int, column: int) -> str:
        """Return a word that begins at a column, with line breaks if it fits on no line."""
        size = columns(word)
        if column + size <= limit:
            self._column = column + size
            return word
        parts = []
        for character in word:
            size = columns(character)
            if column and column + size > limit:
                parts.append("\n")
                column = 0
            parts.append(character)
            column += size
        self._column = column
        return "".join(parts)


def wrap(text: str, limit: Callable[[], int] = width) -> str:
    """Return a whole text with line breaks between words."""
    wrapper = Wrapper(limit)
    return wrapper.push(text) + wrapper.flush()


class Progress:
    """A progress bar on a terminal. It disappears at the end.

    It is drawn at most ten times a second. On dumb terminals, and on streams that are not
    terminals, it is not drawn.

    Parameters
    ----------
    label : str
    stream : text stream, optional
        Standard error by default.
    """

    def __init__(self, label: str, stream: TextIO | None = None) -> None:
        self.label = label
        self.stream = sys.stderr if stream is None else stream
        self.shown = is_terminal(self.stream) and not is_dumb()
        self._last = -1.0  # when it was drawn
        self._drawn = 0  # its columns

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._drawn:
            self.stream.write("\r" + " " * self._drawn + "\r")
            self.stream.flush()

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` is done."""
        if not self.shown or (self._drawn and time.monotonic() - self._last < 0.1):
            return
        self._last = time.monotonic()
        size = max(4, min(40, width() - len(self.label) - 10))
        total = max(1, total)
        filled = size * done // total
        bar = "#" * filled + "." * (size - filled)
        line = f"{self.label} [{bar}] {100 * done // total:3d} %"
        self._drawn = len(line)
        self.stream.write("\r" + line)
        self.stream.flush()
