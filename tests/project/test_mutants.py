"""The changes that tests must notice can still be made, and the script tells those they miss."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.helpers.ci_scripts import ROOT, ci_script

script = ci_script("mutants")
MUTANTS = script.mutants()


def test_there_are_mutants_of_both_groups() -> None:
    groups = [mutant.group for mutant in MUTANTS]
    assert set(groups) == {"kernels", "parsers"}
    assert min(groups.count("kernels"), groups.count("parsers")) >= 10
    assert len(set(MUTANTS)) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.file}: {mutant.new}")
def test_a_mutant_can_be_made_and_its_tests_exist(mutant) -> None:
    assert script.lost(ROOT, mutant) == ""
    path = ROOT / mutant.file
    ast.parse(path.read_text("utf-8").replace(mutant.old, mutant.new))
    for test in mutant.tests.split():
        file, _, name = test.partition("::")
        assert (
            f"def {name}(" in (ROOT / file).read_text("utf-8") if name else (ROOT / file).exists()
        )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with one bound and one test of it."""
    (tmp_path / "room.py").write_text("def fits(n):\n    return n <= 7\n")
    (tmp_path / "test_room.py").write_text(
        "from room import fits\n\n\n"
        "def test_both():\n    assert fits(7) and not fits(8)\n\n\n"
        "def test_one():\n    assert fits(7)\n\n\n"
        "def test_wrong():\n    assert fits(8)\n"
    )
    (tmp_path / "conftest.py").write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("old", "test", "result"),
    [
        ("n <= 7", "test_both", "killed"),
        ("n <= 7", "test_one", "SURVIVED"),
        ("n <= 7", "test_wrong", "its tests FAIL without it"),
        ("n < 7", "test_both", "LOST: room.py has 0 times: n < 7"),
        ("n", "test_both", "LOST: room.py has 3 times: n"),
    ],
)
def test_what_became_of_a_mutant_is_told(project: Path, old: str, test: str, result: str) -> None:
    mutant = script.Mutant("parsers", "room.py", old, "n <= 8", f"test_room.py::{test}")
    before = (project / "room.py").read_text()
    assert list(script.results(project, [mutant])) == [(mutant, result)]
    assert (project / "room.py").read_text() == before


def test_tests_that_do_not_exist_kill_nothing(project: Path) -> None:
    mutant = script.Mutant("parsers", "room.py", "7", "8", "test_room.py::test_none")
    with pytest.raises(RuntimeError, match="did not run"):
        list(script.results(project, [mutant]))
