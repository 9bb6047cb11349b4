"""The keywords that speak of one type of value: each function makes the shape of one type.

Every function takes a `Subschema` whose `schema` is a mapping.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from ...errors import show
from ..numbers import exact
from .ecma import parse
from .formats import FORMATS, NO_FORMATS, NUMBER_FORMATS
from .refusals import unsupported, wrong
from .shapes import All, Arrays, Items, Members, Numbers, Objects, Pattern, Strings, Subschema

BY_TYPE = {
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": (
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        "format",
    ),
    "array": (*("items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems"),),
    "object": (
        *("properties", "required", "additionalProperties", "patternProperties"),
        *("propertyNames", "minProperties", "maxProperties"),
    ),
}
"""The keywords of each type."""


def child(parent: Subschema, schema: Any, path: str) -> Subschema:
    """Return a schema that lies in another one; `path` is what is added to that one's."""
    return replace(parent, schema=schema, path=f"{parent.path}{path}", depth=parent.depth + 1)


def step(key: str) -> str:
    """Return a key as a part of a path."""
    return f".{key}" if key.replace("-", "_").isidentifier() else f"[{show(key)}]"


def strings(of: Subschema) -> Strings:
    """Return the shape of the strings."""
    schema = of.schema
    patterns: tuple[Pattern, ...] = ()
    if "pattern" in schema:
        patterns = (pattern(schema["pattern"], f"{of.path}.pattern"),)
    name = _format(of)
    least = _count(of, "minLength") or 0
    return Strings(least, _count(of, "maxLength"), patterns, (name,) if name in FORMATS else ())


def pattern(value: Any, path: str) -> Pattern:
    """Return a regular expression as a tree."""
    if not isinstance(value, str):
        wrong(path, show(value), "a regular expression")
    tree, without = parse(value, path)
    return Pattern(tree, path, tuple(without))


def _format(of: Subschema) -> str:
    name = of.schema.get("format", "")
    path = f"{of.path}.format"
    if not isinstance(name, str):
        wrong(path, show(name), "a name")
    if name and name not in FORMATS and name not in NUMBER_FORMATS and name not in NO_FORMATS:
        expected = f"one of {', '.join(FORMATS)}"
        sentence = f"{path} is {show(name)}, but can only be {expected}"
        unsupported(path, show(name), expected, "leave it out, or give a pattern", sentence)
    return name


def numbers(of: Subschema) -> Numbers:
    """Return the shape of the numbers."""
    schema = of.schema
    bounds = {}
    for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"):
        bounds[key] = _bound(of, key)
    low, high = bounds["minimum"], bounds["maximum"]
    above, below = bounds["exclusiveMinimum"], bounds["exclusiveMaximum"]
    if schema.get("exclusiveMinimum") is True:  # as in draft 4
        low, above = None, low
    if schema.get("exclusiveMaximum") is True:
        high, below = None, high
    multiple = bounds["multipleOf"]
    if multiple is not None and multiple <= 0:
        wrong(f"{of.path}.multipleOf", show(schema["multipleOf"]), "a number above 0")
    shape = Numbers(low, high, above, below, () if multiple is None else (multiple,))
    span = NUMBER_FORMATS.get(_format(of))
    if span is not None:
        shape = shape.both(Numbers(Decimal(span[0]), Decimal(span[1]), whole=True))
    return shape


def _bound(of: Subschema, key: str) -> Decimal | None:
    value = of.schema.get(key)
    is_draft_4 = key.startswith("exclusive") and isinstance(value, bool)
    if key not in of.schema or is_draft_4:
        return None
    is_number = type(value) is int or (isinstance(value, float) and math.isfinite(value))
    if not is_number:
        wrong(f"{of.path}.{key}", show(value), "a number")
    return exact(value)


def arrays(of: Subschema) -> Arrays:
    """Return the shape of the arrays."""
    schema = of.schema
    if isinstance(schema.get("items"), list):  # as up to draft 2019-09
        items = [_first(of, "prefixItems", ""), _first(of, "items", "additionalItems")]
    else:
        items = [_first(of, "prefixItems", "items")]
    unique = schema.get("uniqueItems", False)
    if not isinstance(unique, bool):
        wrong(f"{of.path}.uniqueItems", show(unique), "true or false")
    return Arrays(
        _count(of, "minItems") or 0,
        _count(of, "maxItems"),
        tuple(one for one in items if one != Items()),
        f"{of.path}.uniqueItems" if unique else "",
    )


def _first(of: Subschema, key: str, others: str) -> Items:
    """Return what two keywords say: one of the first items, and one of the others."""
    first = of.schema.get(key, [])
    if not isinstance(first, list):
        wrong(f"{of.path}.{key}", show(first), "a list of schemas")
    schemas = tuple((child(of, one, f".{key}[{i}]"),) for i, one in enumerate(first))
    return Items(schemas, _one(of, others))


def objects(of: Subschema) -> Objects:
    """Return the shape of the objects."""
    schema = of.schema
    named = {
        key: (child(of, value, f".properties{step(key)}"),)
        for key, value in _mapping(of, "properties").items()
    }
    matching = tuple(
        (
            pattern(key, f"{of.path}.patternProperties{step(key)}"),
            (child(of, value, f".patternProperties{step(key)}"),),
        )
        for key, value in _mapping(of, "patternProperties").items()
    )
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(key, str) for key in required):
        wrong(f"{of.path}.required", show(required), "a list of names of properties")
    others = _one(of, "additionalProperties")
    members = Members(named, matching, others, schema.get("additionalProperties", True) is True)
    return Objects(
        _count(of, "minProperties") or 0,
        _count(of, "maxProperties"),
        (members,) if named or matching or others else (),
        tuple(dict.fromkeys(required)),
        _one(of, "propertyNames"),
    )


def _mapping(of: Subschema, key: str) -> Mapping[str, Any]:
    value = of.schema.get(key, {})
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        wrong(f"{of.path}.{key}", show(value), "an object of schemas")
    return value


def _one(of: Subschema, key: str) -> All:
    return (child(of, of.schema[key], f".{key}"),) if key in of.schema else ()


def _count(of: Subschema, key: str) -> int | None:
    """Return the value of a keyword such as minLength."""
    value = of.schema.get(key)
    if key not in of.schema:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or value < 0:
        wrong(f"{of.path}.{key}", show(value), "a whole number of at least 0")
    return value


SHAPES: dict[str, Callable[[Subschema], Any]] = {
    "string": strings,
    "number": numbers,
    "array": arrays,
    "object": objects,
}
