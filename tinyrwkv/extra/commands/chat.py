"""``tinyrwkv chat``: talk with a model."""

from __future__ import annotations

import argparse

from .. import options as shared
from ..chat import Chat
from ..console import Console
from ..profile import read_profile
from ..templates import TEMPLATES

HELP = "talk with a model"
EXAMPLES = """\
examples:
  tinyrwkv chat
      with the small model that ships in the package
  tinyrwkv chat model.trwkv --system "Answer in one sentence." --threads 4
  tinyrwkv chat model.trwkv --resident-limit 12MB
      on a board with little memory
  echo "turn left, then come back" | tinyrwkv chat
      through a pipe every line is a prompt, and only the answers come out

Ctrl-C stops an answer. Ctrl-D or /quit leaves. /help lists the commands.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    shared.add_model(parser)
    parser.add_argument("--model", dest="model_option", metavar="FILE", help="the same as MODEL")
    parser.add_argument("--system", default="", metavar="TEXT", help="instructions before the first turn")
    parser.add_argument("--template", metavar="NAME", help=f"{', '.join(TEMPLATES)} (default: what the file says)")
    parser.add_argument("-n", "--max-tokens", type=int, metavar="N", help="tokens of an answer at most (default: 400)")
    parser.add_argument("--load", metavar="FILE", help="go on from a state that /save wrote")
    shared.add_sampling(parser, "what suits the model, shown by /set")
    shared.add_loading(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    if options.model_option is not None:
        options.model = options.model_option
    model = shared.loaded(options)
    profile = read_profile(model.path)
    settings = dict(profile.settings) | shared.sampling(options)
    if options.max_tokens is not None:
        settings["max_tokens"] = options.max_tokens
    chat = Chat(model, options.template, options.system, profile.commands, **settings)
    if options.load is not None:
        chat.load(options.load)
    Console(chat, profile.prompts).run()
    return 0
