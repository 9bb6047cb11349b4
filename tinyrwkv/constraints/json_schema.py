"""Answers that are JSON, as a schema describes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ArgumentError
from .constraint import Constraint
from .old_names import accept_old_names
from .schema.plain import plain
from .schema.reader import MOST_RECURSION, Reader
from .schema.values import tree_of


class JsonSchema(Constraint):
    r"""JSON that a schema describes, as ``json.dumps`` writes it.

    docs/constraints.md lists the keywords that are understood.

    Parameters
    ----------
    schema : mapping or bool
        A JSON Schema, of draft 7 or 2020-12.
    prefix, suffix : str, optional
        As for `Regex`.

    Attributes
    ----------
    schema : mapping or bool
    prefix, suffix : str

    Raises
    ------
    ArgumentError
        It is not a schema, no value is valid for it, or it is too large.
    UnsupportedError
        It has a keyword that is not understood.

    Notes
    -----
    What is written is always valid, but not everything that is valid is written:

    - Spaces only where ``json.dumps`` writes them.
    - Properties in the order of the schema. Others only if ``additionalProperties`` is a schema.
    - Numbers without exponents, of at most 15 digits, at most 6 of them decimals.
    - No characters in strings that need ``\u``.
    - Without a type, values of the types that the other keywords speak of.
    - A schema within itself at most three times.

    A keyword that is not understood is refused and never ignored. Strings without ``maxLength`` and
    arrays without ``maxItems`` may go on until ``max_tokens`` cuts them off. A text that was cut
    off is not JSON, so look at ``stop_reason``.

    References
    ----------
    JSON Schema, drafts 7 and 2020-12; ECMA-262 for ``pattern``; RFC 8259 for JSON.

    Examples
    --------
    >>> digit = {"type": "integer", "minimum": 0, "maximum": 9}
    >>> schema = {"type": "object", "properties": {"x": digit}, "required": ["x"]}
    >>> found = JsonSchema(schema)
    >>> found.matches('{"x": 7}'), found.matches('{"x": 10}')
    (True, False)
    """

    @accept_old_names
    def __init__(
        self, schema: Mapping[str, Any] | bool, prefix: str = "", suffix: str = ""
    ) -> None:
        self.schema = schema
        copied = plain(schema)
        for recursion in range(MOST_RECURSION, -1, -1):
            reader = Reader(copied, recursion)
            try:
                tree = tree_of(copied, reader)
                super().__init__(tree, prefix, suffix, "schema")
                return
            except ArgumentError:
                # It may be smaller if it lies within itself fewer times.
                if not reader.was_cut or recursion == 0:
                    raise
