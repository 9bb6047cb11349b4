"""The command line ``tinyrwkv`` and its commands."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence

from ..version import VERSION
from . import exits
from .commands import bench, chat, generate, info, plan, serve, verify
from .terminal import width

NAME = "tinyrwkv"

COMMANDS = {
    "chat": chat,
    "generate": generate,
    "serve": serve,
    "info": info,
    "plan": plan,
    "verify": verify,
    "bench": bench,
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
    options = _parser().parse_args(argv)
    return int(options.run(options))


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _parser() -> argparse.ArgumentParser:
    # Without a width, argparse imports shutil to find one, and shutil imports bz2 and lzma.
    form = functools.partial(argparse.RawDescriptionHelpFormatter, width=width())
    parser = argparse.ArgumentParser(
        prog=NAME,
        description="Run RWKV language models on small computers.",
        epilog=EXAMPLES,
        formatter_class=form,
    )
    parser.add_argument("--version", action="version", version=f"{NAME} {VERSION}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        added = commands.add_parser(
            name,
            help=command.HELP,
            description=_sentence(command.HELP),
            epilog=command.EXAMPLES,
            formatter_class=form,
        )
        command.configure(added)
        added.set_defaults(run=command.run)
    return parser
