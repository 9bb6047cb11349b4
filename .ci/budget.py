"""Count the core's lines of code, and fail above the budget: ``python .ci/budget.py``.

A line counts when it holds code: blank lines, comments and docstrings do not.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from pathlib import Path

BUDGET = 2500

ROOT = Path(__file__).resolve().parent.parent

APART = ("extra", "native", "__main__.py")
"""Not the core: what it never imports, and the loading of its own kernels compiled ahead of time."""

_LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def code_lines(source: str) -> int:
    """Return how many lines of a module's source hold code."""
    docstrings = {
        (node.lineno, node.col_offset)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _LAYOUT and token.start not in docstrings:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines)


def core_files(package: Path = ROOT / "tinyrwkv") -> list[Path]:
    """Return the files of the core: all of the package but what is apart."""
    return sorted(path for path in package.rglob("*.py") if path.relative_to(package).parts[0] not in APART)


def main() -> int:
    """Print the table; return 1 above the budget."""
    counts = {path.relative_to(ROOT).as_posix(): code_lines(path.read_text("utf-8")) for path in core_files()}
    for name, count in sorted(counts.items(), key=lambda item: -item[1]):
        print(f"{count:6,}  {name}")
    total = sum(counts.values())
    print(f"{total:6,}  lines of code in the core, of {BUDGET:,} at most")
    return int(total > BUDGET)


if __name__ == "__main__":
    sys.exit(main())
