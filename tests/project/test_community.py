"""The pages for those who contribute, report and release say what the project does."""

from __future__ import annotations

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
    steps = re.findall(r"^if \(\(\$# == 0\)\); then set -- ([\w ]+); fi$", read(".ci/run"), re.M)
    assert told == steps[0].split()


def test_the_citation_is_of_the_last_release() -> None:
    citation = dict(re.findall(r"^([\w-]+): (.+)$", read("CITATION.cff"), re.MULTILINE))
    heading = r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$"
    version, date = re.findall(heading, read("CHANGELOG.md"), re.MULTILINE)[0]
    assert (citation["version"], citation["date-released"]) == (version, date)


LIMITS = {
    "MAX_TABLE": ("table of a model", "MiB", 20),
    "MAX_PICKLE": ("pickle of a checkpoint", "MiB", 20),
    "MAX_HEADER": ("header of safetensors", "MiB", 20),
    "MAX_FILE": ("a vocabulary", "MiB", 20),
    "MOST_BYTES": ("a profile", "KiB", 10),
}


@pytest.mark.parametrize("name", LIMITS)
def test_the_limits_that_are_promised_are_those_of_the_code(name: str) -> None:
    pattern = re.compile(rf"^{name}(?:, \w+)? = (\d+) << (\d+)", re.MULTILINE)
    found = []
    for folder in ("tinyrwkv", "converters"):
        for path in (ROOT / folder).rglob("*.py"):
            found += pattern.findall(path.read_text("utf-8"))
    assert len(found) == 1, f"{name} is set {len(found)} times"
    what, unit, shift = LIMITS[name]
    amount = int(found[0][0]) << int(found[0][1]) >> shift
    text = " ".join(read("SECURITY.md").split())
    assert re.search(rf"{what} (has )?{amount} {unit}", text), f"{what}: {amount} {unit}"


def test_the_workflows_run_what_contributors_run() -> None:
    for workflow, script in (("ci", "run"), ("nightly", "nightly")):
        text = read(f".github/workflows/{workflow}.yml")
        assert re.findall(r"^ +- run: (.+)$", text, re.MULTILINE) == [f"bash .ci/{script}"]
        assert "3.11" in text


def test_the_form_for_boards_asks_for_what_the_page_asks() -> None:
    form, page = read(".github/ISSUE_TEMPLATE/board.yml"), read("docs/boards.md")
    measure, send = shell_blocks(page)
    commands = [line for line in measure.splitlines() if "bench" in line] + send.splitlines()[:2]
    assert len(commands) == 4
    for command in commands:
        assert command in form
    for command in ("vcgencmd get_throttled", "cpufreq/scaling_governor"):
        assert command in form and command in page
