"""Answers in JSON: `JsonSchema` for a schema, and for any object."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from typing import Any

from ..constraints.constraint import Constraint
from ..constraints.json_schema import JsonSchema
from ..errors import TinyRWKVError, show
from ..model import Model
from .fields import Fields
from .refusal import of_error, wrong

LEVELS = 4
"""Objects and arrays inside of each other in "json_object"; one more makes it 4 times as large."""

KEPT = 8
"""Constraints that are kept, with what they have learned: 4 MB of masks each, at most."""


def object_schema(levels: int = LEVELS) -> dict[str, Any]:
    """Return a schema of any JSON object with at most so many objects and arrays in each other.

    Examples
    --------
    >>> JsonSchema(object_schema(1)).matches('{"a": 1, "b": null}')
    True
    """
    plain = [{"type": kind} for kind in ("string", "number", "boolean", "null")]
    value: dict[str, Any] = {"anyOf": plain}
    for _ in range(levels):
        made = {"type": "object", "additionalProperties": value}
        value = {"anyOf": [*plain, made, {"type": "array", "items": value}]}
    return made


class Formats:
    """Makes the constraints of requests, and keeps those that were used last.

    Parameters
    ----------
    model : Model
    prefix : str
        What an answer begins with: the space behind "Assistant:".
    """

    def __init__(self, model: Model, prefix: str) -> None:
        self._model = model
        self._prefix = prefix
        self._kept: OrderedDict[str, Constraint] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, told: Any) -> Constraint | None:
        """Return the constraint for ``response_format``; None for free text.

        Raises
        ------
        Refusal
            It is not a format, or its schema is wrong or not understood.
        """
        if told is None:
            return None
        fields = Fields(told, "response_format")
        kind = fields.needed("type")
        if kind == "text":
            fields.finish()
            return None
        schema = None
        if kind == "json_schema":
            schema = _schema(fields.needed("json_schema"))
        elif kind != "json_object":
            found = show(kind)
            raise wrong("response_format.type", found, "text, json_object or json_schema")
        fields.finish()
        return self._constraint(schema)

    def _constraint(self, schema: Any) -> Constraint:
        name = json.dumps(schema)  # the order of properties counts
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name]
        made = self._make(schema)
        with self._lock:
            self._kept[name] = made
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return made

    def _make(self, schema: Any) -> Constraint:
        try:
            made = JsonSchema(object_schema() if schema is None else schema, prefix=self._prefix)
            made.masks(self._model)
        except TinyRWKVError as error:
            raise of_error(error, "response_format") from None
        return made


def _schema(told: Any) -> Any:
    fields = Fields(told, "response_format.json_schema")
    for key in ("name", "description"):
        fields.text(key)
    fields.flag("strict")  # every schema is kept to
    schema = fields.needed("schema")
    fields.finish()
    return schema
