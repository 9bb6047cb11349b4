"""Random schemas: what their constraints allow is judged by a validator that shares no code."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.helpers.json_schemas import is_valid, texts
from tinyrwkv import JsonSchema, TinyRWKVError

NAMES = ("a", "b", "c-d")
values = st.sampled_from(
    [None, True, False, 0, 1, 1.0, -3, 2.5, "", "a", 'x"y', [], [1], [1, 1], {}, {"a": 1}]
)
counts = st.integers(0, 3)
bounds = st.integers(-20, 20) | st.sampled_from([0.5, -1.25, 1e9, 12345678901.5])
patterns = st.sampled_from(
    [
        *("a", "^a", "a$", "^a$", "^[a-c]*$", "^(a|bc){1,2}$", "^a|b$", "(^a|b$)", "a.c", "^$"),
        *(r"\d{2}", r"^[^a]", r"^\S", "^x?y+$", "(a|^b)(c|d$)", "", "[^a-z]$"),
    ]
)
formats = st.sampled_from(["date", "time", "date-time", "uuid", "ipv4", "ipv6"])
types = st.sampled_from(["string", "integer", "number", "boolean", "null", "array", "object"])
refs = st.sampled_from(["#", "#/$defs/a", "#/$defs/b"])


def keywords(inner: st.SearchStrategy[Any]) -> dict[str, st.SearchStrategy[Any]]:
    lists = st.lists(inner, min_size=1, max_size=3)
    named = st.dictionaries(st.sampled_from(NAMES), inner, max_size=3)
    return {
        "type": types | st.lists(types, min_size=1, max_size=3, unique=True),
        "const": values,
        "enum": st.lists(values, min_size=1, max_size=4),
        "minLength": counts,
        "maxLength": counts,
        "pattern": patterns,
        "format": formats,
        "minimum": bounds,
        "maximum": bounds,
        "exclusiveMinimum": bounds,
        "exclusiveMaximum": bounds,
        "multipleOf": st.sampled_from([1, 2, 0.1, 0.5, 1.5, 0.01, 100]),
        "items": inner,
        "prefixItems": st.lists(inner, max_size=2),
        "minItems": counts,
        "maxItems": counts,
        "uniqueItems": st.booleans(),
        "properties": named,
        "patternProperties": st.dictionaries(st.sampled_from(["a", "^[bc]", "-d$"]), inner),
        "additionalProperties": inner | st.booleans(),
        "propertyNames": inner,
        "required": st.lists(st.sampled_from(NAMES), max_size=2, unique=True),
        "minProperties": counts,
        "maxProperties": counts,
        "allOf": lists,
        "anyOf": lists,
        "oneOf": lists,
        "not": inner,
        "$ref": refs,
        "title": st.just("a remark"),
    }


def together(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    known = keywords(inner)
    chosen = st.lists(st.sampled_from(sorted(known)), min_size=1, max_size=4, unique=True)
    return chosen.flatmap(
        lambda names: st.fixed_dictionaries({name: known[name] for name in names})
    )


schemas = st.recursive(st.booleans() | st.just({}), together, max_leaves=5)


@st.composite
def whole_schemas(draw: Any) -> dict[str, Any]:
    schema = draw(schemas.filter(lambda one: isinstance(one, dict)))
    return {**schema, "$defs": {"a": draw(schemas), "b": draw(schemas)}}


quick = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)


def constraint_of(schema: Any) -> JsonSchema:
    try:
        return JsonSchema(schema)
    except TinyRWKVError:
        assume(False)
        raise


def judged(value: Any, schema: Any) -> bool:
    """Tell whether a value is valid; leave schemas out that ask themselves about the same value."""
    try:
        return is_valid(value, schema)
    except RecursionError:
        assume(False)
        raise


@given(whole_schemas(), st.integers(0, 10**6))
@quick
def test_nothing_comes_out_that_is_not_valid(schema, seed):
    constraint = constraint_of(schema)
    for text in texts(constraint, seed, 10):
        value = json.loads(text)
        assert judged(value, schema), (schema, text)
        assert constraint.matches(text)


@given(whole_schemas(), values)
@quick
def test_no_value_is_allowed_that_is_not_valid(schema, value):
    constraint = constraint_of(schema)
    if constraint.matches(json.dumps(value, ensure_ascii=False)):
        assert judged(value, schema)
