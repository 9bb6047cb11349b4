"""What docs/vendoring.md says: what a copy may leave out, and the programs on the page."""

from __future__ import annotations

import ast
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

import tinyrwkv
import tinyrwkv.chat.templates

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "vendoring.md").read_text("utf-8")
IMPORTS, DATA, *PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)

SMALL = """
from stack.parts import llm
model = llm.load(r"{model}", backend="{backend}")
print(int(model.forward(model.tokenizer.encode("User: stop"))[0].argmax()))
list(model.generate("User: stop", max_tokens=3))
try:
    llm.load()
except llm.FormatError as error:
    print(error.object)
"""


def python(code: str, folder: pathlib.Path) -> str:
    settings = {"PYTHONPATH": str(folder), "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | settings,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("backend", ["native", "numpy"])
def test_the_core_alone_is_enough(backend: str, tmp_path: pathlib.Path) -> None:
    if backend == "native" and (chosen := tinyrwkv.engine.backends.choose()).path is None:
        pytest.skip(f"backend native: {chosen.reason}")
    left_out = shutil.ignore_patterns(
        "__pycache__",
        "constraints",
        "chat",
        "robot",
        "serve",
        "cli",
        "models",
        "numba_backend.py",
        "__main__.py",
    )
    shutil.copytree(ROOT / "tinyrwkv", tmp_path / "stack" / "parts" / "llm", ignore=left_out)
    if backend == "numpy":
        for path in (tmp_path / "stack" / "parts" / "llm" / "native").iterdir():
            if path.suffix in (".so", ".dll", ".dylib"):
                path.unlink()
    told = python(SMALL.format(model=tinyrwkv.loading.BUNDLED, backend=backend), tmp_path).split(
        "\n"
    )
    logits, _ = tinyrwkv.load(backend=backend).forward(
        tinyrwkv.load().tokenizer.encode("User: stop")
    )
    assert logits is not None and int(told[0]) == int(logits.argmax())
    assert told[1] == "bundled model"


def test_the_programs_of_the_page_run(tmp_path: pathlib.Path) -> None:
    assert len(PROGRAMS) == 2
    said = python("\n".join(PROGRAMS), ROOT).splitlines()
    assert " move(2)" in said


def test_a_copy_of_another_name_runs_them_too(tmp_path: pathlib.Path) -> None:
    package = tmp_path / "robot_brain"
    shutil.copytree(
        ROOT / "tinyrwkv", package / "llm", ignore=shutil.ignore_patterns("__pycache__")
    )
    (package / "__init__.py").touch()
    programs = (
        "\n".join(PROGRAMS)
        .replace("from tinyrwkv", "from robot_brain.llm")
        .replace("import tinyrwkv", "")
    )
    assert (
        " move(2)"
        in python(
            "import sys\nsys.modules['tinyrwkv'] = None\n" + IMPORTS + programs, tmp_path
        ).splitlines()
    )


def test_the_files_that_are_no_programs_are_named() -> None:
    patterns = ast.literal_eval("{" + DATA.partition("={")[2].strip(", \n"))["robot_brain.llm"]
    folder = ROOT / "tinyrwkv"
    named = {path for pattern in patterns for path in folder.glob(pattern)}
    others = {
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".py" and path.parent.name != "__pycache__"
    }
    assert others == {path for path in named if path.is_file() and path.suffix != ".py"}


def test_the_names_are_there() -> None:
    rows = [
        row.split("|")[2]
        for row in PAGE[PAGE.index("| llama_ros |") :].splitlines()
        if row.startswith("|")
    ]
    model, sampler = tinyrwkv.load(), tinyrwkv.Sampler()
    generation = model.generate([1])
    places = {"tinyrwkv": tinyrwkv, "model": model, "sampler": sampler, "generation": generation}
    for first, rest in re.findall(r"`(\w+)((?:\.\w+)*)[`(]", " ".join(rows)):
        holders = (*places.values(), tinyrwkv.Piece, generation.result)
        assert first in places or any(hasattr(holder, first) for holder in holders), first
        found = places.get(first)
        for part in filter(None, rest.split(".")):
            found = getattr(found, part)
