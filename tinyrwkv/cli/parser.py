"""The parser of both command lines: it tells what is near an option that does not exist."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any, NoReturn

from .terminal import width

FILES = frozenset(("FILE", "MODEL", "INPUT", "OUTPUT", "BASE", "OUT"))
"""What arguments that are paths are called in the help."""


class Parser(argparse.ArgumentParser):
    """A parser of arguments that keeps the lines of its examples.

    Attributes
    ----------
    commands : dict of str to Parser
        The parsers of the subcommands.
    """

    def __init__(self, **about: Any) -> None:
        # Without a width, argparse imports shutil to find one, and shutil imports bz2 and lzma.
        super().__init__(formatter_class=_formatter, **about)
        self.register("type", int, _whole_number)
        self.register("type", float, _number)
        self.commands: dict[str, Parser] = {}

    def arguments(self) -> list[argparse.Action]:
        """Return the arguments that the help shows, without the subcommands."""
        shown = [action for action in self._actions if action.help != argparse.SUPPRESS]
        return [action for action in shown if action.nargs != argparse.PARSER]

    def help_of(self, action: argparse.Action) -> str:
        """Return the help of an argument in one line."""
        return " ".join(((action.help or "") % {**vars(action), "prog": self.prog}).split())

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Read arguments. What is unknown is refused here, by the parser of the subcommand."""
        if args is not None and not self.commands:
            self._check_options(args)
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self._refuse(unknown[0])
        for action in self._actions:
            if action.metavar in FILES:  # shells leave the ~ in --option=~/x as it is
                setattr(found, action.dest, _expanded(getattr(found, action.dest, None)))
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, and end."""
        super().error(message.replace("ignored explicit argument", "it takes no value, but has"))

    def _check_options(self, args: Sequence[str]) -> None:
        """Refuse an unknown option before a missing argument: it may be that argument."""
        for given in args:
            if given == "--":
                return
            name = given.partition("=")[0]
            known = any(option.startswith(name) for option in self._option_string_actions)
            if name.startswith("--") and " " not in name and not known:
                self._refuse(given)

    def _refuse(self, given: str) -> NoReturn:
        if not given.startswith("-"):
            self.error(f"there is one argument too many: {given}")
        name = given.partition("=")[0]
        fix = f"{self.prog} --help lists them"
        self.error(f"there is no option {name}; {near(name, self._option_string_actions) or fix}")


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, such as 4") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, such as 0.8") from None


def _expanded(value: Any) -> Any:
    """Return a path, or paths, with the home folder in place of ~."""
    if isinstance(value, list):
        return [os.path.expanduser(one) for one in value]
    return os.path.expanduser(value) if isinstance(value, str) else value


def near(name: str, names: Sequence[str] | dict[str, Any]) -> str:
    """Return a question that names what is near a name; "" if nothing is."""
    from difflib import get_close_matches  # here, because few people need it

    found = get_close_matches(name, list(names), 1)
    return f"did you mean {found[0]}?" if found else ""


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, width=width())
