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

CORE = (
    *("format", "writer", "table", "reference", "kernels", "model", "reader"),
    *("program", "builder", "time_mix", "opcodes", "layout"),
    *("tokenizer", "sampling", "state", "generate"),
)
"""What a reader walks from a call to the bytes of a tensor; the machinery around it is counted beside it."""

APART = ("constraints", "chat", "robot", "cli", "__main__.py")
"""What the core never imports."""

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
    """Return the files of the package that are not apart; all of them are imported by the core, or are it."""
    return sorted(path for path in package.rglob("*.py") if path.relative_to(package).parts[0] not in APART)


def is_core(path: Path, package: Path = ROOT / "tinyrwkv") -> bool:
    """Tell whether a file counts against the budget."""
    return path.relative_to(package).parts[0].removesuffix(".py") in CORE


def main() -> int:
    """Print the tables; return 1 above the budget."""
    counts = {path: code_lines(path.read_text("utf-8")) for path in core_files()}
    totals = {True: 0, False: 0}
    for path, count in sorted(counts.items(), key=lambda item: (not is_core(item[0]), -item[1])):
        print(f"{count:6,}  {path.relative_to(ROOT).as_posix():<34} {'core' if is_core(path) else 'around it'}")
        totals[is_core(path)] += count
    print(f"{totals[False]:6,}  lines of code around the core: backends, memory, time, threads, loading")
    print(f"{totals[True]:6,}  lines of code in the core, of {BUDGET:,} at most")
    return int(totals[True] > BUDGET)


if __name__ == "__main__":
    sys.exit(main())
