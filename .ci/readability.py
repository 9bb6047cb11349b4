"""Measure how readable the code is; fail where a limit is broken.

``python .ci/readability.py`` prints the measures.

Only the worst is forbidden: a number that is a target gets gamed. The rest is printed, so that a
change can be seen to make it better. ruff forbids long lines and complex functions besides.

A line of code is a line that holds code: blank lines, comments and docstrings do not count.
"""

from __future__ import annotations

import ast
import functools
import io
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from imports import circles, closure, graph, modules

ROOT = Path(__file__).resolve().parent.parent

MEASURED = ("tinyrwkv", "converters")
"""Folders whose files must not be dense."""

FUNCTIONS = (*MEASURED, "examples", "benchmarks", "docs", "tests", ".ci")
"""Folders whose functions must not be long."""

TOKENS_A_LINE = 14
LINES_OF_A_FUNCTION = 60
LINES_OF_THE_ENGINE = 6000
SHORT = 15  # a file of fewer lines of code is not measured

ENGINE = (
    "tinyrwkv.model",
    "tinyrwkv.engine.compiled",
    "tinyrwkv.engine.numpy_backend",
    "tinyrwkv.kernels.run",
)
"""A model, what computes for it, and all that these import: this runs for a token."""

NOT_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


class Measure(NamedTuple):
    """A source file: its lines of code, and how many tokens they hold."""

    lines: frozenset[int]
    tokens: int

    @property
    def density(self) -> float:
        """Tokens a line."""
        return self.tokens / max(len(self.lines), 1)


@functools.cache
def measure(source: str) -> Measure:
    """Count the tokens and the lines of code of a source."""
    docstrings = {
        (node.lineno, node.col_offset)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }
    lines: set[int] = set()
    tokens = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NOT_CODE and token.start not in docstrings:
            lines.update(range(token.start[0], token.end[0] + 1))
            tokens += 1
    return Measure(frozenset(lines), tokens)


def long_functions(source: str) -> Iterator[tuple[str, int, int]]:
    """Yield name, place and length of each function that has too many lines of code."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        lines = range(node.lineno, (node.end_lineno or 0) + 1)
        if len(lines) <= LINES_OF_A_FUNCTION:
            continue  # nearly all are: then their file need not be measured, which takes long
        length = len(measure(source).lines.intersection(lines))
        if length > LINES_OF_A_FUNCTION:
            yield node.name, node.lineno, length


def sources(root: Path, folders: tuple[str, ...]) -> dict[str, str]:
    """Return the sources below some folders, by their paths from the root."""
    paths = [path for folder in folders for path in sorted((root / folder).rglob("*.py"))]
    return {path.relative_to(root).as_posix(): path.read_text("utf-8") for path in paths}


def broken(root: Path) -> Iterator[str]:
    """Yield a sentence for each limit that the code breaks."""
    for name, source in sources(root, MEASURED).items():
        found = measure(source)
        if len(found.lines) >= SHORT and found.density > TOKENS_A_LINE:
            yield f"{name} has {found.density:.1f} tokens a line, {TOKENS_A_LINE} at most"
    for name, source in sources(root, FUNCTIONS).items():
        for function, line, length in long_functions(source):
            limit = f"{LINES_OF_A_FUNCTION} at most"
            yield f"{name}:{line}: {function} has {length} lines of code, {limit}"
    for group in circles(graph(modules(root))):
        yield f"these modules import each other: {', '.join(group)}"
    engine = engine_lines(root)
    if engine > LINES_OF_THE_ENGINE:
        yield f"the engine has {engine:,} lines of code, {LINES_OF_THE_ENGINE:,} at most"


def engine_lines(root: Path) -> int:
    """Return how many lines of code run for a token."""
    found = modules(root)
    imports = graph(found)
    here = [name for name in ENGINE if name in found]
    names = {*here, *(used for name in here for used in closure(imports, name))}
    return sum(len(measure(found[name].path.read_text("utf-8")).lines) for name in names)


def shown(root: Path) -> Iterator[str]:
    """Yield what every run shows: the densest files, the whole, and the engine."""
    found = {name: measure(source) for name, source in sources(root, MEASURED).items()}
    long_enough = {name: one for name, one in found.items() if len(one.lines) >= SHORT}
    for name in sorted(long_enough, key=lambda name: -long_enough[name].density)[:10]:
        one = long_enough[name]
        yield f"{one.density:5.1f} tokens a line in {len(one.lines):4} lines: {name}"
    lines = sum(len(one.lines) for one in long_enough.values())
    tokens = sum(one.tokens for one in long_enough.values())
    files = len(long_enough)
    yield f"{tokens / lines:5.1f} tokens a line in {lines:,} lines of code in {files} files"
    yield f"{engine_lines(root):,} lines of code run for a token: models and their backends"


def main() -> int:
    """Print the measures; return 1 where a limit is broken."""
    for line in shown(ROOT):
        print(line)
    problems = list(broken(ROOT))
    for problem in problems:
        print(problem, file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
