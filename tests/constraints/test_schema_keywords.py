"""Each keyword: some texts that it allows, and some that it does not."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest

from tinyrwkv import JsonSchema, TinyRWKVError


class Case(NamedTuple):
    schema: Any
    allowed: str
    """Texts of JSON with two spaces between them."""
    refused: str


def properties(**schemas: Any) -> dict[str, Any]:
    return {"type": "object", "properties": schemas, "required": list(schemas)}


TREE = {
    "$ref": "#/$defs/tree",
    "$defs": {
        "tree": {
            "type": "object",
            "properties": {
                "n": {"type": "integer"},
                "parts": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
            },
            "required": ["n"],
        }
    },
}

CASES = {
    "number": Case(
        {"type": "number"},
        "5  5.0  2.50  100.00  1700000000  999999999999999  -0.5  0  0.000001  123456789012.125",
        "05  5.  .5  1e3  +1  -0  0.0000001  1000000000000000  1234567890123.5",
    ),
    "minimum": Case({"type": "number", "minimum": 1700000000}, "1700000000  1.8e9", "1699999999.9"),
    "open bounds": Case(
        {"exclusiveMinimum": 0, "exclusiveMaximum": 1.5},
        "0.1  1.49  1.499990",
        "0  0.0  1.5  1.500",
    ),
    "bounds of draft 4": Case(
        {"minimum": 1, "exclusiveMinimum": True, "maximum": 3}, "1.5  3", "1  1.0"
    ),
    "safe integers": Case(
        {"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991},
        "0  -999999999999999  999999999999999",
        "9007199254740992  1.0",
    ),
    "int32": Case({"type": "integer", "format": "int32"}, "2147483647", "2147483648  -2147483649"),
    "multipleOf": Case({"type": "integer", "multipleOf": 15}, "0  -30  45", "10  1  -25"),
    "multipleOf 100": Case(
        {"type": "number", "multipleOf": 100, "minimum": 1}, "100  2500", "0  50"
    ),
    "multipleOf 0.25": Case({"multipleOf": 0.25}, "0.25  1.5  2", "0.2  1.05"),
    "multipleOf both": Case({"allOf": [{"multipleOf": 4}, {"multipleOf": 6}]}, "12  24", "4  6  8"),
    "pattern": Case({"pattern": "^https?://"}, '"http://x.y"  "https://"', '"ftp://"  " http://"'),
    "pattern inside": Case({"pattern": "a.c"}, '"xxabcxx"  "a c"', '"ac"  "a\\nc"'),
    "pattern at the end": Case({"pattern": r"\.py$"}, '"a.py"  ".py"', '"a.pyc"  "apy"'),
    "anchors inside": Case({"pattern": "(^a|b$)"}, '"ax"  "xb"  "ab"', '"xa"  "bx"  "xax"'),
    "anchor that never holds": Case({"pattern": "a|b^c"}, '"bac"', '"bc"'),
    "pattern and length": Case(
        {"pattern": "b", "minLength": 2, "maxLength": 3}, '"ab"  "abb"  "é🙂b"', '"b"  "aaab"  "aa"'
    ),
    "two patterns": Case(
        {"allOf": [{"pattern": "a"}, {"pattern": "^.b"}]}, '"ab"  "xba"', '"xb"  "bbb"'
    ),
    "escapes": Case({"pattern": r'^["\\\n]{2}$'}, r'"\"\\"  "\n\""', r'"\""  "n\\"'),
    "maxLength": Case({"type": "string", "maxLength": 5000}, '""  "ab"', "1"),
    "date": Case({"format": "date"}, '"2024-02-29"  "2000-12-31"', '"2023-02-29"  "2024-04-31"'),
    "time": Case({"format": "time"}, '"23:59:59Z"  "01:02:03.5+01:00"', '"24:00:00Z"  "01:02:03"'),
    "date-time": Case(
        {"format": "date-time"}, '"2024-02-29T12:00:00Z"', '"2024-02-30T12:00:00Z"  "2024-02-29"'
    ),
    "uuid": Case(
        {"format": "uuid"},
        '"2eb8aa08-aa98-11ea-b4aa-73b441d16380"',
        '"2eb8aa08aa9811eab4aa73b441d16380"',
    ),
    "email": Case({"format": "email"}, '"a.b@c-d.org"', '"a..b@c.org"  "@c.org"  "a@-c.org"'),
    "email and length": Case({"format": "email", "maxLength": 5}, '"a@b.c"', '"aa@b.c"'),
    "uri": Case(
        {"format": "uri"}, '"https://a-b.org:80/x?y=%20#z"', '"a.org"  "http://a b"  "http://a/%2"'
    ),
    "hostname": Case({"format": "hostname"}, '"a-b.org"', '"-a.org"  "a..b"'),
    "ipv4": Case({"format": "ipv4"}, '"127.0.0.1"  "255.255.255.255"', '"256.0.0.1"  "01.0.0.1"'),
    "ipv6": Case({"format": "ipv6"}, '"::"  "::1"  "1:2::8"  "1:2:3:4:5:6:7:8"', '"1::2::3"  ":"'),
    "no type": Case({}, '"a"  1  true  null', "[]  {}"),
    "type of the keywords": Case({"minLength": 1}, '"a"', '""  1  null'),
    "types": Case({"type": ["integer", "null"]}, "1  null", "1.5  true"),
    "integer and number": Case({"type": ["integer", "number"]}, "1  1.5", "null"),
    "remarks": Case(
        {
            **{"type": "null", "id": "x", "$id": "y", "title": "", "description": "", "x-y": {}},
            **{"readOnly": True, "example": 1, "deprecated": True, "default": 3, "nullable": True},
        },
        "null",
        "3",
    ),
    "enum and more": Case({"enum": ["a", "bb", 3], "maxLength": 1}, '"a"  3', '"bb"'),
    "enum and type": Case({"enum": [1, 1.5, "a"], "type": "integer"}, "1", '1.5  "a"'),
    "const and enum": Case({"const": 1, "enum": [1.0, True]}, "1", "true"),
    "items": Case(
        {"type": "array", "items": {"type": "null"}}, "[]  [null, null]", "[1]  [null,null]"
    ),
    "array of anything": Case({"type": "array", "maxItems": 2}, '[]  [1, "a"]', "[1, 2, 3]  [[]]"),
    "prefixItems": Case(
        {"prefixItems": [{"const": 1}, {"const": 2}], "items": {"const": 3}, "minItems": 1},
        "[1]  [1, 2]  [1, 2, 3, 3]",
        "[]  [2]  [1, 3]  [1, 2, 4]",
    ),
    "items as a list": Case(
        {"items": [{"const": 1}], "additionalItems": False}, "[]  [1]", "[2]  [1, 1]"
    ),
    "items of two drafts": Case(
        {"items": [{"minimum": 2}], "prefixItems": [{"maximum": 3}, {"const": 1}]},
        "[2, 1]  [3]",
        "[1]  [4]  [2, 2]",
    ),
    "prefixItems and counts": Case(
        {"prefixItems": [{"const": 1}] * 3, "minItems": 2, "maxItems": 2},
        "[1, 1]",
        "[1]  [1, 1, 1]",
    ),
    "items of both": Case(
        {"allOf": [{"prefixItems": [{"minimum": 2}]}, {"items": {"enum": [1, 2, 3]}}]},
        "[2]  [3, 1]",
        "[1]  [4]",
    ),
    "uniqueItems": Case(
        {"items": {"enum": ["a", "b", "c"]}, "uniqueItems": True, "minItems": 1},
        '["a"]  ["a", "c"]  ["a", "b", "c"]',
        '[]  ["a", "a"]',
    ),
    "uniqueItems and equal numbers": Case(
        {"items": {"enum": [1, 1.0, True]}, "uniqueItems": True}, "[1, true]", "[1, 1.0]"
    ),
    "uniqueItems and oneOf": Case(
        {
            "items": {"enum": [None, "a", "b"], "oneOf": [{"pattern": "^a$"}, True]},
            "uniqueItems": True,
        },
        '["b"]  []',
        '[null]  ["a"]',
    ),
    "properties": Case(
        {"properties": {"a": {"const": 1}, "b": {"const": 2}, "c": {"const": 3}}},
        '{}  {"a": 1}  {"c": 3}  {"a": 1, "c": 3}  {"a": 1, "b": 2, "c": 3}',
        '{"c": 3, "a": 1}  {"a": 1, "a": 1}  {"x": 1}  {"a": 1,}',
    ),
    "minProperties": Case(
        {"properties": {"a": {}, "b": {}, "c": {}}, "minProperties": 2},
        '{"a": 1, "c": 1}  {"b": 1, "c": 1}',
        '{}  {"b": 1}',
    ),
    "maxProperties": Case(
        {"properties": {"a": {}, "b": {}, "c": {}}, "required": ["c"], "maxProperties": 2},
        '{"c": 1}  {"b": 1, "c": 1}',
        '{"a": 1, "b": 1, "c": 1}  {"a": 1, "b": 1}',
    ),
    "required alone": Case({"required": ["a"]}, '{"a": 1}', "{}"),
    "false property": Case({"properties": {"a": False, "b": {}}}, '{}  {"b": 1}', '{"a": 1}'),
    "additionalProperties": Case(
        {"properties": {"a": {"const": 1}}, "additionalProperties": {"type": "null"}},
        '{}  {"a": 1}  {"x": null}  {"a": 1, "ab": null, "": null}',
        '{"a": null}  {"x": 1}  {"a": 1, "a": null}',
    ),
    "patternProperties": Case(
        {"properties": {"ab": {}, "b": {}}, "patternProperties": {"^a": {"type": "null"}}},
        '{"ab": null, "b": 1}',
        '{"ab": 1}',
    ),
    "propertyNames": Case(
        {"properties": {"a": {}, "bb": {}}, "propertyNames": {"maxLength": 1}},
        '{"a": 1}',
        '{"bb": 1}',
    ),
    "allOf": Case(
        {"allOf": [properties(a={"minimum": 1}), properties(a={"maximum": 2}, b={})]},
        '{"a": 1, "b": 2}',
        '{"a": 1}  {"a": 3, "b": 2}  {"a": 0, "b": 2}',
    ),
    "allOf forbids": Case(
        {
            "allOf": [
                {"properties": {"a": {}}, "additionalProperties": False},
                {"properties": {"b": {}}},
            ]
        },
        '{"a": 1}',
        '{"b": 1}',
    ),
    "anyOf beside": Case(
        {"type": "string", "anyOf": [{"maxLength": 1}, {"pattern": "^ab+$"}]},
        '"x"  "abb"',
        '"xx"  1',
    ),
    "nullable": Case({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "1  null", '"a"'),
    "oneOf": Case({"oneOf": [{"type": "integer"}, {"type": "string"}]}, '1  "a"', "null"),
    "oneOf by a property": Case(
        {"oneOf": [properties(kind={"const": "a"}, x={}), properties(kind={"const": "b"})]},
        '{"kind": "a", "x": 1}  {"kind": "b"}',
        '{"kind": "a"}  {"kind": "b", "x": 1}',
    ),
    "oneOf by what is required": Case(
        {"type": "object", "oneOf": [properties(a={}), properties(b={})]},
        '{"a": 1}  {"b": 1}',
        '{}  {"a": 1, "b": 1}',
    ),
    "oneOf by bounds": Case({"oneOf": [{"maximum": 1}, {"exclusiveMinimum": 1}]}, "1  1.5", "null"),
    "oneOf by pattern": Case(
        {"oneOf": [{"pattern": "^a"}, {"pattern": "^b"}]}, '"ax"  "bx"', '"c"'
    ),
    "not": Case({"not": {"type": ["string", "array"]}}, "1  true  null", '"a"  []'),
    "not these": Case({"enum": [1, 2, 3], "not": {"enum": [2]}}, "1  3", "2"),
    "$ref": Case(
        {"properties": {"a": {"$ref": "#/definitions/x~1y"}}, "definitions": {"x/y": {"const": 1}}},
        '{"a": 1}',
        '{"a": 2}',
    ),
    "beside $ref": Case(
        {"$ref": "#/$defs/x", "maxLength": 1, "$defs": {"x": {"minLength": 1}}}, '"a"', '""  "aa"'
    ),
    "schema in itself": Case(
        TREE,
        '{"n": 1}  {"n": 1, "parts": [{"n": 2}, {"n": 3, "parts": [{"n": 4}]}]}',
        '{"parts": []}  {"n": 1, "parts": [{}]}',
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_keyword(name):
    case = CASES[name]
    constraint = JsonSchema(case.schema)
    for text in case.allowed.split("  "):
        text = str(int(float(text))) if "e9" in text else text
        json.loads(text)
        assert constraint.matches(text), text
    for text in case.refused.split("  "):
        assert not constraint.matches(text), text


def test_a_schema_lies_within_itself_three_times():
    constraint = JsonSchema(TREE)
    text = '{"n": 1}'
    for level in range(6):
        assert constraint.matches(text) == (level <= 3)
        text = f'{{"n": 1, "parts": [{text}]}}'


def test_alternatives_may_be_the_schema_itself():
    sides = {"left": {"$ref": "#/$defs/term"}, "right": {"$ref": "#/$defs/term"}}
    schema = {
        "$ref": "#/$defs/sum",
        "$defs": {
            "term": {"oneOf": [{"$ref": "#/$defs/number"}, {"$ref": "#/$defs/sum"}]},
            "number": {"type": "integer"},
            "sum": properties(**sides),
        },
    }
    constraint = JsonSchema(schema)
    assert constraint.matches('{"left": 1, "right": {"left": 2, "right": 3}}')
    assert not constraint.matches("1") and not constraint.matches('{"left": 1}')


def test_it_does_so_fewer_times_if_that_is_too_large():
    names = [f"property {i}" for i in range(30)]
    schema = {"properties": {name: {"$ref": "#"} for name in names}}
    constraint = JsonSchema(schema)
    assert constraint.matches('{"property 3": {"property 29": {}}}')
    deep = '{"property 3": ' * 4 + "{}" + "}" * 4
    assert not constraint.matches(deep)


@pytest.mark.parametrize(
    ("schema", "sentence"),
    [
        (properties(a={"maxLength": -1}), "schema.properties.a.maxLength is -1"),
        (properties(a={"pattern": "x(y"}), "schema.properties.a.pattern, character 3: "),
        (properties(a={"items": {"x": 1}}), "schema.properties.a.items has the keyword 'x'"),
        (properties(**{"a b": {"enum": 3}}), "schema.properties['a b'].enum is 3"),
        ({"anyOf": [{}, {"type": "x"}]}, "schema.anyOf[1].type is 'x'"),
        ({"prefixItems": [{"minimum": "x"}]}, "schema.prefixItems[0].minimum is 'x'"),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"not": 3}}}, "schema.$defs.x.not is 3"),
        ({"oneOf": [{"minimum": 1}, {"maximum": 1}]}, "schema.oneOf has alternatives that may"),
        (properties(a={"minimum": 2, "maximum": 1}), "no value is valid for schema.properties.a"),
        (properties(a={"pattern": "a", "minLength": 1001}), "schema.properties.a takes strings"),
    ],
    ids=str,
)
def test_errors_name_the_place(schema, sentence):
    with pytest.raises(TinyRWKVError) as caught:
        JsonSchema(schema)
    assert caught.value.sentence.startswith(sentence)
