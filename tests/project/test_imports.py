"""What imports what: one way, between modules and between rooms, without exemptions."""

from __future__ import annotations

import ast
import itertools
import sys
from pathlib import Path

import pytest

from tests.helpers.ci_scripts import ROOT, ci_script

reader = ci_script("imports")
MODULES = reader.modules(ROOT)

COMPILERS = {"numba", "llvmlite"}
WRITE_LLVM = (
    "tinyrwkv.engine.numba_backend",
    "tinyrwkv.native.llvm",
    "tinyrwkv.native.lookup",
    "tinyrwkv.native.products",
)
BUILD, TRIAL = "tinyrwkv.native.build", "tinyrwkv.native.trial"

PRIVATE = {"_sha2", "_sha256"}  # of the standard library, of one version of Python or another

ROOMS = {
    "converters": (
        *("__main__", "cli", "about", "recover", "options", "evaluate", "arguments"),
        *("compress", "report", "export", "calibrate", "judge"),
        *("write", "checkpoint", "read", "techniques", "__init__"),
    ),
    "tinyrwkv": (
        *("__main__", "cli", "serve", "robot", "native.build", "native.trial", "__init__", "chat"),
        "constraints",
        *("speculate", "loading", "model", "generate", "score", "reading", "core"),
        *("state_file", "state"),
        *("stop_strings", "sampling", "tokenizer"),
        *("engine", "program", "versions", "kernels", "native", "file"),
        *("units", "arguments", "errors", "version", "starting", "paths", "notes"),
    ),
}
"""The rooms of each package from the top to the bottom: a room imports only those below it.

Building the kernels and trying them are commands, so they stand above all that they use.
"""

APART = ("constraints", "chat", "robot", "serve", "cli")
"""What the core never imports, and a vendored copy may leave out."""


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def room_of(name: str) -> str:
    """Return the room of a module, which is a folder, or a file directly in the package."""
    if name in (BUILD, TRIAL):
        return name.removeprefix("tinyrwkv.")
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports_of(name: str) -> list[str]:
    module = MODULES[name]
    found = reader.imports_of(module, module.path.read_text("utf-8"), MODULES)
    return [one.used for one in found]


def upward(uses: dict[str, set[str]]) -> list[str]:
    """Return the imports that lead from a room to one that is not below it."""
    found = []
    for name, used in uses.items():
        order = ROOMS[name.partition(".")[0]]
        for other in sorted(used):
            same_package = within(other, name.partition(".")[0])
            rooms = room_of(name), room_of(other)
            if same_package and rooms[0] != rooms[1]:
                if order.index(rooms[0]) > order.index(rooms[1]):
                    found.append(f"{name} imports {other}")
    return found


def read(source: str, name: str = "tinyrwkv.x", is_package: bool = False) -> set[tuple[str, int]]:
    module = reader.Module(name, Path("x.py"), is_package)
    return {(one.used, one.kind) for one in reader.imports_of(module, source, MODULES)}


def test_imports_are_found() -> None:
    load, late, types = reader.LOAD, reader.LATE, reader.TYPES
    assert read(
        "import numpy.linalg\nfrom .file import memory\nfrom .errors import FormatError"
    ) == {
        ("numpy.linalg", load),
        ("tinyrwkv.file.memory", load),
        ("tinyrwkv.errors", load),
    }
    assert read("def f():\n    from .cli import terminal") == {("tinyrwkv.cli.terminal", late)}
    assert read("class A:\n    def f(self):\n        import gguf") == {("gguf", late)}
    assert read("if TYPE_CHECKING:\n    from .model import Model") == {("tinyrwkv.model", types)}
    assert read("from .. import errors", "tinyrwkv.kernels.x") == {("tinyrwkv.errors", load)}
    inside = read("from .run import run", "tinyrwkv.kernels", is_package=True)
    assert inside == {("tinyrwkv.kernels.run", load)}


def test_every_room_has_its_place() -> None:
    for package, order in ROOMS.items():
        found = {room_of(name) for name in MODULES if within(name, package)}
        assert found == set(order)
        assert len(order) == len(set(order))


def test_imports_lead_down_from_room_to_room() -> None:
    assert upward(reader.graph(MODULES)) == []


def test_an_import_that_leads_up_is_found() -> None:
    uses = {"tinyrwkv.file.table": {"tinyrwkv.model"}, "tinyrwkv.model": {"tinyrwkv.file.table"}}
    assert upward(uses) == ["tinyrwkv.file.table imports tinyrwkv.model"]
    assert upward({"converters.judge.cost": {"tinyrwkv", "converters.read.source"}}) == []
    assert upward({"converters.read.source": {"tinyrwkv", "converters.judge.cost"}}) != []


def test_no_modules_import_each_other() -> None:
    assert reader.circles(reader.graph(MODULES)) == []


def test_a_circle_is_found_wherever_its_imports_stand() -> None:
    sources = {
        "tinyrwkv.a": "from . import b",
        "tinyrwkv.b": "def f():\n    from .c import name",
        "tinyrwkv.c": "if TYPE_CHECKING:\n    from .a import Name",
        "tinyrwkv.d": "from . import a",
    }
    made = {name: reader.Module(name, Path(), False) for name in sources}
    uses = {
        name: {one.used for one in reader.imports_of(made[name], source, made)}
        for name, source in sources.items()
    }
    assert reader.circles(uses) == [["tinyrwkv.a", "tinyrwkv.b", "tinyrwkv.c"]]


def allowed(name: str) -> set[str]:
    """Return the packages that a module may import, besides the standard library."""
    if within(name, "converters"):
        extras = {"gguf"} if name == "converters.export.gguf" else set()
        extras |= {"torch"} if within(name, "converters.recover") else set()
        return {"converters", "tinyrwkv", "numpy"} | extras
    if within(name, "tinyrwkv.serve"):
        return {"tinyrwkv", "numpy", "starlette", "uvicorn"}
    if name == BUILD:
        return {"tinyrwkv", "numpy", "ziglang"} | COMPILERS
    if name in WRITE_LLVM or within(name, "tinyrwkv.kernels"):
        return {"tinyrwkv", "numpy"} | COMPILERS
    return {"tinyrwkv", "numpy"}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_what_it_may(name: str) -> None:
    for other in imports_of(name):
        top = other.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in PRIVATE:
            assert top in allowed(name), f"{name} imports {other}"


@pytest.mark.parametrize("name", MODULES)
def test_a_package_names_itself_only_by_dots(name: str) -> None:
    """So that a copy under any name is whole."""
    package = name.partition(".")[0]
    for node in ast.walk(ast.parse(MODULES[name].path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            assert not any(within(alias.name, package) for alias in node.names), node.lineno
        elif isinstance(node, ast.ImportFrom) and not node.level:
            assert not within(node.module or "", package), f"{name}:{node.lineno}"


def test_the_core_stands_without_what_is_apart() -> None:
    uses = reader.graph(MODULES)
    needed = reader.closure(uses, "tinyrwkv.model")
    assert "tinyrwkv.file.tensors" in needed
    for name, room in itertools.product(needed, APART):
        assert not within(name, f"tinyrwkv.{room}")


def test_the_engine_does_not_lean_on_the_oracle() -> None:
    uses = reader.graph(MODULES)
    for room in ("engine", "program", "kernels", "file"):
        for name in MODULES:
            if within(name, f"tinyrwkv.{room}"):
                assert "tinyrwkv.versions.reference" not in uses[name], name


def test_techniques_know_nothing_but_arrays() -> None:
    uses = reader.graph(MODULES)
    for name in MODULES:
        if within(name, "converters.techniques"):
            others = {other for other in uses[name] if within(other, "converters")}
            assert all(within(other, "converters.techniques") for other in others), name
