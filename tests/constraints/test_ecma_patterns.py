"""Patterns of schemas, as ECMA-262 reads them: searched for, with anchors anywhere."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyrwkv import JsonSchema, TinyRWKVError

BLANKS = "\t\n\v\f\r \u00a0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"


def matches(pattern: str, text: str, **more: int) -> bool:
    constraint = JsonSchema({"type": "string", "pattern": pattern, **more})
    return constraint.matches(json.dumps(text, ensure_ascii=False))


parts = st.recursive(
    st.sampled_from(["a", "b", "c", ".", "[ab]", "[^a]", "^", "$", r"\w"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda some: f"({'|'.join(some)})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}"])).map(
            lambda both: f"(?:{both[0]}){both[1]}"
        ),
    ),
    max_leaves=6,
)
texts = st.text("abc-", max_size=5)


@given(parts, texts, st.integers(0, 3), st.integers(0, 3))
@settings(max_examples=300)
def test_a_pattern_is_found_where_python_finds_it(pattern, text, least, more):
    most = least + more
    found = re.search(pattern.replace("$", r"\Z"), text) is not None
    fits = found and least <= len(text) <= most
    try:
        assert matches(pattern, text) == found
    except TinyRWKVError:  # nothing can match
        assert not found
    try:
        assert matches(pattern, text, minLength=least, maxLength=most) == fits
    except TinyRWKVError:
        assert not fits


@given(parts, parts, texts)
@settings(max_examples=150)
def test_a_look_ahead_at_the_beginning(forbidden, pattern, text):
    whole = f"^(?!{forbidden})(?!-)(?:{pattern})"
    found = re.search(whole.replace("$", r"\Z"), text) is not None
    try:
        assert matches(whole, text) == found
    except TinyRWKVError:  # nothing can match
        assert not found


@pytest.mark.parametrize("blank", [blank for blank in BLANKS if blank != "\v"], ids=ascii)
def test_blanks_are_those_of_unicode(blank):
    assert matches(r"^\s$", blank) and not matches(r"^\S$", blank)
    assert matches(r"^[\s]$", blank) and not matches(r"^[^\s]$", blank)


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        (r"^.$", "\n", False),
        (r"^.$", "\r", False),
        (r"^.$", "\u2028", False),
        (r"^.$", "\u2029", False),
        (r"^.$", "\u0085", True),
        (r"^[^]$", "\n", True),
        (r"^\u{1f642}$", "🙂", True),
        (r"^\ud83d\ude42$", "🙂", True),
        (r"^[\ud83d\ude42-\ud83d\ude44]$", "🙃", True),
        (r"^\cJ$", "\n", True),
        (r"^[\b]$", "\b", True),
        (r"^\w$", "é", False),
        (r"^\d$", "٣", False),
        (r"^x{,5}$", "x{,5}", True),
        (r"^{}$", "{}", True),
        (r"^\/\-$", "/-", True),
        (r"^(?<name>a)$", "a", True),
        (r"a$", "a\n", False),
    ],
    ids=ascii,
)
def test_what_differs_from_python(pattern, text, found):
    assert matches(pattern, text) == found
    assert matches(pattern, text, maxLength=9) == found


@pytest.mark.parametrize(
    "pattern",
    [
        r"\p{L}",
        r"\bx",
        r"(?=x)",
        r"a(?!x)",
        r"^(?!x)a|b",
        r"(x)\1",
        r"\a",
        r"\cé",
        r"\u{110000}",
        r"\01",
    ],
)
def test_what_is_refused_is_named_with_its_place(pattern):
    with pytest.raises(TinyRWKVError, match=r"^schema\.pattern, character \d+: "):
        JsonSchema({"pattern": pattern})
