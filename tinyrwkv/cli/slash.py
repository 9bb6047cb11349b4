"""What can be typed in a chat besides prompts: /reset, /save and the like."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..chat import settings
from ..engine.plan import together
from ..errors import ArgumentError
from ..generate import END_OF_DOCUMENT
from ..units import show_size
from .terminal import columns

if TYPE_CHECKING:
    from ..chat.chat import Chat
    from ..tokenizer import Tokenizer


class Slash(NamedTuple):
    """A command.

    Attributes
    ----------
    run : callable
        Does it with the argument given, and returns what to show.
    argument, purpose : str
        For /help.
    report : bool
        Whether what it shows is what it is for.
    """

    run: Callable[[Chat, str], str]
    argument: str
    purpose: str
    report: bool = False


class Leave(Exception):
    """The user wants to leave."""


def run(chat: Chat, line: str) -> tuple[str, bool]:
    """Run a line that begins with a slash.

    Parameters
    ----------
    chat : Chat
    line : str
        For instance "/set temperature 0.5".

    Returns
    -------
    text : str
        What to show.
    report : bool
        Whether that is what the command is for, and not a confirmation.

    Raises
    ------
    TinyRWKVError
        There is no such command, or it could not be done.
    Leave
        It was /quit.
    """
    name, _, argument = line.strip().partition(" ")
    command, argument = COMMANDS.get(name), argument.strip()
    if command is None:
        fix = "/help explains them; begin with a space to say something that begins with a slash"
        raise ArgumentError("chat", "command", repr(name), f"one of {' '.join(COMMANDS)}", fix)
    if bool(argument) != bool(command.argument) and name != "/set":
        expected = f"{name} {command.argument}".strip()
        raise ArgumentError("chat", "command", repr(line.strip()), repr(expected), "write it so")
    return command.run(chat, argument), command.report or line.strip() == "/set"


def _reset(chat: Chat, argument: str) -> str:
    chat.reset()
    return "A new conversation."


def _save(chat: Chat, argument: str) -> str:
    path = os.path.expanduser(argument)
    chat.save(path)
    return f"Saved after {chat.state.tokens:,} tokens: {path}"


def _load(chat: Chat, argument: str) -> str:
    path = os.path.expanduser(argument)
    chat.load(path)
    return f"Going on after {chat.state.tokens:,} tokens: {path}"


def _undo(chat: Chat, argument: str) -> str:
    text = chat.undo()
    return "Nothing to take back." if text is None else f"Taken back: {text}"


def _set(chat: Chat, argument: str) -> str:
    key, _, value = argument.replace("=", " ", 1).partition(" ")
    if not key:
        return _table([(name, settings.show(number)) for name, number in chat.settings().items()])
    chat.set(key, value.strip())
    return f"{key} is {settings.show(chat.settings()[key])} now."


def _stats(chat: Chat, argument: str) -> str:
    model, config = chat.model, chat.model.config
    shape = f"RWKV {config['arch']}, {config['n_layer']} layers of {config['n_embd']}, {config['dtype']}"
    rows = [
        ("model", shape),
        ("backend", f"{model.backend.name}, threads: {model.backend.threads}"),
    ]
    rows += [
        ("template", chat.template.name),
        ("turns", f"{chat.turns}"),
        ("tokens read", f"{chat.state.tokens:,}"),
    ]
    rows += [("state", show_size(chat.state.data.nbytes))]
    if chat.system_source:
        rows += [
            (
                "system text",
                {"cache": "from the cache", "read": "read in this run"}[chat.system_source],
            )
        ]
    if chat.last is not None:
        result = chat.last.generation.result
        times = result.timings
        rows += [
            (
                "last answer",
                f"{'command' if chat.last.command else 'conversation'}, ended by {result.stop_reason}",
            )
        ]
        for name, count, seconds in (
            ("  prompt", times["prompt_tokens"], times["prompt_seconds"]),
            ("  answer", times["tokens"], times["seconds"]),
        ):
            rows.append(
                (
                    name,
                    f"{count} tokens, {count / seconds:.1f} tok/s"
                    if seconds
                    else f"{count} tokens",
                )
            )
    return _table(rows)


def _why(chat: Chat, argument: str) -> str:
    likeliest = chat.last.sampler.likeliest() if chat.last is not None else []
    if not likeliest:
        return "There is no answer yet."
    rows = [
        (f"{100 * p:6.2f} %", show_token(chat.tokenizer, token) + ("  <- chosen" if chosen else ""))
        for token, p, chosen in likeliest
    ]
    return "The last step, before temperature and the rest:\n" + _table(rows)


def _memory(chat: Chat, argument: str) -> str:
    plan, now = chat.model.plan(), chat.memory()
    rows = [
        ("file", show_size(plan["file_bytes"])),
        ("  in this process", show_size(now["resident"])),
    ]
    if now["resident_limit"] is not None:
        rows += [("  limit", show_size(now["resident_limit"]))]
    rows += [("  in the page cache", show_size(now["cached"])), ("process", show_size(now["rss"]))]
    rows += [("  its own", show_size(now["anon"])), ("  at most so far", show_size(now["peak"]))]
    parts = [("part", "in file", "a token")]
    for part in (*plan["parts"], together(plan)):
        parts.append(
            (
                part["part"],
                show_size(part["file_bytes"]),
                show_size(part["touched_bytes_per_token"]),
            )
        )
    return _table(rows) + "\n" + _table(parts)


def _help(chat: Chat, argument: str) -> str:
    rows = [
        (f"{name} {command.argument}".strip(), command.purpose)
        for name, command in COMMANDS.items()
    ]
    keys = "Ctrl-C stops an answer; twice at the prompt, or Ctrl-D once, it leaves."
    return "\n".join(f"{name}: {purpose}" for name, purpose in rows) + "\n" + keys


def _quit(chat: Chat, argument: str) -> str:
    raise Leave


COMMANDS = {
    "/reset": Slash(_reset, "", "begin a new conversation"),
    "/undo": Slash(_undo, "", "take back the last question and its answer"),
    "/save": Slash(_save, "FILE", "save the conversation"),
    "/load": Slash(_load, "FILE", "go on from a saved conversation"),
    "/set": Slash(_set, "KEY VALUE", "change a setting; alone, list them"),
    "/stats": Slash(_stats, "", "speed and settings", report=True),
    "/why": Slash(_why, "", "the five likeliest tokens of the last step", report=True),
    "/memory": Slash(_memory, "", "what is in memory, and the plan", report=True),
    "/help": Slash(_help, "", "this list", report=True),
    "/quit": Slash(_quit, "", "leave"),
}


def show_token(tokenizer: Tokenizer, token: int) -> str:
    """Return a token in quotes, its bytes where they are no UTF-8 by themselves."""
    if token == END_OF_DOCUMENT:
        return "end of the document"
    data = tokenizer.token_bytes(token)
    try:
        return repr(data.decode())
    except UnicodeDecodeError:
        return repr(data)


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows whose columns are lined up."""
    sizes = [max(columns(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = (zip(row, sizes, strict=True) for row in rows)
    return "\n".join(
        "  ".join(cell + " " * (size - columns(cell)) for cell, size in line).rstrip()
        for line in lines
    )
