"""Do what README.md and docs/quickstart.md say, in an environment of its own, word for word.

    python3 tests/walk_docs.py

A block behind a mark is run: ``<!-- run 2 -->``. The numbers tell the order, because a page may
show first what comes out in the end. Lines that begin with ``$`` are commands, those that begin
with ``>`` are typed into the command before, and all others must come out as they stand. A command
under which nothing stands must only end well. Then every block of Python is run. What it prints
stands in quotes behind ``#``.

The pages speak of files that a reader has: the script makes a small checkpoint, a vocabulary and a
text.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/quickstart.md")

BLOCK = re.compile(
    r"<!-- run (\d+) -->\s+(?:^#[^\n]*\s+)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PRINTED = re.compile(r'^ *print\(.*# "(.*?)"', re.MULTILINE)

FILES = """
from tests.helpers.checkpoints import raw_checkpoint
from tests.helpers.pth_writer import write_pth
from tests.helpers.vocabularies import single_bytes

sizes = {"n_layer": 1, "n_embd": 64, "head_size": 16, "vocab_size": 300}
write_pth("rwkv.pth", raw_checkpoint("v7", **sizes))
with open("rwkv_vocab_v20230424.txt", "w") as file:
    for id, word in single_bytes().items():
        print(id, repr(word), len(word), file=file)
with open("book.txt", "w") as file:
    file.write("It was a small machine with a long memory. " * 200)
"""
"""A program that makes what a reader of the pages has already."""


class Step(NamedTuple):
    """A command, what is typed into it, and what must come out; None for anything."""

    command: str
    typed: str
    expected: str | None


def steps(page: str) -> Iterator[Step]:
    """Yield the steps of a page."""
    for _, language, text in sorted(BLOCK.findall(page), key=lambda found: int(found[0])):
        if language == "sh":
            yield from (Step(line, "", None) for line in text.splitlines())
        else:
            yield from _console(text)
    for text in PYTHON.findall(page):
        yield Step("python -", text, "".join(PRINTED.findall(text)) + "\n")


def _console(text: str) -> Iterator[Step]:
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, *lines = part.splitlines()
        typed = [line[2:] for line in lines if line.startswith("> ")]
        shown = [line for line in lines if not line.startswith("> ")]
        expected = "".join(f"{line}\n" for line in shown) if shown else None
        yield Step(command, "".join(f"{line}\n" for line in typed), expected)


def with_files(listed: list[Step]) -> list[Step]:
    """Return the steps, with one that makes the files of a reader as soon as NumPy is there."""
    place = max(number for number, step in enumerate(listed) if "pip install" in step.command)
    return [*listed[: place + 1], Step("python -", FILES, None), *listed[place + 1 :]]


def walk(listed: list[Step], folder: pathlib.Path, environment: dict[str, str]) -> list[str]:
    """Take steps in one shell; return what went wrong.

    Parameters
    ----------
    listed : list of Step
    folder : Path
        Where the shell begins.
    environment : dict of str to str
        Of the shell.
    """
    with tempfile.TemporaryDirectory() as scratch:
        lines = []
        for number, step in enumerate(listed):
            path = pathlib.Path(scratch, str(number))
            path.with_suffix(".in").write_text(step.typed)
            lines.append(f"{{ {step.command} ; }} <{path}.in >{path}.out")
            lines.append(f"echo $? >{path}.status")
        # A command that fails does not end the walk: what comes after it can tell something too.
        subprocess.run(["bash", "-c", "\n".join(lines)], cwd=folder, env=environment, check=True)
        return [
            problem
            for number, step in enumerate(listed)
            for problem in _problems(step, pathlib.Path(scratch, str(number)))
        ]


def _problems(step: Step, path: pathlib.Path) -> Iterator[str]:
    status = path.with_suffix(".status").read_text().strip()
    found = path.with_suffix(".out").read_text()
    print(f"$ {step.command}\n{found}", end="", flush=True)
    if status != "0":
        yield f"{step.command}: ended with {status}"
    elif step.expected is not None and found != step.expected:
        yield f"{step.command}: printed {found!r}, the page says {step.expected!r}"


def main() -> int:
    """Walk all pages; return 1 if something differs."""
    problems: list[str] = []
    for page in PAGES:
        with tempfile.TemporaryDirectory() as home:
            checkout = pathlib.Path(home, "tinyrwkv")
            shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".git", "*_cache"))
            print(f"===== {page}", flush=True)
            listed = with_files(list(steps(ROOT.joinpath(page).read_text("utf-8"))))
            found = walk(listed, checkout, _environment(home))
            problems += [f"{page}: {problem}" for problem in found]
    print(*problems, sep="\n", file=sys.stderr)
    return 1 if problems else 0


def _environment(home: str) -> dict[str, str]:
    """Return an environment with an empty home folder and a Python that has only NumPy's files."""
    subprocess.run([sys.executable, "-m", "venv", f"{home}/venv"], check=True)
    kept = {name: os.environ[name] for name in os.environ if name.startswith(("PIP_", "SSL_"))}
    path = f"{home}/venv/bin:{os.environ['PATH']}"
    return {**kept, "PATH": path, "HOME": home, "LANG": "C.UTF-8"}


if __name__ == "__main__":
    sys.exit(main())
