"""The limits of readability hold, and each is seen when it is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.ci_scripts import ROOT, ci_script

readability = ci_script("readability")


def test_the_code_breaks_no_limit() -> None:
    assert list(readability.broken(ROOT)) == []


def test_lines_of_code_are_counted() -> None:
    def count(source: str) -> int:
        return len(readability.measure(source).lines)

    assert count('"""Docstring\n\nof a module."""\n\n# comment\nx = 1  # code\n') == 1
    assert count('def f(\n    a,\n):\n    """Doc."""\n\n    return """a\n\nb"""\n') == 6
    assert count('x = 1\n"""What x is,\nin two lines."""\n') == 1


def test_tokens_are_counted() -> None:
    assert readability.measure("x = 1  # one\n").tokens == 3
    assert readability.measure('"""Doc."""\n\nx = (1,\n     2)\n').density == 3.5


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project that breaks no limit."""
    (tmp_path / "tinyrwkv").mkdir()
    (tmp_path / "converters").mkdir()
    (tmp_path / "tinyrwkv" / "model.py").write_text("from . import errors\n")
    (tmp_path / "tinyrwkv" / "errors.py").write_text("x = 1\n")
    return tmp_path


def test_a_small_project_breaks_no_limit(project: Path) -> None:
    assert list(readability.broken(project)) == []
    assert readability.engine_lines(project) == 2


FUNCTION = "def f():\n" + "    x = 1\n" * 60


@pytest.mark.parametrize(
    ("name", "source", "told"),
    [
        ("converters/a.py", "x = (a, b, c, d, e, f)\n" * 15, "has 15.0 tokens a line, 14 at most"),
        ("examples/a.py", "\n" + FUNCTION, "a.py:2: f has 61 lines of code, 60 at most"),
        ("tinyrwkv/errors.py", "def f():\n    from . import model\n", "import each other"),
        ("tinyrwkv/errors.py", "x = 1\n" * 6000, "the engine has 6,001 lines of code"),
    ],
)
def test_a_limit_that_is_broken_is_told(project: Path, name: str, source: str, told: str) -> None:
    (project / name).parent.mkdir(exist_ok=True)
    (project / name).write_text(source)
    (problem,) = readability.broken(project)
    assert told in problem


def test_every_run_shows_the_measures() -> None:
    lines = list(readability.shown(ROOT))
    assert len(lines) == 12
    assert "run for a token: models and their backends" in lines[-1]
