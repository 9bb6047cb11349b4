"""Answers that are a block of JSON, the form in which G1 models call functions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..constraints.json_schema import JsonSchema
from ..errors import FormatError
from .templates import Template

BEGIN = "```json\n"
END = "\n```"


def json_block(schema: Mapping[str, Any] | bool, template: Template) -> JsonSchema:
    r"""Return a constraint for answers that are JSON between the marks of a block.

    Parameters
    ----------
    schema : mapping or bool
        As for `JsonSchema`.
    template : Template
        The one of the chat: it tells what stands before the first word of an answer.

    Returns
    -------
    JsonSchema

    Raises
    ------
    ArgumentError, UnsupportedError
        As for `JsonSchema`.

    Examples
    --------
    >>> from tinyrwkv.chat.templates import TEMPLATES
    >>> block = json_block({"type": "boolean"}, TEMPLATES["chat"])
    >>> block.matches(" ```json\ntrue\n```")
    True
    """
    return JsonSchema(schema, prefix=template.lead + BEGIN, suffix=END)


def read_json_block(text: str) -> Any:
    r"""Return the value in an answer that is a block of JSON.

    Raises
    ------
    FormatError
        The answer is something else, for instance because it was cut off.

    Examples
    --------
    >>> read_json_block(' ```json\n{"x": 7}\n```')
    {'x': 7}
    """
    block = text.strip()
    if block.startswith(BEGIN) and block.endswith(END):
        try:
            return json.loads(block[len(BEGIN) : -len(END)])
        except (ValueError, RecursionError):
            pass
    expected = "a whole block of JSON"
    fix = "ask again, or allow more tokens"
    sentence = f"the answer is not {expected}: {block[:60]!r}"
    raise FormatError("chat", "answer", repr(block[:60]), expected, fix, sentence)
