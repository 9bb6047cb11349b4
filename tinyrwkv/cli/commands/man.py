"""``tinyrwkv man``: the manual page."""

from __future__ import annotations

import argparse

from ..man import man_page

HELP = "print the manual page"
EXAMPLES = """\
examples:
  tinyrwkv man > ~/.local/share/man/man1/tinyrwkv.1
      make the folder first; man tinyrwkv shows it if ~/.local/bin is in your PATH
  tinyrwkv man | man -l -
  tinyrwkv-convert man
      the same for the converter
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options: there are none."""


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    print(man_page(options.parser), end="")
    return 0
