"""A Sphinx extension that makes a page of a lesson.

It runs the program and shows its text, code, output and picture. A lesson is a Python file in the
light format of Jupytext: a paragraph in which every line is a comment is Markdown, and all between
is code. The picture stands under the claim. Imports and the code that draws are folded away.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import pathlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from docutils import nodes
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.util import logging

LESSONS = pathlib.Path(__file__).resolve().parent / "lessons"
PICTURES = LESSONS / "build"

MARK = "# <- repair this line"

LONGEST = 60
"""Seconds that a lesson may take with ``OPENBLAS_NUM_THREADS=1``; CI warns of others."""

IMPORTS = "Imports"
DRAWING = "How the picture is drawn"


class Cell(NamedTuple):
    """A part of a lesson.

    Attributes
    ----------
    is_code : bool
    text : str
        Markdown, or code.
    line : int
        Where it begins in the file, from 1.
    """

    is_code: bool
    text: str
    line: int


def cells(source: str) -> Iterator[Cell]:
    r"""Take a lesson apart.

    >>> [cell.is_code for cell in cells("# # Title\n\nx = 1\n\n# why\ny = 2\n\n# Text.\n")]
    [False, True, False]
    """
    code, begin, line = [], 1, 1
    for paragraph in re.split(r"(\n{2,})", source.strip("\n")):
        if paragraph.startswith("\n"):
            line += len(paragraph)
            continue
        lines = paragraph.split("\n")
        if all(text.startswith("#") for text in lines):
            if code:
                yield Cell(True, "\n\n".join(code), begin)
                code = []
            yield Cell(
                False, "\n".join(text.removeprefix("#").removeprefix(" ") for text in lines), line
            )
        else:
            begin = begin if code else line
            code.append(paragraph)
        line += len(lines) - 1
    if code:
        yield Cell(True, "\n\n".join(code), begin)


def run(path: pathlib.Path, show: Callable[[str], None]) -> Iterator[tuple[Cell, str]]:
    """Run a lesson cell by cell; yield each cell with what it printed.

    Parameters
    ----------
    path : Path
    show : callable
        Called as ``show(name)`` in the place of ``plt.show()``; the current figure is the picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names: dict[str, Any] = {"__file__": str(path), "__name__": "__main__"}
    shown, original = 0, pyplot.show

    def show_next() -> None:
        nonlocal shown
        shown += 1
        show(f"{path.stem}-{shown}")
        pyplot.close("all")

    pyplot.show = show_next
    try:
        for cell in cells(path.read_text("utf-8")):
            printed = io.StringIO()
            if cell.is_code:
                code = compile("\n" * (cell.line - 1) + cell.text, str(path), "exec")
                with contextlib.redirect_stdout(printed):
                    exec(code, names)
            yield cell, printed.getvalue()
    finally:
        pyplot.show = original


def folds(code: str) -> Iterator[tuple[str, str]]:
    r"""Split code into parts; yield each with the summary that it is folded under, or "".

    Imports are folded, and all from ``plt.subplots`` to ``plt.show``.

    >>> list(folds("import a\n\nx = 1\ny = plt.subplots()\nplt.show()\nz = 2"))
    ... # doctest: +NORMALIZE_WHITESPACE
    [('Imports', 'import a'), ('', 'x = 1'),
     ('How the picture is drawn', 'y = plt.subplots()\nplt.show()'), ('', 'z = 2')]
    """
    lines = code.split("\n")
    found: list[tuple[str, list[str]]] = []
    end, is_drawing = 0, False
    for node in ast.parse(code).body:
        text = lines[end : node.end_lineno]
        end = node.end_lineno or end
        source = "\n".join(text)
        is_drawing = is_drawing or "plt.subplots(" in source
        summary = DRAWING if is_drawing else IMPORTS if _is_import(node) else ""
        is_drawing = is_drawing and "plt.show(" not in source
        if found and found[-1][0] == summary:
            found[-1][1].extend(text)
        else:
            found.append((summary, text))
    for summary, text in found:
        yield summary, "\n".join(text).strip("\n")


def _is_import(node: ast.stmt) -> bool:
    """Tell whether a statement imports, finds what to import, or ends where that is no use."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return True
    source = ast.unparse(node)
    return source.startswith("sys.path.insert(") or source.endswith("raise SystemExit")


def folded(code: str, printed: str = "") -> Iterator[str]:
    """Yield the paragraphs that show code, with what is beside the matter folded away.

    What the code printed stands behind it, and before the code that draws.
    """
    output = [f"```text\n{printed.rstrip()}\n```"] if printed else []
    for summary, part in folds(code):
        block = f"```python\n{part}\n```"
        if summary == DRAWING:
            yield from output
            output = []
        if summary:
            yield f'<details class="aside"><summary>{summary}</summary>'
            yield f"{block}\n\n</details>"
        else:
            yield block
    yield from output


def page(path: pathlib.Path) -> str:
    """Run a lesson and return it as Markdown; its pictures go to the folder PICTURES."""
    from matplotlib import pyplot

    PICTURES.mkdir(exist_ok=True)
    pictures: list[str] = []

    def save(name: str) -> None:
        pyplot.savefig(PICTURES / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
        titles = [axes.get_title() for axes in pyplot.gcf().axes]
        pictures.append(f"![{'; '.join(filter(None, titles))}](build/{name}.svg)")

    written: list[str] = []
    for cell, printed in run(path, save):
        if not cell.is_code:
            written += cell.text.split("\n\n")
            continue
        written += folded(cell.text, printed)
    claim = next(i for i, text in enumerate(written) if text.startswith("**Claim.**"))
    written[claim + 1 : claim + 1] = pictures
    return "\n\n".join([*written, *exercise(path.stem)]) + "\n"


def exercise(name: str) -> Iterator[str]:
    """Yield the paragraphs with the exercise of a lesson, its answer folded away."""
    path = LESSONS / "exercises" / f"{name}.py"
    answer = json.loads((LESSONS / "exercises" / "answers.json").read_text("utf-8"))[name]
    lines = path.read_text("utf-8").rstrip().split("\n")
    first = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    yield "## Exercise"
    yield "\n".join(line.removeprefix("# ") for line in lines[:first])
    yield f"`python docs/lessons/exercises/{path.name}` fails. Repair the marked line."
    yield from folded("\n".join(lines[first:]))
    yield "<details><summary>Answer</summary>"
    yield f"```python\n{answer['line'].strip()}\n```"
    yield f"{answer['why']}\n\n</details>"


class LessonParser(MystParser):
    """Parses a lesson as the Markdown that running it gives."""

    supported = ("lesson",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Run the lesson and fill the document."""
        path = pathlib.Path(document["source"])
        began = time.process_time()
        text = page(path)
        spent = (
            time.process_time() - began
        )  # of the processor, so that what else the machine does hardly counts
        log = logging.getLogger(__name__)
        is_late = spent >= LONGEST and "CI" in os.environ  # a slow board may take its time
        (log.warning if is_late else log.info)(f" {path.name}: {spent:.1f} s, {LONGEST} at most")
        super().parse(text, document)


def setup(app: Any) -> dict[str, Any]:
    """Register the parser."""
    app.add_source_parser(LessonParser)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
