"""The chat that people see: prompts in, answers out as they come, on a terminal or through a pipe."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from ..errors import TinyRWKVError
from ..units import show_size
from . import slash
from .background import stream
from .events import Events
from .terminal import Trimmer, Wrapper, dim, has_colours, is_terminal, wrap

if TYPE_CHECKING:
    from ..chat.chat import Chat
    from ..generate import Result

SHOWN = 3
"""Turns of an earlier conversation that are shown again."""

AGAIN = "Ctrl-C once more, or Ctrl-D, leaves."


class Console:
    """Reads prompts and shows answers.

    Between two terminals it converses: a banner, a prompt, lines broken between words, what an answer cost.
    Otherwise every line of the input is a prompt, and the output holds the answers and nothing else.

    Parameters
    ----------
    chat : Chat
    prompts : sequence of str
        What the banner proposes to say.
    source, out, notes : text stream, optional
        Standard input, output and error by default.
    """

    def __init__(
        self,
        chat: Chat,
        prompts: Sequence[str] = (),
        source: TextIO | None = None,
        out: TextIO | None = None,
        notes: TextIO | None = None,
    ) -> None:
        self.chat, self.prompts = chat, prompts
        self.source, self.out, self.notes = (
            source or sys.stdin,
            out or sys.stdout,
            notes or sys.stderr,
        )
        self.terminal = is_terminal(self.source) and is_terminal(self.out)
        self.colours = self.terminal and has_colours(self.out)
        self._at_prompt = False

    def run(self) -> None:
        """Talk until the input ends or the user leaves.

        Raises
        ------
        TinyRWKVError
            A line could not be answered; raised only through a pipe, others show it and go on.
        KeyboardInterrupt
            Ctrl-C, only through a pipe.
        """
        if self.terminal:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401 - gives input() its line editing and history
            self._banner()
        leaving = False
        while True:
            try:
                line = self._read()
                if line is None:
                    return
                leaving = False
                self.handle(line)
            except slash.Leave:
                return
            except KeyboardInterrupt:
                if not self.terminal:
                    raise
                self._write("\n")
                if self._at_prompt and leaving:
                    return
                leaving = self._at_prompt
                self._note(AGAIN if leaving else "")
            except UnicodeDecodeError:
                self._note("That was no text in the terminal's encoding.")
            except TinyRWKVError as error:
                self._failed(error)

    def handle(self, line: str) -> None:
        """Answer one line: a prompt, or a command that begins with a slash."""
        if line.startswith("/"):
            self._show(*slash.run(self.chat, line))
        elif line.strip():
            self._answer(line)

    def _failed(self, error: TinyRWKVError) -> None:
        if not self.terminal:
            raise error
        self._write(wrap(str(error)) + "\n")

    def _show(self, text: str, report: bool) -> None:
        """Show what a command returned: through a pipe only what it was asked for, the rest as a note."""
        if self.terminal:
            self._write(wrap(text) + "\n")
        else:
            print(text, file=self.out if report else self.notes, flush=True)

    def _read(self) -> str | None:
        """Return a line; None at the end."""
        if not self.terminal:
            line = self.source.readline()
            return line.rstrip("\r\n") if line else None
        self._at_prompt = True
        try:
            line = input("> ")
        except EOFError:
            self._write("\n")
            return None
        self._at_prompt = False
        return line

    def _answer(self, line: str) -> None:
        generation = self.chat.ask(line)
        trimmer, wrapper = Trimmer(), Wrapper()
        interrupted = False
        try:
            with contextlib.closing(stream(generation)) as pieces:
                for piece in pieces:
                    text = trimmer.push(piece.text)
                    self._write(wrapper.push(text) if self.terminal else text)
        except KeyboardInterrupt:
            if not self.terminal:
                raise
            interrupted = True
        self._write(wrapper.flush() + "\n")
        if self.terminal:
            self._after(generation.result, interrupted)

    def _after(self, result: Result, interrupted: bool) -> None:
        """Say what an answer cost, and why it ended where that is not plain to see."""
        times, notes = result.timings, []
        if interrupted:
            notes.append(
                "stopped"
                if result.tokens
                else "stopped before it was read: no part of the conversation"
            )
        elif result.stop_reason == "length":
            notes.append(f"cut at {self.chat.max_tokens} tokens, /set max_tokens allows more")
        if times["seconds"]:
            notes.append(
                f"{times['tokens']} tokens, {times['tokens'] / times['seconds']:.1f} tok/s"
            )
        now = self.chat.memory()
        if now["rss"] is not None:
            notes.append(f"RSS {show_size(now['rss'])}")
        if now["resident_limit"] is not None:
            notes.append(f"file {show_size(now['resident'])} of {show_size(now['resident_limit'])}")
        self._note("; ".join(notes))

    def _banner(self) -> None:
        model, config = self.chat.model, self.chat.model.config
        name = os.path.splitext(
            os.path.basename(config.get("source", {}).get("name", "") or model.path)
        )[0]
        size = show_size(model.plan()["resident_bytes_max"])
        text = f"{name}: RWKV {config['arch']}, {config['n_layer']} layers of {config['n_embd']}, {config['dtype']}, "
        self._note(text + f"at most {size} of it in memory, backend {model.backend.name}")
        if self.prompts:
            self._write("Try:\n" + "".join(wrap(f"  {prompt}") + "\n" for prompt in self.prompts))
        self._note("/help lists commands, Ctrl-C stops an answer, Ctrl-D leaves.")
        for said in self.chat.transcript[-SHOWN:]:
            self._note(f"> {said.question}\n{said.answer}")

    def _note(self, text: str) -> None:
        if text:
            self._write(dim(wrap(text), self.colours) + "\n")

    def _write(self, text: str) -> None:
        if text:
            self.out.write(text)
            self.out.flush()


class EventConsole(Console):
    """Reads a prompt in every line, and writes events instead of answers: see docs/events.md."""

    def __init__(self, chat: Chat, source: TextIO | None = None, out: TextIO | None = None) -> None:
        super().__init__(chat, source=source, out=out)
        self.terminal = self.colours = False
        self.events = Events(self.out)

    def _show(self, text: str, report: bool) -> None:
        self.events("report", text=text)

    def _failed(self, error: TinyRWKVError) -> None:
        self.events("error", message=str(error))

    def _answer(self, line: str) -> None:
        generation = self.chat.ask(line)
        turn = self.chat.last
        self.events(
            "begin", turn=self.chat.turns, prompt=line, command=turn is not None and turn.command
        )
        with contextlib.closing(stream(generation)) as pieces:
            for piece in pieces:
                self.events.piece(piece)
        self.events.end(generation)
