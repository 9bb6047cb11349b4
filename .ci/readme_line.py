"""Print one of the README's two commands: ``python .ci/readme_line.py 1`` or ``2``.

The first opens the chat, the second runs the tests.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"


def readme_line(number: int, text: str | None = None) -> str:
    """Return the only line of the first or second block marked ``sh``.

    Raises
    ------
    ValueError
        There is no such block, or it holds more than one line.
    """
    text = README.read_text("utf-8") if text is None else text
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    if len(blocks) < number:
        raise ValueError(
            f"README.md: found {len(blocks)} blocks marked sh, expected one for command {number}"
        )
    lines = blocks[number - 1].splitlines()
    if len(lines) != 1:
        raise ValueError(
            f"README.md: block {number} marked sh has {len(lines)} lines, expected one command"
        )
    return lines[0].strip()


if __name__ == "__main__":
    print(readme_line(int(sys.argv[1])))
