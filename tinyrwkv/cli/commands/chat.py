"""``tinyrwkv chat``: talk with a model."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

from ...chat.answer_settings import LENGTHS
from ...chat.chat import Chat
from ...chat.profile import read_profile
from ...chat.prompt_cache import PromptCache
from ...chat.templates import TEMPLATES
from ...errors import ArgumentError
from ...paths import state_folder
from .. import options as shared
from ..console import Console, EventConsole
from ..schema_file import read_schema
from ..slash import check_thoughts

if TYPE_CHECKING:
    from ...constraints.json_schema import JsonSchema

HELP = "talk with a model"
EXAMPLES = """\
examples:
  tinyrwkv chat
      with the small model that comes with the package
  tinyrwkv chat model.trwkv --system "Answer in one sentence." --threads 4
  tinyrwkv chat model.trwkv --resident-limit 12MB
      on a board with little memory
  tinyrwkv chat model.trwkv --resume
      save the conversation at the end, and continue it the next time
  tinyrwkv chat g1.trwkv --template think --max-thought 300
      a model that thinks before it answers; /set thoughts hide, dim or show
  echo "turn left, then come back" | tinyrwkv chat
      through a pipe, every line is a prompt, and only the answers come out
  echo "Book a table for 4." | tinyrwkv chat g1.trwkv --json-schema call.json
      answer with a call of a function: a block of JSON (docs/thinking.md)
  tinyrwkv chat --json < prompts.txt
      for programs: JSON objects, one per line, piece by piece (docs/events.md)

Ctrl-C stops an answer. Ctrl-D or /quit leaves. /help lists the slash commands.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    shared.add_model(parser)
    parser.add_argument(
        "--system", default="", metavar="TEXT", help="instructions before the first turn"
    )
    parser.add_argument(
        "--template", metavar="NAME", help=f"{', '.join(TEMPLATES)} (default: what the file says)"
    )
    parser.add_argument(
        "-n",
        "--max-tokens",
        type=int,
        metavar="N",
        help="most tokens of an answer (default: what suits the model, or 400)",
    )
    parser.add_argument(
        "--max-thought",
        type=int,
        metavar="N",
        help="most tokens of a thought, with the template think: then its end is written, and the "
        "answer follows (default: what suits the model, or 1000)",
    )
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument("--load", metavar="FILE", help="continue a conversation that /save wrote")
    begin.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="FILE",
        help="continue the conversation in FILE, if it exists, and save it there at the end "
        "(default: one file for each model)",
    )
    parser.add_argument(
        "--no-cache",
        action="store_true",
        help="do not keep the state after --system on disk, and do not use a kept one",
    )
    parser.add_argument(
        "--json-schema",
        metavar="FILE",
        help="make every answer a ```json block with a value that the JSON Schema in FILE allows",
    )
    shared.add_state_dtype(parser, "int8, but f32 for RWKV-4")
    parser.add_argument(
        "--json", action="store_true", help="print events: begin, piece, end, stats, report, error"
    )
    shared.add_sampling(parser, "what suits the model; /set shows it")
    shared.add_loading(parser)
    shared.add_guessing(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    _map_large_memory()
    model = shared.loaded(options)
    profile = read_profile(model.path)
    settings = dict(profile.settings) | shared.sampling(options)
    for name in LENGTHS:
        if getattr(options, name) is not None:
            settings[name] = getattr(options, name)
    cache = None if options.no_cache else PromptCache(dtype=options.state_dtype)
    chat = Chat(
        model,
        options.template,
        options.system,
        profile.commands,
        cache,
        options.state_dtype,
        **settings,
    )
    if options.max_thought is not None:
        check_thoughts(chat.template, "--max-thought")
    constraint = None if options.json_schema is None else _block(options.json_schema, chat)
    console: Console
    if options.json:
        console = EventConsole(chat, constraint=constraint)
    else:
        console = Console(chat, profile.prompts, constraint=constraint)
    if options.load is not None:
        _continue(chat, options.load)
    if options.resume is None:
        well = console.run()
    else:
        well = _resume(chat, console, os.fspath(options.resume or _own_file(chat)))
    return 0 if well else 1


def _block(path: str, chat: Chat) -> JsonSchema:
    """Return the constraint that makes answers blocks of JSON, as the schema in a file says."""
    from ...chat.json_block import json_block  # here, because few people need it

    made = json_block(read_schema(path), chat.template)
    made.masks(chat.model)
    return made


def _continue(chat: Chat, path: str) -> None:
    """Continue the conversation in a file; say so if another beginning was asked for."""
    chat.load(path)
    if chat.system and chat.state.tokens:
        said = f"{path} continues a conversation, so --system is not read before the next /reset"
        print(f"tinyrwkv: {said}", file=sys.stderr)


def _resume(chat: Chat, console: Console, path: str) -> bool:
    """Continue the conversation in a file, if it exists, and save it there at the end."""
    if os.path.lexists(path):
        _continue(chat, path)
    with _hang_up_leaves():
        try:
            return console.run()
        finally:
            if chat.transcript or os.path.lexists(path):
                _keep(chat, console, path)


def _keep(chat: Chat, console: Console, path: str) -> None:
    kept = chat.keep(path)
    if kept != path:
        again = f"--resume {kept} continues it"
        console.tell(f"Another chat has saved to {path}. This conversation is in {kept}: {again}.")


def _map_large_memory() -> None:
    """Let the C library (mallopt) give the memory of old states back to the system at once."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # only glibc has it
        ctypes.CDLL(None).mallopt(-3, 1 << 18)  # M_MMAP_THRESHOLD


def _own_file(chat: Chat) -> str:
    """Return the default file of a model's conversation, and make its folder."""
    folder = state_folder()
    if folder is None:
        fix = "name a file: --resume FILE"
        expected = "one to keep the conversation in"
        sentence = "there is no home folder to keep the conversation in"
        what = ("arguments", "--resume", "no home folder", expected)
        raise ArgumentError(*what, fix, sentence)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    return os.path.join(folder, f"{chat.model.hash[:16]}.state")


@contextlib.contextmanager
def _hang_up_leaves() -> Iterator[None]:
    """Leave the chat as /quit does if the terminal window is closed or SIGTERM comes."""
    names = [name for name in ("SIGHUP", "SIGTERM") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        names = []
    before = {name: signal.signal(getattr(signal, name), _leave) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
