"""A manual page for ``man``, made from the parsers of a command line."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from ..version import VERSION
from .parser import Parser

EXIT_STATUS = (
    ("0", "All went well."),
    ("1", "There was an error, or the output could not be written."),
    ("2", "The arguments hold a mistake."),
    ("130", "Ctrl-C was pressed."),
    ("141", "Nobody reads the output."),
)


def man_page(parser: Parser) -> str:
    r"""Return the page in the language of roff.

    Parameters
    ----------
    parser : Parser
        With its `commands`.

    Examples
    --------
    >>> print(man_page(Parser(prog="it", description="Do it."))[:44])
    .TH IT 1 "" "tinyrwkv 0.1.0"
    .SH NAME
    it \-
    """
    return "\n".join(_lines(parser)) + "\n"


def _lines(parser: Parser) -> Iterator[str]:
    about = (parser.description or "").rstrip(".")
    yield f'.TH {parser.prog.upper()} 1 "" "tinyrwkv {VERSION}"'
    yield ".SH NAME"
    yield f"{_escaped(parser.prog)} \\- {_escaped(about[:1].lower() + about[1:])}"
    yield ".SH SYNOPSIS"
    yield from _block(_usage(parser))
    yield ".SH OPTIONS"
    yield from _options(parser)
    for name, command in parser.commands.items():
        yield f".SH {_escaped(parser.prog).upper()} {_escaped(name).upper()}"
        yield _escaped(command.description or "")
        yield ".PP"
        yield from _block(_usage(command))
        yield from _options(command)
        yield from _notes(command)
    yield from _notes(parser)
    yield ".SH EXIT STATUS"
    for status, meaning in EXIT_STATUS:
        yield ".TP"
        yield f".B {status}"
        yield meaning


def _usage(parser: Parser) -> str:
    """Return how a command is called, with its lines below each other."""
    return "\n".join(line[len("usage: ") :] for line in parser.format_usage().splitlines())


def _options(parser: Parser) -> Iterator[str]:
    for action in parser.arguments():
        yield ".TP"
        yield _called(action)
        yield _escaped(parser.help_of(action))


def _called(action: argparse.Action) -> str:
    """Return an argument as the text before its help names it."""
    value = action.metavar if isinstance(action.metavar, str) else ""
    if action.choices is not None:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    if not action.option_strings:
        return f"\\fI{_escaped(value or action.dest)}\\fR"
    names = ", ".join(f"\\fB{_escaped(name)}\\fR" for name in action.option_strings)
    return names if action.nargs == 0 else f"{names} \\fI{_escaped(value)}\\fR"


def _notes(parser: Parser) -> Iterator[str]:
    """Yield the examples and what else stands below the options."""
    if parser.epilog:
        yield ".PP"
        yield from _block(parser.epilog)


def _block(text: str) -> Iterator[str]:
    """Yield lines that stay as they are."""
    yield ".nf"
    yield from map(_escaped, text.rstrip("\n").splitlines())
    yield ".fi"


def _escaped(text: str) -> str:
    """Return text of which nothing is a command of roff."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text[:1] in (".", "'") else text
