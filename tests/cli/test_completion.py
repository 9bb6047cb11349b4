"""Completion in the shells that are here, and the manual page."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess

import pytest

from converters.cli import main as convert
from tests.helpers.places import ROOT
from tests.helpers.terminals import Terminal
from tinyrwkv.cli.cli import main

EXECUTE = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"

SHELLS = ("bash", "zsh", "fish")
INTERACTIVE = {"bash": ("--norc", "--noprofile", "-i"), "zsh": ("-f", "-i")}
BEGIN = {"bash": "", "zsh": "autoload -Uz compinit && compinit -u -D; "}

COMPLETED = [
    ("tinyrwkv gener", "generate"),
    ("tinyrwkv chat --temper", "--temperature"),
    ("tinyrwkv chat --template rob", "robot"),
    ("tinyrwkv chat -m pyproject.to", "pyproject.toml"),
    ("tinyrwkv info pyproject.to", "pyproject.toml"),
    ("tinyrwkv completion fi", "fish"),
    ("tinyrwkv-convert recov", "recover"),
    ("tinyrwkv-convert pyproject.to", "pyproject.toml"),
    ("tinyrwkv-convert eval --lamb", "--lambada"),
    ("tinyrwkv-convert --preset li", "lite"),
]
"""What is typed before the key of completion, and the word that comes of it."""

pytestmark = pytest.mark.skipif(os.name == "nt", reason="these shells are for other systems")


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return a folder with the scripts of all shells, and a file to complete."""
    folder = tmp_path_factory.mktemp("scripts")
    for shell in SHELLS:
        for run, name in ((main, "tinyrwkv"), (convert, "tinyrwkv-convert")):
            with open(folder / f"{name}.{shell}", "w") as file:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr("sys.stdout", file)
                    assert run(["completion", shell]) == 0
    (folder / "my model.trwkv").touch()
    return folder


@pytest.mark.parametrize("shell", INTERACTIVE)
@pytest.mark.parametrize("name", ["tinyrwkv", "tinyrwkv-convert"])
def test_a_shell_completes(shell: str, name: str, scripts: pathlib.Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    command = [shell, *INTERACTIVE[shell]]
    shows = f"{name}() {{ echo got: $* .; }}"
    with Terminal("-c", EXECUTE, *command, columns=200) as terminal:
        terminal.type(f"{BEGIN[shell]}. {scripts}/{name}.{shell}; {shows}; echo rea\\dy\n")
        terminal.wait_for("ready")
        for typed, word in COMPLETED:
            command_name, *words = typed.split()
            if command_name == name:
                terminal.type(f"{typed}\t\n")
                terminal.wait_for(f"got: {' '.join([*words[:-1], word])} .")


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize("name", ["tinyrwkv", "tinyrwkv-convert"])
def test_fish_completes(name: str, scripts: pathlib.Path) -> None:
    for typed, word in COMPLETED:
        if typed.split()[0] == name:
            code = f"source {scripts}/{name}.fish; complete -C '{typed}'"
            done = subprocess.run(
                ["fish", "--no-config", "-c", code],
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert word in done.stdout.split(), done


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["plan", "--resid"], ["--resident-limit"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["generate", "-n", ""], []),
        (["chat", "--backend", "=", "nu"], ["numba", "numpy"]),
        (["ch"], ["chat"]),
    ],
)
def test_what_bash_proposes(words: list[str], found: list[str], scripts: pathlib.Path) -> None:
    code = (
        f'. {scripts}/tinyrwkv.bash; COMP_WORDS=(tinyrwkv "$@"); COMP_CWORD=$#; '
        '_tinyrwkv; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", code, "bash", *words], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == found


@pytest.mark.parametrize(("run", "name"), [(main, "tinyrwkv"), (convert, "tinyrwkv-convert")])
def test_the_manual_has_every_command_and_option(
    run: object, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(run) and run(["man"]) == 0
    page = capsys.readouterr().out
    assert page.startswith(f".TH {name.upper()} 1 ")
    for option in ("\\-\\-temperature", "\\-\\-resident\\-limit")[: 2 * (name == "tinyrwkv")]:
        assert f"\\fB{option}\\fR" in page
    assert ".SH EXIT STATUS\n" in page and "%(" not in page
    first, second = re.findall(r"^\.nf\n(.* )\[\\-h\].*\n( *)", page, re.MULTILINE)[1]
    assert len(second) == len(first.replace("\\", ""))  # how a command is called, in a column
    if shutil.which("groff") is None:
        return
    done = subprocess.run(
        ["groff", "-man", "-ww", "-z"], input=page, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
