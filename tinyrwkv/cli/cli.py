"""The command line ``tinyrwkv`` and its commands."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence

from ..version import VERSION
from . import exits
from .commands import bench, chat, completion, generate, info, man, plan, serve, verify
from .options import given_model
from .parser import Parser, near

NAME = "tinyrwkv"

COMMANDS = {
    "chat": chat,
    "generate": generate,
    "serve": serve,
    "info": info,
    "plan": plan,
    "verify": verify,
    "bench": bench,
    "completion": completion,
    "man": man,
}

EXAMPLES = """\
examples:
  tinyrwkv chat
      talk with the small model that comes with the package
  tinyrwkv generate model.trwkv -p "Once upon a time" -n 200
  tinyrwkv serve
      answer programs that speak the HTTP interface of OpenAI
  tinyrwkv plan model.trwkv
      does the model fit in memory?
  tinyrwkv COMMAND --help
      explain a command

tinyrwkv-convert makes a .trwkv file from any RWKV checkpoint.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments. By default those of the process.

    Returns
    -------
    int
        The exit status: 0; 1 after an error; 2 after a mistake in the arguments; 130 after Ctrl-C;
        141 if nobody reads the output.
    """
    return exits.run(NAME, functools.partial(_run, argv))


def _run(argv: Sequence[str] | None) -> int:
    parser = _parser()
    arguments = list(sys.argv[1:] if argv is None else argv)
    _check_command(parser, arguments)
    options = parser.parse_args(arguments)
    options.parser = parser
    if hasattr(options, "model_option"):
        options.model = given_model(options)
    return int(options.run(options))


def _check_command(parser: Parser, arguments: list[str]) -> None:
    """Refuse what stands in the place of a command; argparse does not say what is near it."""
    given = arguments[0] if arguments else "-"
    if given.startswith("-") or given in COMMANDS:
        return
    if given.endswith(".trwkv"):
        parser.error(f"the command is missing before {given}: {NAME} chat {given}")
    fix = f"the commands are {', '.join(COMMANDS)}"
    parser.error(f"there is no command {given}; {near(given, list(COMMANDS)) or fix}")


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _parser() -> Parser:
    parser = Parser(
        prog=NAME,
        description="Run RWKV language models on small computers.",
        epilog=EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=f"{NAME} {VERSION}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        added = commands.add_parser(
            name,
            help=command.HELP,
            description=_sentence(command.HELP),
            epilog=command.EXAMPLES,
        )
        command.configure(added)
        added.set_defaults(run=command.run)
        parser.commands[name] = added
    return parser
