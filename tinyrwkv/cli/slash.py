"""Slash commands, such as /reset and /save, which can be typed in a chat besides prompts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..chat import answer_settings
from ..chat.templates import TEMPLATES, Template
from ..chat.thinking import thought_tokens
from ..errors import ArgumentError
from ..tokenizer import END_OF_DOCUMENT, Tokenizer
from ..units import show_size
from . import options
from .editing import paths
from .plan_rows import together
from .terminal import columns
from .thoughts import WAYS

if TYPE_CHECKING:
    from ..chat.chat import Chat, Turn


class Slash(NamedTuple):
    """A slash command.

    Attributes
    ----------
    run : callable
        Takes the chat and the argument, and returns what to show.
    argument, purpose : str
        For /help.
    report : bool
        Whether the user asks for the text that it shows. If not, the text says what was done.
    """

    run: Callable[[Chat, str], str]
    argument: str
    purpose: str
    report: bool = False


class Leave(Exception):
    """The user wants to leave, or the input has ended."""


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
        Whether the user asked for that text. If not, the text says what was done.

    Raises
    ------
    TinyRWKVError
        There is no such slash command, or it failed.
    Leave
        It was /quit.
    """
    line = line.strip()
    name, _, argument = line.partition(" ")
    argument = argument.strip()
    slash = SLASH_COMMANDS.get(name)
    if slash is None:
        expected = f"one of {' '.join(SLASH_COMMANDS)}"
        fix = "type /help; to send a text that begins with a slash, begin it with a space"
        sentence = f"there is no slash command {name!r}"
        raise ArgumentError("chat", "slash command", repr(name), expected, fix, sentence)
    if bool(argument) != bool(slash.argument) and name != "/set":
        usage = f"{name} {slash.argument}".strip()
        problem = "needs an" if slash.argument else "takes no"
        sentence = f"the slash command {name} {problem} argument"
        fix = f"type {usage}"
        raise ArgumentError("chat", "slash command", repr(line), repr(usage), fix, sentence)
    return slash.run(chat, argument), slash.report or line == "/set"


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
        values = chat.settings()
        rows = [(name, answer_settings.show(values[name])) for name in values]
        if chat.template.thoughts is not None:
            rows.append(("thoughts", chat.thoughts))
        rows.append(("lookup", _on_or_off(chat.model.lookup)))
        return _table(rows)
    if key in OF_THOUGHTS:
        check_thoughts(chat.template, key)
    if key == "thoughts":
        chat.thoughts = _way(value.strip())
        return f"thoughts is {chat.thoughts} now."
    if key == "lookup":
        chat.model.lookup = _is_on(value.strip())
        return f"lookup is {_on_or_off(chat.model.lookup)} now."
    chat.set(key, value.strip())
    return f"{key} is {answer_settings.show(chat.settings()[key])} now."


OF_THOUGHTS = ("thoughts", "max_thought")
"""The settings that only a template with thoughts has."""


def check_thoughts(template: Template, setting: str) -> None:
    """Raise an ArgumentError if a setting is about thoughts and a template has none."""
    if template.thoughts is None:
        having = [name for name, made in TEMPLATES.items() if made.thoughts is not None]
        found, expected = f"the template {template.name}", f"one of {', '.join(having)}"
        sentence = f"{setting} is about thoughts, and {found} has none"
        fix = "if the model was taught to think, choose " + " or ".join(
            f"--template {name}" for name in having
        )
        raise ArgumentError("settings", setting, found, expected, fix, sentence)


def _on_or_off(value: bool) -> str:
    return "on" if value else "off"


def _is_on(told: str) -> bool:
    if told not in ("on", "off"):
        sentence = f"lookup={told!r} is neither on nor off"
        what = ("settings", "lookup", repr(told), "on or off")
        raise ArgumentError(*what, "write it like /set lookup off", sentence)
    return told == "on"


def _way(told: str) -> str:
    if told not in WAYS:
        expected = f"one of {', '.join(WAYS)}"
        sentence = f"thoughts={told!r} is not {expected}"
        fix = "write it like /set thoughts dim"
        raise ArgumentError("settings", "thoughts", repr(told), expected, fix, sentence)
    return told


def _stats(chat: Chat, argument: str) -> str:
    state = chat.state  # reading it decides whether the last turn counts
    model = chat.model
    rows = [
        ("model", options.shape(model.config)),
        ("backend", f"{model.backend.name}, threads: {model.backend.threads}"),
        ("template", chat.template.name),
        ("turns", f"{chat.turns}"),
        ("tokens read", f"{state.tokens:,}"),
        ("state", show_size(state.data.nbytes)),
    ]
    if chat.system_source:
        rows.append(("system text", SYSTEM_SOURCES[chat.system_source]))
    if chat.last is not None:
        rows += _last_answer(chat.last)
    return _table(rows)


def _last_answer(turn: Turn) -> list[tuple[str, str]]:
    result = turn.generation.result
    times = result.timings
    kind = "order to a robot" if turn.command else "conversation"
    rows = [
        ("last answer", f"{kind}, ended by {result.stop_reason}"),
        ("  prompt", _speed(times["prompt_tokens"], times["prompt_seconds"])),
        ("  answer", _speed(times["tokens"], times["seconds"])),
    ]
    if result.proposed:
        rows.append(("    guessed", f"{result.accepted} of {result.proposed} tokens right"))
    if thought := thought_tokens(result):
        rows.append(("    thought", f"{thought} tokens"))
    return rows


def _speed(tokens: float, seconds: float) -> str:
    if not seconds:
        return f"{tokens} tokens"
    return f"{tokens} tokens, {tokens / seconds:.1f} tok/s"


def _why(chat: Chat, argument: str) -> str:
    likeliest = chat.last.sampler.likeliest() if chat.last is not None else []
    if not likeliest:
        return "There is no answer yet."
    rows = []
    for token, share, chosen in likeliest:
        mark = "  <- chosen" if chosen else ""
        rows.append((f"{100 * share:6.2f} %", show_token(chat.tokenizer, token) + mark))
    return "The last step, before temperature and the rest:\n" + _table(rows)


def _memory(chat: Chat, argument: str) -> str:
    plan = chat.model.plan()
    now = chat.memory()
    rows = [
        ("file", show_size(plan["file_bytes"])),
        ("  in this process", show_size(now["resident"])),
    ]
    if now["resident_limit"] is not None:
        rows.append(("  limit", show_size(now["resident_limit"])))
    rows += [
        ("  in the page cache", show_size(now["cached"])),
        ("process", show_size(now["rss"])),
        ("  its own", show_size(now["anon"])),
        ("  at most so far", show_size(now["peak"])),
    ]
    parts = [("part", "in file", "a token")]
    for part in (*plan["parts"], together(plan)):
        in_file = show_size(part["file_bytes"])
        touched = show_size(part["touched_bytes_per_token"])
        parts.append((part["part"], in_file, touched))
    return _table(rows) + "\n" + _table(parts)


def _help(chat: Chat, argument: str) -> str:
    lines = []
    for name, slash in SLASH_COMMANDS.items():
        usage = f"{name} {slash.argument}".strip()
        lines.append(f"{usage}: {slash.purpose}")
    lines.append('A text that is pasted is one question. So is all between """ and """.')
    lines.append("Ctrl-C stops an answer. At an empty prompt, Ctrl-C twice or Ctrl-D once leaves.")
    return "\n".join(lines)


def _quit(chat: Chat, argument: str) -> str:
    raise Leave


SYSTEM_SOURCES = {"cache": "from the cache", "read": "read in this run"}

SLASH_COMMANDS = {
    "/reset": Slash(_reset, "", "begin a new conversation"),
    "/undo": Slash(_undo, "", "take back the last question and its answer"),
    "/save": Slash(_save, "FILE", "save the conversation"),
    "/load": Slash(_load, "FILE", "continue a saved conversation"),
    "/set": Slash(_set, "KEY VALUE", "change a setting; /set alone lists them"),
    "/stats": Slash(_stats, "", "show speed and settings", report=True),
    "/why": Slash(_why, "", "show the five likeliest tokens of the last step", report=True),
    "/memory": Slash(_memory, "", "show the memory of the model and the process", report=True),
    "/help": Slash(_help, "", "show this list", report=True),
    "/quit": Slash(_quit, "", "leave"),
    "/exit": Slash(_quit, "", "the same as /quit"),
}


def completions(chat: Chat, words: Sequence[str]) -> list[str]:
    """Return what the last word of a line may be: a slash command, a setting, a path.

    Parameters
    ----------
    chat : Chat
    words : sequence of str
        Those of the line; the last one is not complete.
    """
    name, *arguments = words
    if not arguments:
        return [f"{one} " if slash.argument else one for one, slash in SLASH_COMMANDS.items()]
    if len(arguments) == 1 and name in ("/save", "/load"):
        return paths(arguments[0])
    if name != "/set":
        return []
    if len(arguments) == 1:
        thoughts = ["thoughts "] * (chat.template.thoughts is not None)
        return [f"{key} " for key in chat.settings()] + thoughts
    return list(WAYS) if arguments[0] == "thoughts" and len(arguments) == 2 else []


def show_token(tokenizer: Tokenizer, token: int) -> str:
    """Return a token in quotes: as text, or as bytes if they alone are not UTF-8."""
    if token == END_OF_DOCUMENT:
        return "end of the document"
    data = tokenizer.token_bytes(token)
    try:
        return repr(data.decode())
    except UnicodeDecodeError:
        return repr(data)


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows whose columns are lined up."""
    sizes = [max(map(columns, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        padded = map(_pad, row, sizes)
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _pad(cell: str, size: int) -> str:
    return cell + " " * (size - columns(cell))
