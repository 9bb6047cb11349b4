"""The walk through the code: every file and every name that a stop cites is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tinyrwkv.file.mapped import open_file
from tinyrwkv.loading import BUNDLED

ROOT = Path(__file__).resolve().parents[2]
TEXT = re.sub("```.*?```", "", (ROOT / "docs" / "walk.md").read_text("utf-8"), flags=re.DOTALL)
STOPS = {stop.split("\n", 1)[0]: stop for stop in re.split(r"^## ", TEXT, flags=re.MULTILINE)}
EXPRESSIONS = {"w = q * scale", "User: ...", "Assistant:"}


def quoted(stop: str) -> list[str]:
    return [name for name in re.findall(r"`([^`]+)`", stop) if name not in EXPRESSIONS]


def files_of(stop: str) -> list[Path]:
    """Return the source files of a stop, all of a folder; names begin at the root or package."""
    found = []
    for name in quoted(stop):
        if name.endswith((".py", "/")):
            path = next(
                (folder / name for folder in (ROOT, ROOT / "tinyrwkv") if (folder / name).exists()),
                None,
            )
            assert path, f"there is no {name}"
            found += sorted(path.glob("*.py")) if path.is_dir() else [path]
    return found


def names_in(path: Path) -> set[str]:
    """Return what a file defines: functions, classes, methods, variables, attributes of self."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}.{part.name}"
                for part in node.body
                if isinstance(part, ast.FunctionDef)
            }
        if isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
            found.add(node.id if isinstance(node, ast.Name) else node.attr)
    return found


@pytest.mark.parametrize("stop", list(STOPS)[1:])
def test_a_stop_names_what_is_there(stop: str) -> None:
    files = files_of(STOPS[stop])
    assert files, "a stop without a file"
    with open_file(BUNDLED) as model:
        known = set(model.tensors).union(*map(names_in, files))
    for name in quoted(STOPS[stop]):
        if not name.endswith((".py", "/")):
            assert name in known, f"none of {', '.join(path.name for path in files)} has a {name}"


def test_the_walk_has_all_its_stops() -> None:
    assert len(STOPS) == 7 and [stop[:2] for stop in list(STOPS)[1:]] == [
        f"{n}." for n in range(1, 7)
    ]
    assert {"Reader.read", "time_mix_v7", "blocks.3.att.key.weight"} <= set(
        quoted("".join(STOPS.values()))
    )


def test_a_name_that_is_gone_is_found() -> None:
    known = names_in(ROOT / "tinyrwkv" / "generate.py")
    assert {"Generation._run", "_reading", "NO_TOKEN"} <= known
    assert not {"Generation.read", "Result._run", "absent"} & known
    with pytest.raises(AssertionError, match="there is no absent"):
        files_of("see `absent.py`")
