"""How a prompt is typed on a terminal: with a history, completion, and more lines than one."""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import sys
from collections.abc import Callable, Iterable
from types import ModuleType

from .terminal import is_dumb

BLOCK = '"""'
"""What a prompt of several lines begins and ends with."""

PASTED = 0.02
"""Seconds within which the next line of a pasted text is there."""


class Editor:
    """Reads prompts from a terminal.

    A text that is pasted is one prompt, whatever lines it has. So is all between two `BLOCK`.
    The key of completion completes slash commands.

    Parameters
    ----------
    complete : callable
        Takes the words of a line up to the one to complete, and returns what it may be.
    """

    def __init__(self, complete: Callable[[list[str]], Iterable[str]]) -> None:
        self._complete = complete
        self._found: list[str] = []
        self._readline: ModuleType | None = None
        self._has_lines = False  # whether lines of the prompt have come before this one
        self._is_bracketed = False  # whether the terminal tells where a pasted text ends
        with contextlib.suppress(ImportError):
            self._prepare(importlib.import_module("readline"))

    def _prepare(self, readline: ModuleType) -> None:
        """Set up the library that gives input() line editing and a history."""
        self._readline = readline
        readline.set_completer_delims(" ")
        readline.set_completer(self._completion)
        if "libedit" in (readline.__doc__ or ""):
            readline.parse_and_bind("bind ^I rl_complete")
            return
        readline.parse_and_bind("tab: complete")
        if not is_dumb():
            readline.parse_and_bind("set enable-bracketed-paste on")
            self._is_bracketed = True

    def read(self) -> str:
        """Return a prompt.

        Raises
        ------
        EOFError
            The input has ended.
        """
        is_typed_ahead = _is_waiting(0)  # while the last answer came
        self._has_lines = False
        text = input("> ")
        self._has_lines = True
        if not (self._is_bracketed or is_typed_ahead):
            while _is_waiting(PASTED):
                text += "\n" + input()
        return _block(text) if text.startswith(BLOCK) else text

    def has_text(self) -> bool:
        """Tell whether anything was typed of a prompt that Ctrl-C has ended."""
        return self._has_lines or bool(self._readline and self._readline.get_line_buffer())

    def _completion(self, word: str, number: int) -> str | None:
        """Return one of the completions of a word, as readline asks for them."""
        if number == 0 and self._readline:
            before = self._readline.get_line_buffer()[: self._readline.get_begidx()]
            choices = self._complete([*before.split(), word])
            self._found = [one for one in choices if one.startswith(word)]
        return self._found[number] if number < len(self._found) else None


def _block(text: str) -> str:
    """Return the lines up to the one that ends a block, or up to the end of the input."""
    text = text[len(BLOCK) :]
    with contextlib.suppress(EOFError):
        while not text.rstrip().endswith(BLOCK):
            text += "\n" + input("... ")
    text = text.rstrip().removesuffix(BLOCK).strip("\n")
    return f" {text}" if text.startswith("/") else text  # it is no slash command


def _is_waiting(seconds: float) -> bool:
    """Tell whether more of the input is there already."""
    if os.name == "nt":  # a console cannot be asked
        return False
    return bool(select.select([sys.stdin], [], [], seconds)[0])


def paths(begun: str) -> list[str]:
    """Return the paths that may complete one that was begun; folders end with a slash."""
    shown = begun[: begun.rfind("/") + 1]
    found = []
    with contextlib.suppress(OSError), os.scandir(os.path.expanduser(shown) or ".") as entries:
        for entry in entries:
            found.append(shown + entry.name + "/" * entry.is_dir())
    return sorted(found)
