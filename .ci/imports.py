"""Tell what imports what in the project, from the source alone: nothing is run.

Every import counts: those in functions and those for type checkers too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("converters", "tinyrwkv")
"""From the upper to the lower."""

LOAD, LATE, TYPES = range(3)
"""When an import is done: with the module, when a function runs, or by type checkers alone."""


class Module(NamedTuple):
    """A module: its name, its file, and whether it is the ``__init__`` of a package."""

    name: str
    path: Path
    is_package: bool


class Import(NamedTuple):
    """An import: who imports, what, and when."""

    user: str
    used: str
    kind: int


def modules(root: Path) -> dict[str, Module]:
    """Return the modules of all packages by name, as they are named in a checkout."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            found[name] = Module(name, path, is_package)
    return found


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def statements(node: ast.AST, kind: int = LOAD) -> Iterator[tuple[ast.AST, int]]:
    """Yield every import below a node, with its kind."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, kind
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from statements(child, max(kind, LATE))
        elif _is_for_types(child):
            yield from _statements_of_if(child, kind)
        else:
            yield from statements(child, kind)


def _statements_of_if(node: ast.AST, kind: int) -> Iterator[tuple[ast.AST, int]]:
    """Yield the imports of an ``if TYPE_CHECKING``; its ``else`` is like any other code."""
    assert isinstance(node, ast.If)
    yield from statements(ast.Module(node.body, []), TYPES)
    yield from statements(ast.Module(node.orelse, []), kind)


def names(module: Module, node: ast.AST) -> Iterator[str]:
    """Yield the full names that an import may mean: a module, or something in one."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        parts = module.name.split(".") if node.level else []
        kept = len(parts) + module.is_package - node.level
        base = ".".join([*parts[: max(kept, 0)], *filter(None, [node.module])])
        yield from (f"{base}.{alias.name}" for alias in node.names)


def imports_of(module: Module, source: str, found: Mapping[str, Module]) -> Iterator[Import]:
    """Yield what one module imports, modules of the project and of others alike."""
    for node, kind in statements(ast.parse(source)):
        for name in names(module, node):
            if name not in found and isinstance(node, ast.ImportFrom):
                name = name.rpartition(".")[0]
            yield Import(module.name, name, kind)


def imports(found: Mapping[str, Module]) -> Iterator[Import]:
    """Yield every import inside of the project."""
    for module in found.values():
        for one in imports_of(module, module.path.read_text("utf-8"), found):
            if one.used in found:
                yield one


def graph(found: Mapping[str, Module]) -> dict[str, set[str]]:
    """Return for each module the modules of the project that it imports."""
    uses: dict[str, set[str]] = {name: set() for name in found}
    for one in imports(found):
        if one.user != one.used:
            uses[one.user].add(one.used)
    return uses


def circles(uses: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other, directly or through others.

    Examples
    --------
    >>> circles({"a": {"b"}, "b": {"c"}, "c": {"b"}})
    [['b', 'c']]
    """
    reached = {name: closure(uses, name) for name in uses}
    groups = {
        tuple(sorted(other for other in reached[name] if name in reached[other]))
        for name in uses
        if name in reached[name]
    }
    return [list(group) for group in sorted(groups)]


def closure(uses: Mapping[str, Iterable[str]], start: str) -> set[str]:
    """Return all that a module imports, directly or through others; itself only in a circle.

    Examples
    --------
    >>> sorted(closure({"a": ["b"], "b": ["c"], "d": ["a"]}, "a"))
    ['b', 'c']
    """
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = set(uses.get(waiting.pop(), ())) - found
        found |= new
        waiting += sorted(new)
    return found
