"""A Sphinx extension that marks what the style sheet treats in its own way.

The columns of a table that hold figures get the class ``figures``. A table of many columns gets the
class ``wide``. A picture with a white ground, which is turned over for a dark page, gets the class
``drawing``, and the picture of a terminal the class ``recording``.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes

WIDE = 8
"""Columns from which on a table is wide."""

_FIGURE = re.compile(
    r"""[-+]?\d[\d,.]*(\ ?(%|[kMG]?B|m?s|nats|x|ms|tok/s))?   # 63.3 MB
        ((\ /\ |\ to\ )[-+]?\d[\d,.]*)*                       # 89 / 147
        (\ ?\([-+]?\d[\d,.]*(\ ?%)?\))?                       # (+0.0002)""",
    re.VERBOSE,
)


def is_figure(text: str) -> bool:
    """Tell whether a cell holds a figure.

    >>> [is_figure(text) for text in ("3.8427 (+0.0002)", "89 / 147", "int8", "62 layers")]
    [True, True, False, False]
    """
    return _FIGURE.fullmatch(text.strip()) is not None


def mark(app: Any, document: nodes.document) -> None:
    """Give the classes to the tables and the pictures of a page."""
    for table in document.findall(nodes.table):
        _mark_table(table)
    for image in document.findall(nodes.image):
        uri = image["uri"]
        if uri.endswith(".svg"):
            image["classes"].append("recording" if "recordings/" in uri else "drawing")


def _mark_table(table: nodes.table) -> None:
    rows = [list(row.findall(nodes.entry)) for row in table.findall(nodes.row)]
    if len(rows[0]) >= WIDE:
        table["classes"].append("wide")
    for heading, *column in zip(*rows, strict=False):
        texts = [entry.astext().strip() for entry in column]
        told = [text for text in texts if text not in ("", "-")]
        if told and all(map(is_figure, told)):
            for entry in (heading, *column):
                entry["classes"].append("figures")


def setup(app: Any) -> dict[str, Any]:
    """Register the marking."""
    app.connect("doctree-read", mark)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
