"""The project as a whole: what is installed, what imports what, what the README promises."""

from __future__ import annotations

import ast
import configparser
import doctest
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tinyrwkv
from tests.helpers.ci_scripts import ROOT, ci_script

PACKAGES = {"tinyrwkv": "tinyrwkv", "tinyrwkv_converters": "converters"}  # installed as: folder

COMPILERS = {"numba", "llvmlite"}

APART = tuple(f"tinyrwkv.{room}" for room in ("constraints", "chat", "robot", "serve", "cli"))
"""What importing the package does not load."""

NOT_OURS = {"build", "dist", "site", "__pycache__"}


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", "utf-8")
    return parser


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


def files() -> Iterator[Path]:
    """Yield the project's own files, not what tools leave behind."""
    for folder, folders, names in os.walk(ROOT):
        top = Path(folder) == ROOT
        folders[:] = [
            name
            for name in folders
            if name not in NOT_OURS
            and not name.endswith(".egg-info")
            and not (name.startswith(".") and name != ".ci")
        ]
        for name in names:
            if not (top and name.startswith(".git") and name != ".gitignore"):
                yield Path(folder, name)


def run(*arguments: str | Path, **environment: str) -> str:
    """Run Python on the checkout, from a folder that is not it; return what it prints."""
    settings = {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT.anchor,
        env=os.environ | settings | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# What importing and copying cost


def test_importing_costs_no_compiler_and_no_command_line() -> None:
    code = (
        "import sys, numpy; before = set(sys.modules); import tinyrwkv;"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    new = set(run("-c", code).split())
    assert "tinyrwkv" in new
    assert not new & {
        "converters",
        "tinyrwkv_converters",
        "argparse",
        "multiprocessing",
        "unittest",
        *COMPILERS,
    }
    loaded = run("-c", "import sys, tinyrwkv; print(*sys.modules)").split()
    assert not [name for name in loaded if name.startswith(APART)]


VENDORED = """
import importlib, pathlib, sys
import robot_brain

model = robot_brain.load(backend="numpy")
logits, state = model.forward(model.tokenizer.encode("User: stop"))
print(logits.argmax(), float(logits.max()))
folder = pathlib.Path(robot_brain.__file__).parent
for path in folder.rglob("*.py"):
    if path.name != "__main__.py":
        try:
            importlib.import_module(".".join(path.relative_to(folder.parent).with_suffix("").parts))
        except ModuleNotFoundError as error:
            assert error.name in (
                "numba", "llvmlite", "starlette", "uvicorn", "httptools"
            ), error
assert not [name for name in sys.modules if name.partition(".")[0] == "tinyrwkv"]
"""


def test_a_copy_under_another_name_runs(tmp_path: Path) -> None:
    shutil.copytree(
        ROOT / "tinyrwkv", tmp_path / "robot_brain", ignore=shutil.ignore_patterns("__pycache__")
    )
    best, logit = run("-c", VENDORED, PYTHONPATH=str(tmp_path)).split()
    model = tinyrwkv.load(backend="numpy")
    logits, _ = model.forward(model.tokenizer.encode("User: stop"))
    assert logits is not None
    assert (int(best), float(logit)) == (int(logits.argmax()), float(logits.max()))


# What is installed


def test_every_package_is_listed() -> None:
    listed = set(lines(setup_cfg()["options"]["packages"]))
    found = set()
    for package, folder in PACKAGES.items():
        for path in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join((package, *path.parent.relative_to(ROOT / folder).parts)))
    assert listed == found


def test_every_file_that_is_not_code_is_listed() -> None:
    data = setup_cfg()["options.package_data"]
    listed = set()
    for package in data:
        folder = ROOT.joinpath(*package.split("."))
        for pattern in lines(data[package]):
            matches = list(folder.glob(pattern))
            assert matches, f"{package}: nothing is named {pattern}"
            listed.update(matches)
    found = {
        path
        for path in files()
        if path.suffix not in (".py", ".pyc") and ROOT / "tinyrwkv" in path.parents
    }
    assert listed == found


def test_the_version_is_the_same_everywhere() -> None:
    assert setup_cfg()["metadata"]["version"] == "attr: tinyrwkv.version.VERSION"
    version = tinyrwkv.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    # setuptools reads it without running the package, so that NumPy is not needed to build it.
    tree = ast.parse((ROOT / "tinyrwkv" / "version.py").read_text("utf-8"))
    assigned = {
        ast.unparse(node.targets[0]): node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
    }
    assert ast.literal_eval(assigned["VERSION"]) == version
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", changelog, re.MULTILINE)
    assert released[0] == version


def test_what_is_not_released_stands_above_the_releases() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert all(" - " in heading for heading in headings[1:])


def test_the_changelog_tells_of_the_file_format() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    for release in re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]:
        headings = re.findall(r"^### (.+)$", release, re.MULTILINE)
        assert set(headings) <= {
            "File format",
            "Added",
            "Changed",
            "Deprecated",
            "Removed",
            "Fixed",
            "Security",
        }
        assert "File format" in headings, release.splitlines()[0]


def test_numpy_is_all_that_is_needed() -> None:
    assert lines(setup_cfg()["options"]["install_requires"]) == ["numpy>=1.21"]


SCRIPTS = dict(
    line.split(" = ") for line in lines(setup_cfg()["options.entry_points"]["console_scripts"])
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_command_tells_how_it_is_used(script: str) -> None:
    module, function = SCRIPTS[script].split(":")
    package, _, rest = module.partition(".")
    module = f"{PACKAGES[package]}.{rest}"
    told = run(
        "-c", f"import sys; from {module} import {function}; sys.exit({function}(['--help']))"
    )
    assert told.startswith("usage: " + script)


@pytest.mark.parametrize(("module", "word"), [("tinyrwkv", "chat"), ("converters", "--vocab")])
def test_a_package_runs_as_a_command(module: str, word: str) -> None:
    told = run("-m", module, "--help")
    assert told.startswith("usage: ")
    assert word in told


# What is written about it


def readme() -> str:
    return (ROOT / "README.md").read_text("utf-8")


def test_the_readme_begins_with_two_commands() -> None:
    readme_line = ci_script("readme_line").readme_line
    assert re.fullmatch(r"pip install \S+ && python3? examples/chat\.py", readme_line(1))
    assert re.fullmatch(r"pip install \S+ && python3? -m pytest -n auto", readme_line(2))
    assert (ROOT / "examples" / "chat.py").is_file()
    with pytest.raises(ValueError, match="found 1 blocks"):
        readme_line(2, "```sh\npip install .\n```\n```python\nimport tinyrwkv\n```\n")
    with pytest.raises(ValueError, match="has 2 lines"):
        readme_line(1, "```sh\ncd x\npip install .\n```\n")


def test_the_readme_is_short() -> None:
    assert len(readme().splitlines()) < 150


PAGES = [
    "README.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")),
]


@pytest.mark.parametrize("page", PAGES)
def test_every_file_named_in_a_page_exists(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text)
    for link in links:
        assert (ROOT / page).parent.joinpath(link).exists(), f"{page} links to {link}"
    folders = r"tinyrwkv|converters|tests|examples|docs|benchmarks|\.ci"
    for name in re.findall(rf"(?<![\w./-])((?:{folders})/[\w./*-]*[\w*/])", text):
        assert list(ROOT.glob(name.rstrip("/"))), f"{page} names {name}"


# Written so that this file does not hold what it looks for.
ELSEWHERE = re.compile(
    rb"(?<![\w./-])/(?:wor[k]|roo[t]|home/\w+)/|(?<!\w)share[d]/(?:reference|checkpoints|data)"
)


def test_nothing_names_a_folder_of_one_machine() -> None:
    for path in files():
        found = ELSEWHERE.search(path.read_bytes())
        assert not found, f"{path.relative_to(ROOT)} names {found[0].decode()}"


def test_folders_of_one_machine_are_found() -> None:
    for text in (
        "x = '/wor" + "k/main'",
        "../share" + "d/data/x",
        "share" + "d/checkpoints",
        "(/roo" + "t/.cache)",
    ):
        assert ELSEWHERE.search(text.encode()), text
    for text in ("framework/x", "a shared/private pair", "usr/share/data", "work/life"):
        assert not ELSEWHERE.search(text.encode()), text


def documented() -> Iterator[str]:
    for name, module in ci_script("imports").modules(ROOT).items():
        if ">>> " in module.path.read_text("utf-8"):
            yield name


@pytest.mark.parametrize("name", list(documented()))
def test_examples_in_docstrings(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in COMPILERS:
            raise
        pytest.skip(str(error))
    outcome = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert outcome.attempted
    assert not outcome.failed


# How files look


def test_files_are_checked_as_committed() -> None:
    problems = ci_script("check_files").problems
    assert not list(problems("a.py", b"x = 1\n"))
    assert not list(problems("a.bin", b"\0 \r"))
    for data in (b"x = 1", b"x = 1\n\n", b"x = 1 \n", b"x = 1\r\n"):
        assert len(list(problems("a.py", data))) >= 1, data
    large = b"\0" * 200_001
    assert len(list(problems("docs/a.png", large))) == 1
    assert not list(problems("tinyrwkv/models/default.trwkv", large))
