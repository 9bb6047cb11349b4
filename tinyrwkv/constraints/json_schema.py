"""JSON of a schema, as a pattern."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any, NoReturn

from ..errors import ArgumentError, UnsupportedError
from .characters import Ranges, complement, normalise
from .constraint import Regex
from .numbers import MOST_DIGITS
from .numbers import pattern as number_pattern
from .pattern import LONGEST, Characters, Either, Node, Repeat, parse

DEEPEST = 16
"""Schemas inside of schemas at most."""

DECIMALS = 6
"""Digits after the point of a number at most, where ``multipleOf`` does not say it."""

PLAIN = complement(normalise([(0, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F)]))
"""The characters that stand for themselves in a JSON string."""

ANY = Characters(complement(()))

ESCAPES = {character: json.dumps(character)[1:-1] for character in '"\\\b\f\n\r\t'}
"""Those that stand for others; the control characters that would need their code are left out."""

_ANNOTATIONS = {"title", "description", "default", "examples", "$schema", "$id", "$comment"}

_BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}

_KEYWORDS = {
    "string": {"minLength", "maxLength", "pattern"},
    "integer": _BOUNDS,
    "number": _BOUNDS,
    "boolean": set[str](),
    "null": set[str](),
    "array": {"items", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties"},
}


class JsonSchema(Regex):
    r"""JSON that a schema describes, as ``json.dumps`` writes it; docs/constraints.md lists what is understood.

    Parameters
    ----------
    schema : mapping
        A JSON Schema of objects, arrays, strings, numbers, booleans, null, ``enum``, ``const`` and ``anyOf``.
    lead, tail : str, optional
        As for `Regex`.

    Attributes
    ----------
    schema : mapping
    pattern : str

    Raises
    ------
    ArgumentError
        It is no schema, or nothing is valid by it, or it is too large.
    UnsupportedError
        It has a keyword that is not understood.

    Notes
    -----
    A subset, in one form: blanks only as ``json.dumps`` writes them, properties in the order of the schema and none
    besides, numbers of at most 15 digits and 6 decimals without exponents, no characters in strings that need
    ``\u``, schemas at most 16 deep. There are no ``$ref``, ``allOf``, ``oneOf``, ``format`` and the like: what is not
    understood is refused, never ignored. Strings and arrays without ``maxLength`` and ``maxItems`` may go on until
    ``max_tokens`` cuts them off, and what was cut off is no JSON: look at ``stop_reason``.

    Examples
    --------
    >>> schema = {"type": "object", "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 9}}}
    >>> found = JsonSchema({**schema, "required": ["x"]})
    >>> found.matches('{"x": 7}'), found.matches('{"x": 10}')
    (True, False)
    """

    def __init__(self, schema: Mapping[str, Any], lead: str = "", tail: str = "") -> None:
        self.schema = schema
        super().__init__(_any(schema, "schema", 0), lead, tail)


def _wrong(path: str, found: str, expected: str) -> NoReturn:
    raise ArgumentError("JsonSchema", path, found[:80], expected, "correct the schema")


def _any(schema: Any, path: str, depth: int) -> str:
    """Return the pattern of one schema; `path` is where it stands."""
    if depth > DEEPEST:
        _wrong(path, f"more than {DEEPEST} levels", "fewer")
    if not isinstance(schema, Mapping):
        _wrong(path, repr(schema), "an object such as {'type': 'string'}")
    kinds = [key for key in ("const", "enum", "anyOf", "type") if key in schema]
    if not kinds:
        _understood(schema, path, _ANNOTATIONS.union(*_KEYWORDS.values()))
        _wrong(path, "no type", "type, enum, const or anyOf")
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    if not isinstance(types, list) or not all(
        isinstance(kind, str) and kind in _KEYWORDS for kind in types
    ):
        _wrong(f"{path}.type", repr(types), f"one of {', '.join(_KEYWORDS)}")
    known = _ANNOTATIONS | {"type", kinds[0]}
    if kinds[0] == "type":
        known = known.union(*(_KEYWORDS[kind] for kind in types))
    _understood(schema, path, known)
    if kinds[0] in ("const", "enum"):
        values = [schema["const"]] if kinds[0] == "const" else schema["enum"]
        if not isinstance(values, list):
            _wrong(f"{path}.enum", repr(values), "a list")
        values = [
            value for value in values if not types or any(_is_a(value, kind) for kind in types)
        ]
        parts = [_constant(value, path) for value in values]
    elif kinds[0] == "anyOf":
        if not isinstance(schema["anyOf"], list) or types:
            _wrong(f"{path}.anyOf", repr(schema["anyOf"]), "a list, and no type beside it")
        parts = [
            _any(part, f"{path}.anyOf[{i}]", depth + 1) for i, part in enumerate(schema["anyOf"])
        ]
    else:
        parts = [_TYPES[kind](schema, path, depth) for kind in types]
    if not parts:
        _wrong(path, "no value that is valid", "at least one")
    return _short(parts[0] if len(parts) == 1 else f"(?:{'|'.join(parts)})", path)


def _understood(schema: Mapping[str, Any], path: str, known: set[str]) -> None:
    for key in schema:
        if key not in known:
            fix = "leave it out, or say it with type, enum, const, anyOf and what docs/constraints.md lists"
            raise UnsupportedError(
                "JsonSchema", path, f"keyword {key!r}"[:80], "one that is understood", fix
            )


def _short(pattern: str, path: str) -> str:
    if len(pattern) > LONGEST:
        _wrong(path, f"a pattern of {len(pattern):,} characters", f"at most {LONGEST:,}")
    return pattern


def _is_a(value: Any, kind: str) -> bool:
    """Tell whether a value is of a type of JSON Schema."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return {
        "string": isinstance(value, str),
        "integer": number and _is_finite(value) and value == int(value),
        "number": number,
        "boolean": isinstance(value, bool),
        "null": value is None,
        "array": isinstance(value, list),
        "object": isinstance(value, Mapping),
    }[kind]


def _is_finite(value: float) -> bool:
    return isinstance(value, int) or math.isfinite(value)  # an int may be too large for a float


def _constant(value: Any, path: str) -> str:
    try:
        return re.escape(json.dumps(value, ensure_ascii=False, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        _wrong(path, f"{error}", "a value that JSON can write")


def _count(schema: Mapping[str, Any], key: str, path: str) -> int | None:
    value = schema.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        _wrong(f"{path}.{key}", repr(value), "a whole number, 0 or more")
    return value


def _times(least: int, most: int | None, path: str) -> str:
    if most is not None and most < least:
        _wrong(path, f"at least {least} and at most {most}", "the smaller number first")
    return f"{{{least},{'' if most is None else most}}}"


def _string(schema: Mapping[str, Any], path: str, depth: int) -> str:
    least, most = _count(schema, "minLength", path), _count(schema, "maxLength", path)
    if "pattern" not in schema:
        return f'"{_inside(ANY, path)}{_times(least or 0, most, path)}"'
    if least is not None or most is not None:
        fix = "say the length in the pattern"
        raise UnsupportedError("JsonSchema", path, "a pattern and a length", "one of them", fix)
    return f'"{_inside(parse(schema["pattern"]), path)}"'


def _inside(node: Node, path: str) -> str:
    """Return the pattern of what stands between quotes where a tree matches what it means."""
    if isinstance(node, Characters):
        spans = [(max(a, low), min(b, high)) for a, b in PLAIN for low, high in node.ranges]
        parts = (
            [_set(kept)]
            if (kept := normalise(span for span in spans if span[0] <= span[1]))
            else []
        )
        parts += [
            re.escape(escape)
            for character, escape in ESCAPES.items()
            if any(low <= ord(character) <= high for low, high in node.ranges)
        ]
        if not parts:
            _wrong(f"{path}.pattern", "only control characters", "others too")
        return parts[0] if len(parts) == 1 else f"(?:{'|'.join(parts)})"
    if isinstance(node, Repeat):
        return f"(?:{_inside(node.part, path)}){{{node.least},{'' if node.most is None else node.most}}}"
    parts = [_inside(part, path) for part in node.parts]
    return f"(?:{'|'.join(parts)})" if isinstance(node, Either) else "".join(parts)


def _set(ranges: Ranges) -> str:
    return "[" + "".join(f"\\U{low:08x}-\\U{high:08x}" for low, high in ranges) + "]"


def _number(schema: Mapping[str, Any], path: str, decimals: int) -> str:
    multiple = schema.get("multipleOf", 10.0**-decimals)
    units = [i for i in range(decimals + 1) if multiple in (10.0**-i, 1 / 10**i)]
    if isinstance(multiple, bool) or not units:
        expected = "1" if decimals == 0 else f"1, 0.1, 0.01, ... to {10.0**-decimals:g}"
        raise UnsupportedError(
            "JsonSchema", f"{path}.multipleOf", repr(multiple)[:80], expected, "leave it out"
        )
    unit, limit = Decimal(1).scaleb(-units[0]), 10 ** (MOST_DIGITS - units[0]) - 1
    for key in _BOUNDS & schema.keys():
        if not _is_a(schema[key], "number") or not _is_finite(schema[key]):
            _wrong(f"{path}.{key}", repr(schema[key]), "a number")
    low, high = (
        Decimal(str(schema.get(key, bound)))
        for key, bound in (("minimum", -limit), ("maximum", limit))
    )
    if "exclusiveMinimum" in schema:
        above = Decimal(str(schema["exclusiveMinimum"])) / unit
        low = max(low, (above.to_integral_value(ROUND_FLOOR) + 1) * unit)
    if "exclusiveMaximum" in schema:
        below = Decimal(str(schema["exclusiveMaximum"])) / unit
        high = min(high, (below.to_integral_value(ROUND_CEILING) - 1) * unit)
    return number_pattern(low, high, units[0])


def _array(schema: Mapping[str, Any], path: str, depth: int) -> str:
    if "items" not in schema:
        _wrong(path, "no items", "the schema of the items")
    item = _any(schema["items"], f"{path}.items", depth + 1)
    least, most = _count(schema, "minItems", path) or 0, _count(schema, "maxItems", path)
    if most == 0 and least == 0:
        return "\\[\\]"
    if most is not None and most < least:
        _wrong(path, f"at least {least} and at most {most}", "the smaller number first")
    rest = _times(max(least - 1, 0), None if most is None else most - 1, path)
    items = f"{item}(?:, {item}){rest}"
    return _short(f"\\[(?:{items})?\\]" if least == 0 else f"\\[{items}\\]", path)


def _object(schema: Mapping[str, Any], path: str, depth: int) -> str:
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, Mapping) or not all(isinstance(key, str) for key in properties):
        _wrong(f"{path}.properties", repr(properties), "an object of schemas")
    if not isinstance(required, list) or not all(
        isinstance(key, str) and key in properties for key in required
    ):
        _wrong(f"{path}.required", repr(required), "a list of names of properties")
    if schema.get("additionalProperties", False) is not False:
        fix = "list the properties"
        raise UnsupportedError("JsonSchema", f"{path}.additionalProperties", "others", "False", fix)
    members = {
        key: f"{_constant(key, path)}: {_any(value, f'{path}.{key}', depth + 1)}"
        for key, value in properties.items()
    }
    keys = list(members)

    def from_on(first: int) -> str:
        """Return the pattern of an object whose first property is this one."""
        rest = (
            f", {members[key]}" if key in required else f"(?:, {members[key]})?"
            for key in keys[first + 1 :]
        )
        return members[keys[first]] + "".join(rest)

    first_required = next((i for i, key in enumerate(keys) if key in required), None)
    if first_required is not None:  # each before it brings its own comma
        before = "".join(f"(?:{members[key]}, )?" for key in keys[:first_required])
        return _short(f"\\{{{before}{from_on(first_required)}\\}}", path)
    starts = [_short(from_on(i), path) for i in range(len(keys))]
    return _short(f"\\{{(?:{'|'.join(starts)})?\\}}", path)


_TYPES: dict[str, Callable[[Mapping[str, Any], str, int], str]] = {
    "string": _string,
    "integer": lambda schema, path, depth: _number(schema, path, 0),
    "number": lambda schema, path, depth: _number(schema, path, DECIMALS),
    "boolean": lambda schema, path, depth: "(?:true|false)",
    "null": lambda schema, path, depth: "null",
    "array": _array,
    "object": _object,
}
