"""The command ``tinyrwkv``: chat, generate, info, plan, verify, bench."""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import TinyRWKVError
from .commands import bench, chat, generate, info, plan, verify
from .terminal import width

COMMANDS = {
    "chat": chat,
    "generate": generate,
    "info": info,
    "plan": plan,
    "verify": verify,
    "bench": bench,
}

EXAMPLES = """\
examples:
  tinyrwkv chat
      talk with the small model that ships in the package
  tinyrwkv generate model.trwkv -p "Once upon a time" -n 200
  tinyrwkv plan model.trwkv
      does it fit?
  tinyrwkv COMMAND --help
      explains a command

tinyrwkv-convert makes a .trwkv file from any RWKV checkpoint.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process by default.

    Returns
    -------
    int
        0; 1 after an error; 2 after a mistake in the arguments; 130 after Ctrl-C; 141 where nobody reads the output.
    """
    _open_streams()
    try:
        options = _parser().parse_args(argv)
        status = int(options.run(options))
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("\ntinyrwkv: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _drop_output()
        return 141
    except (TinyRWKVError, OSError) as error:
        with contextlib.suppress(OSError):
            print(f"tinyrwkv: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    # Without a width, argparse imports shutil and with it bz2 and lzma, to find one.
    form = functools.partial(argparse.RawDescriptionHelpFormatter, width=width())
    parser = argparse.ArgumentParser(
        prog="tinyrwkv",
        description="Run RWKV language models on small computers.",
        epilog=EXAMPLES,
        formatter_class=form,
    )
    parser.add_argument("--version", action="version", version=f"tinyrwkv {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        about = command.HELP[0].upper() + command.HELP[1:] + "."
        added = commands.add_parser(
            name,
            help=command.HELP,
            description=about,
            epilog=command.EXAMPLES,
            formatter_class=form,
        )
        command.configure(added)
        added.set_defaults(run=command.run)
    return parser


def _open_streams() -> None:
    """Let any text in and out: UTF-8 through pipes, what a terminal can show on terminals."""
    for stream, errors in (
        (sys.stdin, "surrogateescape"),
        (sys.stdout, "replace"),
        (sys.stderr, "replace"),
    ):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError, ValueError):
                stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors=errors)


def _drop_output() -> None:
    """Send what is still to be written nowhere, so that the interpreter does not complain when it ends."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
