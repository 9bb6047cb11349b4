"""The share of the lines that the tests run is judged package by package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.ci_scripts import ci_script

script = ci_script("coverage_shares")


def report(folder: Path, **lines: int) -> str:
    """Write what `coverage json` would: packages of 100 lines, so many of which ran."""
    rest = {"num_statements": 100, "num_branches": 8, "covered_branches": 6}
    files = {
        f"{package}/file.py": {"summary": {"covered_lines": ran, **rest}}
        for package, ran in lines.items()
    }
    path = folder / "coverage.json"
    path.write_text(json.dumps({"files": files}))
    return str(path)


def test_both_shares_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(report(tmp_path, tinyrwkv=95, converters=100)) == 0
    assert capsys.readouterr().out.splitlines() == [
        "tinyrwkv: 95.0 % of 100 lines, 75.0 % of 8 branches",
        "converters: 100.0 % of 100 lines, 75.0 % of 8 branches",
    ]


@pytest.mark.parametrize(
    "lines", [{"tinyrwkv": 94, "converters": 100}, {"tinyrwkv": 100}, {"converters": 95}]
)
def test_a_package_below_the_bar_fails(
    tmp_path: Path, lines: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(report(tmp_path, **lines)) == 1
    assert capsys.readouterr().out.endswith("each package needs 95 % of its lines\n")
