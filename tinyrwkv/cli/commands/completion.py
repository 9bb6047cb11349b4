"""``tinyrwkv completion``: let a shell complete commands, options and files."""

from __future__ import annotations

import argparse

from ...chat.templates import TEMPLATES
from ...engine.backends import BACKENDS
from ..completion import SHELLS, script

HELP = "print the script by which a shell completes this command"
EXAMPLES = """\
examples:
  tinyrwkv completion bash > ~/.local/share/bash-completion/completions/tinyrwkv
      make the folder first; it works in the next shell
  tinyrwkv completion zsh > ~/.zfunc/_tinyrwkv
      with fpath+=(~/.zfunc) before compinit in ~/.zshrc
  tinyrwkv completion fish > ~/.config/fish/completions/tinyrwkv.fish
  tinyrwkv-convert completion bash
      the same for the converter
"""

SUGGESTIONS = {"--template": tuple(TEMPLATES), "--backend": ("auto", *BACKENDS)}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("shell", choices=SHELLS, help="the shell")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    print(script(options.shell, options.parser, SUGGESTIONS), end="")
    return 0
