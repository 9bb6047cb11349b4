"""The pages for those who contribute, report and release say what the project does."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = next(path for path in Path(__file__).resolve().parents if (path / "setup.cfg").exists())

PAGES = ("CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md", "RELEASE.md")


def read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def shell_blocks(text: str) -> list[str]:
    return re.findall(r"^```sh\n(.*?)\n```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page: str) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", read(page))
    for link in links:
        assert (ROOT / link).exists(), f"{page} links to {link}"


def test_contributors_get_the_commands_of_the_readme() -> None:
    assert shell_blocks(read("CONTRIBUTING.md"))[:2] == shell_blocks(read("README.md"))[:2]


def test_contributors_are_told_every_step() -> None:
    told = re.findall(r"^\| `(\w+)` \|", read("CONTRIBUTING.md"), re.MULTILINE)
    steps = re.findall(r"^if \(\(\$# == 0\)\); then set -- ([\w,+ ]+); fi$", read(".ci/run"), re.M)
    assert told == re.split(r"[,+ ]", steps[0])


def test_the_citation_is_of_the_last_release() -> None:
    citation = dict(re.findall(r"^([\w-]+): (.+)$", read("CITATION.cff"), re.MULTILINE))
    heading = r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$"
    version, date = re.findall(heading, read("CHANGELOG.md"), re.MULTILINE)[0]
    assert (citation["version"], citation["date-released"]) == (version, date)


ROW = re.compile(
    r"^\| .+ \| ([\d,]+)(?: (KiB|MiB))? \| `([\w./]+)(?:: |\.)(\w+)` \|$", re.MULTILINE
)

IS_LIMIT = re.compile(r"^(_?(?:MAX|MOST|LONGEST|DEEPEST)\w*)(?:, \w+)? = ", re.MULTILINE)

NOT_OF_STRANGERS = {
    "tinyrwkv.kernels.abi": {"MAX_TOKENS"},  # of one call; a longer text takes several
    "tinyrwkv.program.builder": {"MOST_INPUTS"},  # of an operation
    "tinyrwkv.engine.reader": {"MOST_AT_ONCE"},  # of a chunk; a longer guess is cut
    "tinyrwkv.reading": {"MOST_CHUNKS"},  # more generations read token by token
    "tinyrwkv.speculate.costs": {"MOST_SURPRISE"},  # of times
    "tinyrwkv.speculate.lookup": {"LONGEST", "MOST_PLACES"},  # of what is compared for a guess
    "tinyrwkv.engine.team": {"MOST_CREDIT"},  # of seconds
    "converters.calibrate.documents": {"LONGEST_SAMPLE"},
}


def told_limits() -> dict[tuple[str, str], int]:
    """Return the numbers in the table of limits by module and name of the constant."""
    table = read("SECURITY.md").split("## Limits\n")[1].split("\n## ")[0]
    rows = ROW.findall(table)
    assert len(rows) == table.count("\n| ") - 1  # and a line of titles
    found = {}
    for amount, unit, place, name in rows:
        module = place.removesuffix(".py").replace("/", ".")
        found[module, name] = int(amount.replace(",", "")) << {"": 0, "KiB": 10, "MiB": 20}[unit]
    assert len(found) == len(rows)
    return found


def coded_limits() -> dict[tuple[str, str], int]:
    """Return the constants of the code that are named as limits are."""
    found = {}
    for folder in ("tinyrwkv", "converters", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text("utf-8")
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            names = set(IS_LIMIT.findall(text)) - NOT_OF_STRANGERS.get(module, set())
            for node in ast.parse(text).body:
                if isinstance(node, ast.Assign):
                    target = node.targets[0]
                    of_names = target.elts if isinstance(target, ast.Tuple) else [target]
                    value = node.value
                    of_values = value.elts if isinstance(value, ast.Tuple) else [value]
                    for name, number in zip(of_names, of_values, strict=False):
                        if isinstance(name, ast.Name) and name.id in names:
                            found[module, name.id] = eval(ast.unparse(number), {})
    return found


def test_the_limits_that_are_told_are_those_of_the_code() -> None:
    assert told_limits() == coded_limits()


def test_the_workflows_run_what_contributors_run() -> None:
    for workflow, script in (("ci", "run"), ("nightly", "nightly")):
        text = read(f".github/workflows/{workflow}.yml")
        assert re.findall(r"^ +- run: (.+)$", text, re.MULTILINE) == [f"bash .ci/{script}"]
        assert "3.11" in text


def test_what_the_steps_import_is_there() -> None:
    imports = re.findall(r"from (tinyrwkv[\w.]*) import (\w+)", read(".ci/run"))
    assert imports
    for module, name in imports:
        assert hasattr(importlib.import_module(module), name), f"{module} has no {name}"


def test_the_form_for_boards_asks_for_what_the_page_asks() -> None:
    form, page = read(".github/ISSUE_TEMPLATE/board.yml"), read("docs/boards.md")
    measure, send = shell_blocks(page)
    commands = [line for line in measure.splitlines() if "bench" in line] + send.splitlines()[:2]
    assert len(commands) == 4
    for command in commands:
        assert command in form
    for command in ("vcgencmd get_throttled", "cpufreq/scaling_governor"):
        assert command in form and command in page
