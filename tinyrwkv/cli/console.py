"""The chat that people see, on a terminal or through a pipe: prompts in, answers out."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from ..chat.thinking import AnyGeneration, ThoughtPiece, thought_tokens
from ..errors import FormatError, TinyRWKVError
from ..generate import Generation, TokenConstraint
from ..units import show_size
from . import options, slash
from .background import stream
from .editing import Editor
from .events import Events
from .terminal import Trimmer, Wrapper, dim, has_colours, is_terminal, wrap
from .thoughts import ThoughtView

if TYPE_CHECKING:
    from ..chat.chat import Chat
    from ..model import Model

SHOWN = 3
"""Turns of an earlier conversation that are shown again."""

AGAIN = "Press Ctrl-C once more to leave, or Ctrl-D."


class Console:
    """Reads prompts and shows answers.

    On a terminal it shows a banner and a prompt, breaks lines between words, and says what an
    answer cost. Through a pipe, every line of the input is a prompt, and the output has the answers
    and nothing else.

    Parameters
    ----------
    chat : Chat
    prompts : sequence of str
        Prompts that the banner suggests.
    source, out, notes : text stream, optional
        Standard input, output and error by default.
    constraint : TokenConstraint, optional
        What every answer must match: a `json_block.json_block`.
    """

    def __init__(
        self,
        chat: Chat,
        prompts: Sequence[str] = (),
        source: TextIO | None = None,
        out: TextIO | None = None,
        notes: TextIO | None = None,
        constraint: TokenConstraint | None = None,
    ) -> None:
        self.chat = chat
        self.prompts = prompts
        self.source = source or sys.stdin
        self.out = out or sys.stdout
        self.notes = notes or sys.stderr
        self.terminal = is_terminal(self.source) and is_terminal(self.out)
        self.colours = self.terminal and has_colours(self.out)
        self.constraint = constraint
        chat.thoughts = "dim" if self.terminal else "hide"
        self._at_prompt = False
        self._leaving = False  # whether another Ctrl-C at the prompt leaves

    def run(self) -> bool:
        """Talk until the input ends or the user leaves.

        Returns
        -------
        bool
            Whether all that came through a pipe was done. A slash command that fails does not end
            the chat. On a terminal, neither does a prompt.

        Raises
        ------
        TinyRWKVError
            The input cannot be read, or a prompt from a pipe could not be answered.
        KeyboardInterrupt
            Ctrl-C was pressed while lines came through a pipe.
        """
        if self.terminal:
            self._editor = Editor(lambda words: slash.completions(self.chat, words))
            self._banner()
        well = True
        with contextlib.suppress(slash.Leave):
            while True:
                try:
                    well &= self._take(self._read())
                except KeyboardInterrupt:
                    if not self.terminal:
                        raise
                    self._interrupted()
                except UnicodeDecodeError:
                    self._note("That was not text in the terminal's encoding.")
        return well or self.terminal

    def _take(self, line: str) -> bool:
        """Answer one line; tell whether that went well."""
        try:
            self.handle(line)
        except TinyRWKVError as error:
            self._failed(line, error)
            return False
        return True

    def _interrupted(self) -> None:
        """Handle Ctrl-C: it drops what was typed; the second in a row leaves an empty prompt."""
        self._write("\n")
        if self._at_prompt and self._leaving and not self._editor.has_text():
            raise slash.Leave
        self._leaving = self._at_prompt
        if self._leaving:
            self._note(AGAIN)

    def handle(self, line: str) -> None:
        """Answer one line: a prompt, or a slash command."""
        if line.startswith("/"):
            self._show(*slash.run(self.chat, line))
        elif line.strip():
            self._answer(line)

    def tell(self, text: str) -> None:
        """Show a text that is no answer."""
        self._show(text, report=False)

    def _failed(self, line: str, error: TinyRWKVError) -> None:
        if self.terminal:
            self._write(wrap(str(error)) + "\n")
        elif line.startswith("/"):
            print(f"tinyrwkv: {error}", file=self.notes)
        else:
            raise error

    def _show(self, text: str, report: bool) -> None:
        """Show what a slash command returned.

        Through a pipe, only a report goes to the output. Other texts are notes.
        """
        if self.terminal:
            self._write(wrap(text) + "\n")
        else:
            print(text, file=self.out if report else self.notes, flush=True)

    def _read(self) -> str:
        """Return a prompt; raise `slash.Leave` at the end of the input."""
        if not self.terminal:
            line = self.source.readline()
            if not line:
                raise slash.Leave
            return line.rstrip("\r\n")
        self._at_prompt = True
        try:
            line = self._editor.read()
        except EOFError:
            self._write("\n")
            raise slash.Leave from None
        self._at_prompt = self._leaving = False
        return line

    def _answer(self, line: str) -> None:
        generation = self.chat.ask(line, constraint=self.constraint)
        view = ThoughtView(self.chat.thoughts, self.colours, Wrapper() if self.terminal else None)
        trimmer, wrapper = Trimmer(), Wrapper()
        interrupted = False
        try:
            with contextlib.closing(stream(generation)) as pieces:
                for piece in pieces:
                    if isinstance(piece, ThoughtPiece):
                        self._write(view.push(piece.text))
                        continue
                    text = trimmer.push(piece.text)
                    self._write(view.end() + (wrapper.push(text) if self.terminal else text))
        except KeyboardInterrupt:
            if not self.terminal:
                raise
            interrupted = True
        self._write(view.end() + wrapper.flush() + "\n")
        if self.terminal:
            self._after(generation, interrupted)

    def _after(self, generation: AnyGeneration, interrupted: bool) -> None:
        """Say what an answer cost, and why it ended if that is not obvious."""
        result = generation.result
        thought = thought_tokens(result)
        notes = []
        if interrupted and len(result.tokens) > thought:
            notes.append("stopped")
        elif interrupted and thought:
            notes.append("stopped before the answer; turn discarded")
        elif interrupted:
            notes.append("stopped before the prompt was read; turn discarded")
        elif result.stop_reason == "length":
            notes.append(f"cut at {self.chat.max_tokens} tokens, /set max_tokens allows more")
        tokens = result.timings["tokens"]
        seconds = result.timings["seconds"]
        if seconds:
            part = f" ({thought} of them thought)" if thought else ""
            notes.append(f"{tokens} tokens{part}, {tokens / seconds:.1f} tok/s")
        now = self.chat.memory()
        if now["rss"] is not None:
            notes.append(f"RSS {show_size(now['rss'])}")
        if now["resident_limit"] is not None:
            notes.append(f"file {show_size(now['resident'])} of {show_size(now['resident_limit'])}")
        self._note("; ".join(notes))

    def _banner(self) -> None:
        model = self.chat.model
        shape = options.shape(model.config)
        size = show_size(model.plan()["resident_bytes_max"])
        backend = model.backend.name
        self._note(f"{_name(model)}: {shape}, at most {size} of it in memory, backend {backend}")
        if self.prompts:
            self._write("Try:\n")
        for prompt in self.prompts:
            self._write(wrap(f"  {prompt}") + "\n")
        self._note("/help lists the slash commands, Ctrl-C stops an answer, Ctrl-D leaves.")
        for said in self.chat.transcript[-SHOWN:]:
            self._note(f"> {said.question}\n{said.answer}")

    def _note(self, text: str) -> None:
        if text:
            self._write(dim(wrap(text), self.colours) + "\n")

    def _write(self, text: str) -> None:
        if text:
            self.out.write(text)
            self.out.flush()


def _name(model: Model) -> str:
    """Return the name of the checkpoint or else of the model's file, without the ending."""
    source = model.config.get("source", {}).get("name", "")
    return os.path.splitext(os.path.basename(source or model.path))[0]


class EventConsole(Console):
    """Takes every line as a prompt, and writes events instead of answers: see docs/events.md."""

    def __init__(
        self,
        chat: Chat,
        source: TextIO | None = None,
        out: TextIO | None = None,
        constraint: TokenConstraint | None = None,
    ) -> None:
        super().__init__(chat, source=source, out=out, constraint=constraint)
        self.terminal = self.colours = False
        self.events = Events(self.out)

    def _show(self, text: str, report: bool) -> None:
        self.events("report", text=text)

    def _failed(self, line: str, error: TinyRWKVError) -> None:
        self.events("error", message=str(error))

    def _answer(self, line: str) -> None:
        generation = self.chat.ask(line, constraint=self.constraint)
        turn = self.chat.last
        is_order = turn is not None and turn.command
        self.events("begin", turn=self.chat.turns, prompt=line, command=is_order)
        logprob = 0.0
        with contextlib.closing(stream(generation)) as pieces:
            for piece in pieces:
                logprob += piece.logprob
                self.events.piece(piece)
        self.events.end(generation, **self._about(line, generation, logprob))

    def _about(self, line: str, generation: AnyGeneration, logprob: float) -> dict[str, Any]:
        """Return what else a program is told about an answer."""
        if self.constraint is not None:
            return _value(generation.result.text)
        if self.chat.template.name != "robot" or not isinstance(generation, Generation):
            return {}
        # Only here, because the grammar of scripts takes time to import and to build.
        from ..robot.scripts import Scripts
        from ..robot.told import told

        about = told(line, generation.result, logprob, Scripts())
        return {key: about[key] for key in ("logprob", "decision", "reasons")}


def _value(text: str) -> dict[str, Any]:
    """Return the value of an answer that is a block of JSON; nothing if the answer was cut off."""
    from ..chat.json_block import read_json_block  # here, because few people need it

    with contextlib.suppress(FormatError):
        return {"value": read_json_block(text)}
    return {}
