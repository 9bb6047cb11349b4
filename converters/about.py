"""What ``tinyrwkv-convert`` tells of itself: completion for shells, and the manual page."""

from __future__ import annotations

from tinyrwkv.cli.commands import completion, man
from tinyrwkv.cli.parser import Parser

from .evaluate import parser as eval_parser
from .recover.command import parser as recover_parser

SUGGESTIONS = {**completion.SUGGESTIONS, "--vocab": ("world",)}


def main(root: Parser, arguments: list[str]) -> int:
    """Run ``completion`` or ``man``.

    Parameters
    ----------
    root : Parser
        Of the conversion.
    arguments : list of str
        Those of the command line, the name of the command first.
    """
    name, *rest = arguments
    root.commands = {"eval": eval_parser(), "recover": recover_parser()}
    for command, module in (("completion", completion), ("man", man)):
        description = f"{module.HELP[0].upper()}{module.HELP[1:]}."
        root.commands[command] = Parser(prog=f"{root.prog} {command}", description=description)
        module.configure(root.commands[command])
    options = root.commands[name].parse_args(rest)
    options.parser = root
    module = {"completion": completion, "man": man}[name]
    return module.run(options)
