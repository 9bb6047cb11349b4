"""JSON schemas: all generated text is valid, and all valid text of the one form is allowed."""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tinyrwkv
from tests.helpers.json_schemas import is_valid
from tinyrwkv import ArgumentError, JsonSchema, Sampler, TinyRWKVError, UnsupportedError

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
        assert is_valid(json.loads(text), schema), text
        assert constraint.matches(text)


@given(schemas, st.data())
@settings(max_examples=100)
def test_what_is_valid_is_allowed_as_json_dumps_writes_it(schema, data):
    value = data.draw(value_of(schema))
    assert is_valid(value, schema) or isinstance(schema.get("type"), list)
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


NOT_SCHEMAS = {
    "none": None,
    "number": 3,
    "text": "string",
    "list": [],
    "false": False,
    "unknown type": {"type": "text"},
    "number as type": {"type": 3},
    "one unknown type": {"type": ["string", "text"]},
    "no types": {"type": []},
    "no values": {"enum": []},
    "text as values": {"enum": "ab"},
    "no number": {"enum": [math.nan]},
    "no JSON": {"const": {1, 2}},
    "deep value": {"const": json.loads("[" * 40 + "]" * 40)},
    "no alternatives": {"anyOf": []},
    "false alternatives": {"anyOf": [False]},
    "false part": {"allOf": [False, {"type": "null"}]},
    "list of alternatives": {"oneOf": {"type": "null"}},
    "counts of items": {"type": "array", "minItems": 2, "maxItems": 1},
    "negative length": {"type": "string", "maxLength": -1},
    "true as length": {"type": "string", "minLength": True},
    "long text": {"type": "string", "minLength": 1001},
    "lengths": {"type": "string", "minLength": 3, "maxLength": 2},
    "no pattern": {"type": "string", "pattern": "["},
    "number as pattern": {"type": "string", "pattern": 3},
    "control characters": {"type": "string", "pattern": "^\\x00$"},
    "empty set": {"type": "string", "pattern": "a[]"},
    "no text": {"type": "string", "pattern": "^a$", "minLength": 2},
    "bounds": {"type": "integer", "minimum": 2, "maximum": 1},
    "text as bound": {"type": "integer", "minimum": "1"},
    "infinite bound": {"type": "number", "minimum": math.inf},
    "open bounds": {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2},
    "too large": {"type": "integer", "minimum": 10**15},
    "multiple of 0": {"type": "integer", "multipleOf": 0},
    "number as properties": {"type": "object", "properties": 3},
    "number as property": {"type": "object", "properties": {"x": 3}},
    "number as name": {"type": "object", "properties": {3: {"type": "null"}}},
    "half of a pair": {"type": "object", "properties": {"\ud800": {"type": "null"}}},
    "required false": {"properties": {"x": False}, "required": ["x"]},
    "text as required": {"type": "object", "required": "x"},
    "not required": {"required": ["x"], "additionalProperties": False},
    "properties": {"type": "object", "minProperties": 1, "properties": {}},
    "value of another type": {"type": "integer", "enum": ["a"]},
    "number as reference": {"$ref": 3},
    "no such part": {"$ref": "#/$defs/x"},
    "itself": {"$ref": "#"},
    "nothing else": {"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]},
    "not anything": {"not": {}},
}


@pytest.mark.parametrize("name", NOT_SCHEMAS)
def test_what_is_not_a_schema_is_refused(name):
    with pytest.raises(ArgumentError, match="schema"):
        JsonSchema(NOT_SCHEMAS[name])


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "other.json"},
        {"$ref": "#name"},
        {"properties": {"x": {"$id": "inner", "properties": {"y": {"$ref": "#"}}}}},
        {"type": "string", "format": "iri"},
        {"type": "string", "pattern": "(?=a)"},
        {"type": "string", "pattern": r"\p{L}"},
        {"type": "string", "pattern": r"\ba"},
        {"type": "integer", "multipleOf": 97},
        {"type": "number", "multipleOf": 0.0000001},
        {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
        {"type": "array", "contains": {}},
        {"if": {}, "then": {}},
        {"dependentRequired": {}},
        {"unevaluatedProperties": False},
        {"maxlength": 3},
    ],
    ids=str,
)
def test_what_is_not_understood_is_refused(schema):
    with pytest.raises(UnsupportedError, match="schema"):
        JsonSchema(schema)


KEYWORDS = [
    *("type", "enum", "const", "anyOf", "allOf", "oneOf", "not", "$ref", "$defs", "title"),
    *("items", "prefixItems", "minItems", "maxItems", "uniqueItems", "additionalItems"),
    *("properties", "required", "additionalProperties", "patternProperties", "propertyNames"),
    *("minProperties", "maxProperties", "minLength", "maxLength", "pattern", "format"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
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


@given(st.dictionaries(st.sampled_from(KEYWORDS), anything, max_size=4))
@settings(max_examples=100)
def test_refusals_name_a_place_in_the_schema(schema):
    try:
        JsonSchema({"properties": {"x": schema}, "required": ["x"]})
    except TinyRWKVError as error:
        assert error.sentence.startswith(("schema", "no value is valid for schema", "the "))
        assert "schema" in error.sentence and "(?:" not in error.sentence


def nested(levels: int, around: Any) -> Any:
    schema: Any = {"type": "string"}
    for _ in range(levels):
        schema = around(schema)
    return schema


ENDLESS: dict[str, Any] = {"type": "array"}
ENDLESS["items"] = ENDLESS
LETTERS = "".join(chr(0x4E00 + 2 * i) for i in range(8000))
HOSTILE = {
    "deep": nested(100, lambda inner: {"type": "array", "items": inner}),
    "endless": ENDLESS,
    "large": {"properties": {str(i): {"type": "string", "maxLength": 1000} for i in range(100)}},
    "twice at each level": nested(20, lambda inner: {"properties": {"a": inner, "b": inner}}),
    "both at each level": nested(30, lambda inner: {"allOf": [inner, inner]}),
    "one of both at each level": nested(30, lambda inner: {"anyOf": [inner, inner]}),
    "references": {
        "$ref": "#/$defs/0",
        "$defs": {
            str(i): {"allOf": [{"$ref": f"#/$defs/{i + 1}"}] * 2} if i < 30 else {"type": "null"}
            for i in range(31)
        },
    },
    "states": {"pattern": "^(a|b)*a(a|b){18}$", "maxLength": 100},
    "two patterns": {"allOf": [{"pattern": "(a|b)*a(a|b){14}"}, {"pattern": "b.{12}a"}]},
    "anchors": {"pattern": "(^.|a).{0,200}b.{200}c$"},
    "repeats": {"pattern": "((a{0,1000}){0,1000}){0,10}", "maxLength": 3},
    "wide sets": {"pattern": f"(^[{LETTERS}]|[^{LETTERS}]){{1000}}", "maxLength": 1000},
    "counts": {"properties": {str(i): {} for i in range(2000)}, "maxProperties": 1000},
    "values": {"allOf": [{"enum": list(range(3000))}, {"enum": list(range(3000))}]},
    "alternatives": {"oneOf": [{"const": {"a": i}} for i in range(2000)]},
    "long text": {"const": "x" * 200_000},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_schemas_are_refused_at_once(name):
    before = time.process_time()
    with pytest.raises(TinyRWKVError, match="schema"):
        JsonSchema(HOSTILE[name])
    assert time.process_time() - before < 20  # without the limits: hours


def test_it_is_found_in_the_package():
    assert tinyrwkv.JsonSchema is JsonSchema and "JsonSchema" in tinyrwkv.__all__
