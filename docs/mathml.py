"""A Sphinx extension that turns formulas into MathML, which browsers draw without a script."""

from __future__ import annotations

import html
import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.errors import ExtensionError


def mathml(formula: str, display: str) -> str:
    r"""Return LaTeX as a MathML element; ExtensionError where a part of it was not understood.

    >>> mathml("a^2", "inline").partition("<mrow>")[2]
    '<msup><mi>a</mi><mn>2</mn></msup></mrow></math>'
    """
    element = convert(formula, display=display)
    left = [
        text
        for text in re.findall(r">([^<>]+)<", element)
        if re.search(r"\\|&(?!#?\w+;)", html.unescape(text))
    ]
    if left:
        raise ExtensionError(
            f"formula {formula!r}: {left[0]!r} is not understood; write it in another way"
        )
    return element


def inline(translator: Any, node: nodes.math) -> None:
    """Write a formula in a line."""
    translator.body.append(mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def block(translator: Any, node: nodes.math_block) -> None:
    """Write a formula of its own."""
    translator.body.append(f'<div class="formula">{mathml(node.astext(), "block")}</div>\n')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, Any]:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
