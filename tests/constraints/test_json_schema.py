"""JSON schemas: all generated text is valid, and all valid text of the one form is allowed."""

from __future__ import annotations

import contextlib
import json
import math
import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tinyrwkv
from tinyrwkv import ArgumentError, JsonSchema, Sampler, TinyRWKVError, UnsupportedError


def valid(value: Any, schema: dict[str, Any]) -> bool:
    """Judge a value by a schema, keyword by keyword, as the standard words them."""
    if "const" in schema:
        return json.dumps(value) == json.dumps(schema["const"])
    if "enum" in schema:
        return any(json.dumps(value) == json.dumps(one) for one in schema["enum"])
    if "anyOf" in schema:
        return any(valid(value, one) for one in schema["anyOf"])
    kind = schema["type"]
    if isinstance(kind, list):
        return any(valid(value, {**schema, "type": one}) for one in kind)
    if kind == "string":
        return (
            isinstance(value, str)
            and schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", math.inf)
            and ("pattern" not in schema or re.search(schema["pattern"], value) is not None)
        )
    if kind in ("integer", "number"):
        if isinstance(value, bool) or not isinstance(
            value, int if kind == "integer" else (int, float)
        ):
            return False
        multiple = schema.get("multipleOf")
        return (
            schema.get("minimum", -math.inf) <= value <= schema.get("maximum", math.inf)
            and schema.get("exclusiveMinimum", -math.inf)
            < value
            < schema.get("exclusiveMaximum", math.inf)
            and (multiple is None or Decimal(repr(value)) % Decimal(repr(multiple)) == 0)
        )
    if kind == "boolean":
        return isinstance(value, bool)
    if kind == "null":
        return value is None
    if kind == "array":
        least, most = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        good = isinstance(value, list) and least <= len(value) <= most
        return good and all(valid(item, schema["items"]) for item in value)
    properties = schema.get("properties", {})
    return (
        isinstance(value, dict)
        and all(key in properties and valid(item, properties[key]) for key, item in value.items())
        and all(key in value for key in schema.get("required", []))
    )


values = st.sampled_from([None, True, 3, -1.5, "", 'a"b\\', "é\n", [], [1, "x"], {"k": None}])
texts = st.text('ab"\\é日🙂\n/', max_size=4)


@st.composite
def strings(draw):
    schema: dict[str, Any] = {"type": "string"}
    kind = draw(st.sampled_from(["free", "length", "pattern"]))
    if kind == "length":
        schema["minLength"] = draw(st.integers(0, 2))
        schema["maxLength"] = schema["minLength"] + draw(st.integers(0, 3))
    if kind == "pattern":
        schema["pattern"] = draw(
            st.sampled_from([r"^[a-c]{2}$", r"^\d+-\d$", r"^(a|\"b)*é?$", "^.{1,3}$", r"^[^a]x$"])
        )
    return schema


@st.composite
def numbers(draw):
    schema: dict[str, Any] = {"type": draw(st.sampled_from(["integer", "number"]))}
    low = draw(st.integers(-50, 50))
    bounds = {
        "minimum": low,
        "exclusiveMinimum": low - 1,
        "maximum": low + 5,
        "exclusiveMaximum": low + 5.5,
    }
    for key in draw(st.lists(st.sampled_from(sorted(bounds)), unique=True)):
        schema[key] = bounds[key]
    if schema["type"] == "number" and draw(st.booleans()):
        schema["multipleOf"] = draw(st.sampled_from([1, 0.1, 0.01]))
    return schema


@st.composite
def objects(draw, inner):
    properties = draw(st.dictionaries(texts, inner, max_size=4))
    required = [key for key in properties if draw(st.booleans())]
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


schemas = st.recursive(
    st.one_of(
        strings(),
        numbers(),
        st.sampled_from(
            [
                {"type": "boolean"},
                {"type": "null"},
                {"type": ["boolean", "null"], "title": "either"},
            ]
        ),
        st.lists(values, min_size=1, max_size=3).map(lambda some: {"enum": some}),
        values.map(lambda value: {"const": value, "description": "only this"}),
    ),
    lambda inner: st.one_of(
        objects(inner),
        st.tuples(inner, st.integers(0, 2), st.integers(0, 2)).map(
            lambda parts: {
                "type": "array",
                "items": parts[0],
                "minItems": parts[1],
                "maxItems": sum(parts[1:]),
            }
        ),
        st.lists(inner, min_size=1, max_size=2).map(lambda some: {"anyOf": some}),
    ),
    max_leaves=4,
)


@given(schemas, st.integers(0, 10**6))
@settings(max_examples=30)
def test_what_is_generated_loads_and_is_valid(load, schema, seed):
    constraint = JsonSchema(schema)
    # Quotes, braces and commas are likely, so that most texts come to an end.
    bias = {1 + byte: 6.0 for byte in b'"]},: '}
    sampler = Sampler(seed=seed, temperature=1.5, logit_bias=bias)
    generation = load("numpy").generate([3], constraint=constraint, sampler=sampler, max_tokens=80)
    text = "".join(piece.text for piece in generation)
    if generation.result.stop_reason == "stop":
        assert valid(json.loads(text), schema), text
        assert constraint.matches(text)


@given(schemas, st.data())
@settings(max_examples=100)
def test_what_is_valid_is_allowed_as_json_dumps_writes_it(schema, data):
    value = data.draw(value_of(schema))
    assert valid(value, schema) or isinstance(schema.get("type"), list)
    text = json.dumps(value, ensure_ascii=False)
    constraint = JsonSchema(schema, prefix=" ", suffix="\n")
    assert constraint.matches(f" {text}\n")
    assert not constraint.matches(f" {text}") and not constraint.matches(f" {text}x\n")


def value_of(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return values that a schema describes, its properties in their order."""
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        return st.one_of(*map(value_of, schema["anyOf"]))
    kind = schema["type"]
    if isinstance(kind, list):
        return st.one_of(*(value_of({**schema, "type": one}) for one in kind))
    if kind == "string":
        if "pattern" in schema:
            plain = st.from_regex(re.compile(schema["pattern"][1:-1], re.ASCII), fullmatch=True)
            return plain.filter(
                lambda text: not re.search("[\x00-\x07\x0b\x0e-\x1f\x7f\ud800-\udfff]", text)
            )
        return st.text(
            'ab"\\é日🙂\n/',
            min_size=schema.get("minLength", 0),
            max_size=schema.get("maxLength", 5),
        )
    if kind in ("integer", "number"):
        low = max(schema.get("minimum", -60), schema.get("exclusiveMinimum", -61) + 1)
        high = min(schema.get("maximum", 60), math.floor(schema.get("exclusiveMaximum", 60.5)))
        whole = st.integers(low, high)
        if kind == "integer" or schema.get("multipleOf") == 1 or low == high:
            return whole
        return whole | st.integers(low * 10 + 1, high * 10 - 1).map(lambda n: n / 10).filter(
            lambda x: x != int(x)
        )
    if kind == "boolean":
        return st.booleans()
    if kind == "null":
        return st.none()
    if kind == "array":
        return st.lists(
            value_of(schema["items"]), min_size=schema["minItems"], max_size=schema["maxItems"]
        )
    optional = [key for key in schema["properties"] if key not in schema["required"]]
    return st.tuples(
        st.fixed_dictionaries({key: value_of(part) for key, part in schema["properties"].items()}),
        st.lists(st.sampled_from(optional), unique=True) if optional else st.just([]),
    ).map(lambda parts: {key: parts[0][key] for key in schema["properties"] if key not in parts[1]})


@pytest.mark.parametrize(
    "schema",
    [
        *(
            None,
            3,
            "string",
            [],
            True,
            {},
            {"type": "text"},
            {"type": 3},
            {"type": ["string", "text"]},
        ),
        *(
            {"enum": []},
            {"enum": "ab"},
            {"enum": [math.nan]},
            {"const": {1, 2}},
            {"anyOf": []},
            {"anyOf": [{}]},
        ),
        *(
            {"type": "array"},
            {"type": "array", "items": {"type": "null"}, "minItems": 2, "maxItems": 1},
        ),
        *(
            {"type": "string", "maxLength": -1},
            {"type": "string", "minLength": True},
            {"type": "string", "maxLength": 1001},
        ),
        *({"type": "string", "minLength": 3, "maxLength": 2}, {"type": "string", "pattern": "["}),
        *({"type": "string", "pattern": "\\x00"}, {"type": "integer", "minimum": 2, "maximum": 1}),
        *({"type": "integer", "minimum": "1"}, {"type": "number", "minimum": math.inf}),
        *(
            {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2},
            {"type": "object", "properties": 3},
        ),
        *({"type": "object", "required": ["x"]}, {"type": "object", "properties": {"x": 3}}),
        *(
            {"type": "integer", "enum": ["a"]},
            {"type": "object", "properties": {3: {"type": "null"}}},
        ),
        {"type": "object", "properties": {"\ud800": {"type": "null"}}},
    ],
)
def test_what_is_not_a_schema_is_refused(schema):
    with pytest.raises(ArgumentError):
        JsonSchema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        *(
            {"$ref": "#"},
            {"type": "string", "format": "date"},
            {"type": "object", "additionalProperties": True},
        ),
        *(
            {"oneOf": []},
            {"type": "string", "pattern": "a", "maxLength": 2},
            {"type": "integer", "multipleOf": 3},
        ),
        *(
            {"type": "number", "multipleOf": 0.5},
            {"type": "string", "pattern": "(?=a)"},
            {"type": "null", "maximum": 1},
        ),
        {"type": "object", "patternProperties": {}},
    ],
)
def test_what_is_not_understood_is_refused(schema):
    with pytest.raises((UnsupportedError, ArgumentError)):
        JsonSchema(schema)


def test_the_keyword_is_named_if_no_type_is_given():
    with pytest.raises(UnsupportedError, match=re.escape("schema.x has the keyword '$ref'")):
        JsonSchema({"type": "object", "properties": {"x": {"$ref": "#"}}})
    with pytest.raises(ArgumentError, match="no type"):
        JsonSchema({"minimum": 3})


KEYWORDS = [
    *(
        "type",
        "enum",
        "const",
        "anyOf",
        "items",
        "properties",
        "required",
        "minimum",
        "maximum",
        "exclusiveMinimum",
    ),
    *(
        "multipleOf",
        "minLength",
        "maxLength",
        "pattern",
        "minItems",
        "maxItems",
        "additionalProperties",
        "title",
    ),
]
TYPES = st.sampled_from(["string", "integer", "number", "object", "array", "boolean", "null"])
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=3)
    | TYPES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYWORDS) | st.text(), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(TYPES, st.dictionaries(st.sampled_from(KEYWORDS), anything, max_size=4))
@example("object", {"properties": {}, "required": [[]]})
@example("integer", {"maximum": 10**400})
@settings(max_examples=300)
def test_any_object_is_a_schema_or_refused(kind, more):
    for schema in ({"type": kind, **more}, more):
        with contextlib.suppress(TinyRWKVError):
            JsonSchema(schema)


def test_hostile_schemas_are_refused_at_once():
    deep: dict[str, Any] = {"type": "null"}
    for _ in range(100):
        deep = {"type": "array", "items": deep}
    endless: dict[str, Any] = {"type": "array"}
    endless["items"] = endless
    wide = {"type": "string", "maxLength": 1000}
    for schema in (
        deep,
        endless,
        {"type": "object", "properties": {str(i): wide for i in range(100)}},
    ):
        with pytest.raises(TinyRWKVError):
            JsonSchema(schema)
    half: dict[str, Any] = {"type": "string"}
    for _ in range(15):  # each level writes the one below it twice
        half = {"type": "array", "items": half}
    with pytest.raises(ArgumentError):
        JsonSchema(half)


def test_it_is_found_in_the_package():
    assert tinyrwkv.JsonSchema is JsonSchema and "JsonSchema" in tinyrwkv.__all__
