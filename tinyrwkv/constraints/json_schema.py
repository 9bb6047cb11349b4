"""JSON that a schema describes, as a pattern."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any, NoReturn

from ..errors import ArgumentError, UnsupportedError, show
from .characters import Ranges, complement, normalise
from .constraint import Constraint
from .numbers import MOST_DIGITS, exact
from .numbers import pattern as number_pattern
from .old_names import accept_old_names
from .pattern import LONGEST, MOST_REPEATS, Characters, Either, Node, Repeat, parse

DEEPEST = 16
"""Schemas inside of schemas at most."""

DECIMALS = 6
"""Digits after the point of a number at most, unless ``multipleOf`` says less."""

PLAIN = complement(normalise([(0, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F)]))
"""The characters that stand for themselves in a JSON string."""

ANY = Characters(complement(()))

ESCAPES = {character: json.dumps(character)[1:-1] for character in '"\\\b\f\n\r\t'}
"""The characters with a short escape; control characters that need ``\\u`` are left out."""

Schema = Mapping[str, Any]

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


class JsonSchema(Constraint):
    r"""JSON that a schema describes, as ``json.dumps`` writes it.

    docs/constraints.md lists the keywords that are understood.

    Parameters
    ----------
    schema : mapping
        A JSON Schema of objects, arrays, strings, numbers, booleans, null, ``enum``, ``const`` and
        ``anyOf``.
    prefix, suffix : str, optional
        As for `Regex`.

    Attributes
    ----------
    schema : mapping
    pattern, prefix, suffix : str

    Raises
    ------
    ArgumentError
        It is not a schema, no value is valid for it, or it is too large.
    UnsupportedError
        It has a keyword that is not understood.

    Notes
    -----
    This is a subset of JSON Schema, and of the JSON that is valid for a schema:

    - Spaces only where ``json.dumps`` writes them.
    - Properties in the order of the schema, and no others.
    - Numbers without exponents, of at most 15 digits, at most 6 of them decimals.
    - No characters in strings that need ``\u``.
    - Schemas at most 16 deep.

    A keyword that is not understood, such as ``$ref``, ``allOf``, ``oneOf`` or ``format``, is
    refused and never ignored. Strings without ``maxLength`` and arrays without ``maxItems`` may go
    on until ``max_tokens`` cuts them off. A text that was cut off is not JSON, so look at
    ``stop_reason``.

    Examples
    --------
    >>> digit = {"type": "integer", "minimum": 0, "maximum": 9}
    >>> schema = {"type": "object", "properties": {"x": digit}, "required": ["x"]}
    >>> found = JsonSchema(schema)
    >>> found.matches('{"x": 7}'), found.matches('{"x": 10}')
    (True, False)
    """

    @accept_old_names
    def __init__(self, schema: Schema, prefix: str = "", suffix: str = "") -> None:
        self.schema = schema
        super().__init__(_pattern(schema, "schema", 0), prefix, suffix)


def _wrong(path: str, found: str, expected: str, sentence: str | None = None) -> NoReturn:
    found = found[:80]
    sentence = sentence or f"{path} is {found}, but must be {expected}"
    raise ArgumentError("JsonSchema", path, found, expected, "correct the schema", sentence)


def _unsupported(path: str, found: str, expected: str, fix: str, sentence: str) -> NoReturn:
    raise UnsupportedError("JsonSchema", path, found[:80], expected, fix, sentence)


def _one_of(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"(?:{'|'.join(parts)})"


def _not_too_long(pattern: str, path: str) -> str:
    if len(pattern) > LONGEST:
        found = f"a pattern of {len(pattern):,} characters"
        expected = f"at most {LONGEST:,}"
        _wrong(path, found, expected, f"{path} makes {found}, but may make {expected}")
    return pattern


# Every function below returns the pattern of one schema, or of a part of it. `path` is the place of
# that schema in the whole one, `depth` is the number of schemas around it.


def _pattern(schema: Any, path: str, depth: int) -> str:
    if depth > DEEPEST:
        found = f"more than {DEEPEST} levels"
        _wrong(path, found, "fewer", f"the schema has {found}: {path}")
    if not isinstance(schema, Mapping):
        _wrong(path, show(schema), "an object such as {'type': 'string'}")
    kind = next((key for key in ("const", "enum", "anyOf", "type") if key in schema), None)
    if kind is None:
        _check_keywords(schema, path, _ANNOTATIONS.union(*_KEYWORDS.values()))
        expected = "type, enum, const or anyOf"
        _wrong(path, "no type", expected, f"{path} has no type: it needs {expected}")
    types = _types(schema, path)
    known = _ANNOTATIONS | {"type", kind}
    if kind == "type":
        known = known.union(*(_KEYWORDS[name] for name in types))
    _check_keywords(schema, path, known)
    if kind == "anyOf":
        parts = _any_of(schema, types, path, depth)
    elif kind == "type":
        parts = [_TYPES[name](schema, path, depth) for name in types]
    else:
        values = [schema["const"]] if kind == "const" else schema["enum"]
        parts = _constants(values, types, path)
    if not parts:
        found = "no value that is valid"
        _wrong(path, found, "at least one", f"no value is valid for {path}")
    return _not_too_long(_one_of(parts), path)


def _types(schema: Schema, path: str) -> list[str]:
    """Return the types that a schema allows; an empty list if it does not say."""
    types = schema.get("type", [])
    if isinstance(types, str):
        types = [types]
    is_list = isinstance(types, list)
    if not is_list or not all(isinstance(name, str) and name in _KEYWORDS for name in types):
        _wrong(f"{path}.type", show(types), f"one of {', '.join(_KEYWORDS)}")
    return types


def _check_keywords(schema: Schema, path: str, known: set[str]) -> None:
    for key in schema:
        if key not in known:
            fix = "leave it out, or use the keywords that docs/constraints.md lists"
            found = f"keyword {show(key)}"
            sentence = f"{path} has the {found}, which is not understood"
            _unsupported(path, found, "one that is understood", fix, sentence)


def _any_of(schema: Schema, types: list[str], path: str, depth: int) -> list[str]:
    schemas = schema["anyOf"]
    if not isinstance(schemas, list) or types:
        _wrong(f"{path}.anyOf", show(schemas), "a list without a type beside it")
    return [_pattern(one, f"{path}.anyOf[{i}]", depth + 1) for i, one in enumerate(schemas)]


def _constants(values: Any, types: list[str], path: str) -> list[str]:
    if not isinstance(values, list):
        _wrong(f"{path}.enum", show(values), "a list")
    return [
        _constant(value, path)
        for value in values
        if not types or any(_is_a(value, name) for name in types)
    ]


def _constant(value: Any, path: str) -> str:
    try:
        return re.escape(json.dumps(value, ensure_ascii=False, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        sentence = f"{path} has a value that JSON cannot write: {error}"
        _wrong(path, f"{error}", "a value that JSON can write", sentence)


def _is_a(value: Any, kind: str) -> bool:
    """Tell whether a value is of a type of JSON Schema."""
    number = type(value) is int or isinstance(value, float)
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


def _count(schema: Schema, key: str, path: str) -> int | None:
    """Return the value of a keyword such as minLength."""
    value = schema.get(key)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= MOST_REPEATS:
        _wrong(f"{path}.{key}", show(value), f"a whole number from 0 to {MOST_REPEATS:,}")
    return value


def _braces(least: int, most: int | None) -> str:
    return f"{{{least},{'' if most is None else most}}}"


def _check_order(least: int, most: int | None, path: str) -> None:
    if most is not None and most < least:
        found = f"at least {least} and at most {most}"
        _wrong(path, found, "the smaller number first", f"{path} asks for {found}")


def _string(schema: Schema, path: str, depth: int) -> str:
    least = _count(schema, "minLength", path)
    most = _count(schema, "maxLength", path)
    if "pattern" not in schema:
        _check_order(least or 0, most, path)
        return f'"{_inside_quotes(ANY, path)}{_braces(least or 0, most)}"'
    if least is not None or most is not None:
        fix = "say the length in the pattern"
        found = "a pattern and a length"
        sentence = f"{path} has {found}, which do not go together"
        _unsupported(path, found, "one of them", fix, sentence)
    return f'"{_inside_quotes(parse(schema["pattern"]), path)}"'


def _inside_quotes(node: Node, path: str) -> str:
    """Return the pattern of JSON strings, without quotes, whose meaning matches a tree."""
    if isinstance(node, Characters):
        parts = _spellings(node.ranges)
        if not parts:
            place = f"{path}.pattern"
            found = "only control characters"
            _wrong(place, found, "others too", f"a set in {place} has {found}")
        return _one_of(parts)
    if isinstance(node, Repeat):
        return f"(?:{_inside_quotes(node.part, path)}){_braces(node.least, node.most)}"
    parts = [_inside_quotes(part, path) for part in node.parts]
    return f"(?:{'|'.join(parts)})" if isinstance(node, Either) else "".join(parts)


def _spellings(ranges: Ranges) -> list[str]:
    """Return the patterns of the characters of a set: one of the plain ones, then each escape."""
    parts = []
    plain = normalise(_common(PLAIN, ranges))
    if plain:
        parts.append(_set(plain))
    for character, escape in ESCAPES.items():
        if any(low <= ord(character) <= high for low, high in ranges):
            parts.append(re.escape(escape))
    return parts


def _common(some: Ranges, others: Ranges) -> Iterable[tuple[int, int]]:
    """Yield the ranges of characters that both sets have."""
    for one_low, one_high in some:
        for other_low, other_high in others:
            low, high = max(one_low, other_low), min(one_high, other_high)
            if low <= high:
                yield low, high


def _set(ranges: Ranges) -> str:
    return "[" + "".join(f"\\U{low:08x}-\\U{high:08x}" for low, high in ranges) + "]"


def _number(schema: Schema, path: str, most_decimals: int) -> str:
    decimals = _decimals(schema, path, most_decimals)
    unit = Decimal(1).scaleb(-decimals)
    limit = 10 ** (MOST_DIGITS - decimals) - 1
    for key in _BOUNDS & schema.keys():
        if not _is_a(schema[key], "number") or not _is_finite(schema[key]):
            _wrong(f"{path}.{key}", show(schema[key]), "a number")
    low = exact(schema.get("minimum", -limit))
    high = exact(schema.get("maximum", limit))
    if "exclusiveMinimum" in schema:
        above = exact(schema["exclusiveMinimum"]) / unit
        low = max(low, (above.to_integral_value(ROUND_FLOOR) + 1) * unit)
    if "exclusiveMaximum" in schema:
        below = exact(schema["exclusiveMaximum"]) / unit
        high = min(high, (below.to_integral_value(ROUND_CEILING) - 1) * unit)
    return number_pattern(low, high, decimals)


def _decimals(schema: Schema, path: str, most: int) -> int:
    """Return the digits after the point that ``multipleOf`` allows."""
    multiple = schema.get("multipleOf", 10.0**-most)
    if not _is_a(multiple, "number"):
        _wrong(f"{path}.multipleOf", show(multiple), "a number")
    fitting = [count for count in range(most + 1) if multiple in (10.0**-count, 1 / 10**count)]
    if not fitting:
        expected = "1" if most == 0 else f"1, 0.1, 0.01, ... to {10.0**-most:g}"
        place = f"{path}.multipleOf"
        sentence = f"{place} is {show(multiple)}, but can only be {expected}"
        _unsupported(place, show(multiple), expected, "leave it out", sentence)
    return fitting[0]


def _array(schema: Schema, path: str, depth: int) -> str:
    if "items" not in schema:
        expected = "the schema of the items"
        _wrong(path, "no items", expected, f"{path} has no items: it needs {expected}")
    item = _pattern(schema["items"], f"{path}.items", depth + 1)
    least = _count(schema, "minItems", path) or 0
    most = _count(schema, "maxItems", path)
    if most == 0 and least == 0:
        return "\\[\\]"
    _check_order(least, most, path)
    further = _braces(max(least - 1, 0), None if most is None else most - 1)
    items = f"{item}(?:, {item}){further}"
    if least == 0:
        items = f"(?:{items})?"
    return _not_too_long(f"\\[{items}\\]", path)


def _object(schema: Schema, path: str, depth: int) -> str:
    properties, required = _properties(schema, path)
    members = [
        f"{_constant(key, path)}: {_pattern(value, f'{path}.{key}', depth + 1)}"
        for key, value in properties.items()
    ]
    is_required = [key in required for key in properties]

    def beginning_with(first: int) -> str:
        """Return the pattern of the members from `first` on; the first is always there."""
        pattern = members[first]
        for i in range(first + 1, len(members)):
            pattern += f", {members[i]}" if is_required[i] else f"(?:, {members[i]})?"
        return pattern

    if any(is_required):
        first = is_required.index(True)
        # Each optional member before the first required one brings its own comma.
        optional = "".join(f"(?:{member}, )?" for member in members[:first])
        return _not_too_long(f"\\{{{optional}{beginning_with(first)}\\}}", path)
    # Without a required member, any of them may be the first one, and there may be none.
    patterns = [_not_too_long(beginning_with(first), path) for first in range(len(members))]
    return _not_too_long(f"\\{{(?:{'|'.join(patterns)})?\\}}", path)


def _properties(schema: Schema, path: str) -> tuple[Schema, list[str]]:
    """Return the properties of an object, and the names of the required ones."""
    properties = schema.get("properties", {})
    required = schema.get("required", [])
    if not isinstance(properties, Mapping) or not all(isinstance(key, str) for key in properties):
        _wrong(f"{path}.properties", show(properties), "an object of schemas")
    is_list = isinstance(required, list)
    if not is_list or not all(isinstance(key, str) and key in properties for key in required):
        _wrong(f"{path}.required", show(required), "a list of names of properties")
    if schema.get("additionalProperties", False) is not False:
        place = f"{path}.additionalProperties"
        sentence = f"{place} can only be False"
        _unsupported(place, "others", "False", "list the properties", sentence)
    return properties, required


_TYPES: dict[str, Callable[[Schema, str, int], str]] = {
    "string": _string,
    "integer": lambda schema, path, depth: _number(schema, path, 0),
    "number": lambda schema, path, depth: _number(schema, path, DECIMALS),
    "boolean": lambda schema, path, depth: "(?:true|false)",
    "null": lambda schema, path, depth: "null",
    "array": _array,
    "object": _object,
}
