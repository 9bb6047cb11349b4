"""Constraints: patterns mean what they mean in Python, masks are exact, hostile patterns fail."""

from __future__ import annotations

import contextlib
import itertools
import math
import pickle
import random
import re
import signal
import threading
import time
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import tinyrwkv
from tests.helpers.tiny_models import VOCABULARY
from tests.helpers.vocabularies import pack, single_bytes
from tinyrwkv import ArgumentError, Choice, Regex, Sampler, TinyRWKVError, UnsupportedError
from tinyrwkv.constraints import automaton, masks
from tinyrwkv.constraints.automaton import Automaton, Machine
from tinyrwkv.constraints.characters import LAST, byte_sequences, complement, normalise
from tinyrwkv.constraints.filter import Filter
from tinyrwkv.constraints.nfa import Nfa
from tinyrwkv.constraints.pattern import parse
from tinyrwkv.constraints.trie import LONGEST, Trie, trie_of

# ---- UTF-8 ----

code_points = st.integers(0, LAST).filter(
    lambda code: not 0xD800 <= code <= 0xDFFF
) | st.sampled_from(
    [
        0,
        0x7F,
        0x80,
        0x7FF,
        0x800,
        0xD7FF,
        0xE000,
        0xFFFF,
        0x10000,
        0x3FFFF,
        0x40000,
        0xFFFFF,
        0x100000,
        LAST,
    ]
)


@given(
    code_points, code_points, st.lists(code_points, max_size=5), st.binary(min_size=1, max_size=4)
)
@settings(max_examples=200)
def test_byte_sequences_spell_a_range_and_nothing_else(one, other, codes, data):
    low, high = min(one, other), max(one, other)
    spans = [span for part in normalise([(low, high)]) for span in byte_sequences(*part)]

    def spelled(data: bytes) -> int:
        return sum(
            len(span) == len(data)
            and all(a <= byte <= b for byte, (a, b) in zip(data, span, strict=True))
            for span in spans
        )

    for code in {low, high, max(low - 1, 0), min(high + 1, LAST), *codes}:
        if not 0xD800 <= code <= 0xDFFF:
            assert spelled(chr(code).encode()) == (low <= code <= high)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        assert spelled(data) == 0
    else:
        assert spelled(data) == (len(text) == 1 and low <= ord(text) <= high)


@given(
    st.lists(
        st.tuples(code_points, code_points).map(lambda pair: (min(pair), max(pair))), max_size=5
    ),
    code_points,
)
def test_ranges_and_all_others(ranges, code):
    inside = any(low <= code <= high for low, high in ranges)
    for found, expected in (
        (normalise(ranges), inside),
        (complement(normalise(ranges)), not inside),
    ):
        assert any(low <= code <= high for low, high in found) == expected
        assert list(found) == sorted(found) and all(low <= high for low, high in found)
        assert not any(low <= 0xDFFF and high >= 0xD800 for low, high in found)


# ---- the language of patterns ----

LETTERS = "ab\nc é日🙂-]^"

sets = st.sampled_from(
    [
        r"[ab]",
        r"[^ab]",
        r"[]a]",
        r"[^\]-]",
        r"[a-c\d]",
        r"[é-日]",
        r"[\n-]",
        r".",
        r"\d",
        r"\W",
        r"[^\s🙂]",
        r"[^\D]",
    ]
)
patterns = st.recursive(
    st.sampled_from(LETTERS).map(re.escape) | sets | st.just(""),
    lambda inner: (
        st.tuples(inner, inner).map("".join)
        | st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"(?:{'|'.join(parts)})")
        | st.tuples(
            inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{,2}", "{1,}", "*?", "{2,3}?"])
        ).map(lambda parts: f"({parts[0]}){parts[1]}")
        | st.tuples(inner, inner).map(lambda parts: f"(?:{parts[0]})(?:{parts[1]}(?:{parts[0]}))*")
    ),
    max_leaves=8,
)
texts = st.text(st.sampled_from(LETTERS + "01_"), max_size=8)


@given(patterns, st.lists(texts, max_size=8))
@example("(a(?:ba)*)?", ["ba"])
@settings(max_examples=200)
def test_a_text_matches_where_python_says_so(pattern, candidates):
    found = Regex(pattern)
    for text in ["", *candidates]:
        assert found.matches(text) == bool(re.fullmatch(pattern, text, re.ASCII)), text


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        (r"^a|b$", ["a", "b"], ["ab", ""]),
        (r"a{2}b{,1}c{1,}", ["aac", "aabccc"], ["aab", "ac"]),
        (r"a{x}|{}|a{,}", ["a{x}", "{}", "", "aaa"], ["ax"]),
        (r"(?P<one>a)(?:b)*?", ["a", "abb"], ["b"]),
        (r"\x41\u20ac\U0001f642\t\.", ["A€🙂\t."], ["A€🙂\t,"]),
        (r"[\x00-\U0010ffff]", ["\0", "\U0010ffff", "\n"], [b"\xed\xa0\x80", b"\xc0\x80", ""]),
        (r".", ["é", "🙂"], ["\n", b"\xe9", b"\xf4\x90\x80\x80", "ab"]),
        (r"", [""], ["a"]),
        (r"(a|b|)*", ["", "abba"], ["c"]),
        (r"(a(?:,a)*)?", ["", "a", "a,a"], [",a", "a,"]),
        (r"(a(?:,a)*){2}b|c", ["aab", "a,aa,ab", "c"], ["ab", ",aab", "aa,b"]),
        (r"(a(?:,a)*|,)*;?", ["", "aa,a,,;", ";"], [";;"]),
        (r"\w+\s\S", ["a_9 x"], ["é x"]),
    ],
)
def test_examples_of_patterns(pattern, yes, no):
    found = Regex(pattern)
    assert all(map(found.matches, yes)) and not any(map(found.matches, no))


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            "(",
            ")",
            "a)",
            "(a",
            "[",
            "[a",
            "[]",
            "*",
            "a**",
            "a{2}{3}",
            "a{3,2}",
            "a{1001}",
            "[b-a]",
            "\\",
            "\\q",
            "\\8",
        ),
        *(
            "(?=a)",
            "(?<!a)b",
            "(a)\\1",
            "\\bword",
            "a^b",
            "a$b",
            "(?i)a",
            "a*+",
            "\\x4",
            "\\ud800",
            "\\U00110000",
        ),
        *(
            "[\\ud800-\\udfff]",
            "[^\\x00-\\U0010ffff]",
            "(?P<1>a)",
            "(^a)",
            "a|{0}",
            "\ud800",
            "[a-\\d]",
            "\\A",
            "\\p",
        ),
    ],
)
def test_what_is_not_a_pattern_is_refused(pattern):
    with pytest.raises((ArgumentError, UnsupportedError), match="pattern"):
        Regex(pattern)


def test_the_place_of_a_mistake_is_named():
    with pytest.raises(
        UnsupportedError, match=re.escape("pattern, character 6: the group (?= is not supported")
    ) as caught:
        Regex("abcd(?=e)")
    assert str(caught.value).endswith("write 'abcd(?=e)' another way")


@contextlib.contextmanager
def seconds_at_most(seconds: float) -> Iterator[None]:
    """Drop an example that takes Python longer; if the system has no such timer, just wait."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def give_up(number: int, frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except TimeoutError:
        assume(False)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@given(st.text(st.sampled_from("ab()[]{}*+?|\\^$.-,0123456789:=!<>Pdwsuxé\n"), max_size=25))
@settings(max_examples=200)
def test_any_text_is_a_pattern_of_the_same_meaning_or_refused(pattern):
    try:
        found = Regex(pattern)
    except (ArgumentError, UnsupportedError):
        return
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # of sets that may come to mean something else
        expression = re.compile(pattern, re.ASCII)  # Python takes every pattern that is taken here
    texts = ("", "a", "b", "ab", "aa", "()", "{", "-", "d0", "é")
    matched = [found.matches(text) for text in texts]
    with seconds_at_most(2):  # Python tries 2^99 ways to match (|){99}
        assert matched == [bool(expression.fullmatch(text)) for text in texts]


@pytest.mark.parametrize("value", [None, 3, b"a", Regex])
def test_a_pattern_is_text(value):
    with pytest.raises(ArgumentError):
        Regex(value)
    for name in ("prefix", "suffix"):
        if not isinstance(value, str):
            with pytest.raises(ArgumentError, match=name):
                Regex("a", **{name: value})


def test_the_names_of_the_first_version_still_work():
    found, also = Choice(["a"], lead=" "), Regex("a", tail=" ")
    assert (found.prefix, found.suffix, also.prefix, also.suffix) == (" ", "", "", " ")
    assert (found.lead, found.tail, also.lead, also.tail) == (" ", "", "", " ")


@pytest.mark.parametrize("value", [[], "yes", b"yes", None, [1], ["a", None]])
def test_choices_are_texts(value):
    with pytest.raises(ArgumentError, match="choices"):
        Choice(value)


@given(
    st.lists(st.text(max_size=5), min_size=1, max_size=5),
    st.text(max_size=5),
    st.sampled_from(["", " ", "\n("]),
)
def test_a_choice_matches_its_texts(choices, text, around):
    found = Choice(choices, prefix=around, suffix=around)
    assert all(found.matches(around + choice + around) for choice in choices)
    assert found.matches(around + text + around) == (text in choices)
    assert around == "" or not found.matches(around + choices[0])


# ---- hostile patterns ----


@pytest.mark.parametrize(
    "pattern",
    [
        "a" * 200_001,
        "(" * 51 + ")" * 51,
        "(" * 10_000,
        "(((a{1000}){1000}){1000}){1000}",
        "(((){1000}){1000}){1000}",
        "[\\u0800-\\U0010ffff]{1000}" * 30,
        "((a*)*)*" * 20_000,
        "[" + "".join(map(chr, range(0x100, 0xD000, 2))) + "]{40}",
    ],
    ids=range(8),
)
def test_large_patterns_are_refused_at_once(pattern):
    begin = time.monotonic()
    with pytest.raises(TinyRWKVError):
        Regex(pattern)
    assert time.monotonic() - begin < 20  # seconds on a busy machine; hours without limits


@pytest.mark.parametrize(
    "pattern", ["(.?){1000}(.?){1000}x", "(a|b)*a(a|b){900}", "(a?){1000}(a?){1000}a{1000}"]
)
def test_patterns_that_take_ever_more_states_stay_small(load, pattern):
    """Time and memory for a token are bounded; a pattern that needs more is refused."""
    model = load("numpy")
    begin = time.monotonic()
    try:
        generation = model.generate(
            [3], constraint=Regex(pattern), sampler=Sampler(seed=1), max_tokens=5
        )
        assert len(list(generation)) == 5
    except ArgumentError as error:
        assert "simpler" in str(error)
    assert time.monotonic() - begin < 60


def test_an_automaton_that_is_full_begins_anew(load, monkeypatch):
    pattern = "(a|b)*a(a|b){9}"  # 1024 states
    constraint = Regex(pattern)
    monkeypatch.setattr(automaton, "MOST_STATES", 300)
    generator = random.Random(1)
    text = "".join(generator.choice("ab") for _ in range(3000))
    assert constraint.matches(text) == bool(re.fullmatch(pattern, text))
    generation = load("numpy").generate(
        [3], constraint=constraint, sampler=Sampler(seed=1), max_tokens=200
    )
    assert set("".join(piece.text for piece in generation)) <= set("ab")
    monkeypatch.setattr(automaton, "MOST_STATES", 3)
    with pytest.raises(ArgumentError, match="one token"):
        list(load("numpy").generate([3], constraint=Regex("abcd"), max_tokens=5))


# ---- masks ----


def accepts(place: automaton.Place) -> bool:
    return place.automaton.accepts(place.state)


def allowed_by(found: masks.Masks, place: automaton.Place, size: int) -> set[int]:
    tokens = found.allowed(place)
    if tokens.dtype == np.int32:
        return set(tokens.tolist())
    return set(np.flatnonzero(np.unpackbits(tokens, count=size) == 0).tolist())


vocabularies = st.lists(
    st.text(st.sampled_from("ab日é"), min_size=2, max_size=5).map(str.encode), max_size=30
).map(
    lambda words: (
        single_bytes()
        | {300 + i: word[: len(word) - i % 2] for i, word in enumerate(dict.fromkeys(words))}
    )
)


@given(vocabularies, patterns, texts)
def test_masks_are_those_of_every_token_tried(vocabulary, pattern, text):
    vocabulary = {token: data for token, data in vocabulary.items() if data}
    vocabulary = {
        token: data for data, token in {data: token for token, data in vocabulary.items()}.items()
    }
    data, starts, ids = pack(vocabulary)
    made = masks.Masks(Nfa(parse(pattern)), Trie(np.frombuffer(data, np.uint8), starts, ids, 400))
    for length in range(len(text.encode()) + 1):
        place = made.read(made.begin(), text.encode()[:length])
        if place:
            expected = {token for token, entry in vocabulary.items() if made.read(place, entry)}
            expected |= {0} if accepts(place) else set()
            assert allowed_by(made, place, 400) == allowed_by(made, place, 400) == expected
            assert expected  # never a dead end


def finite(draw, depth: int) -> tuple[str, set[str]]:
    """Return a pattern and its finite language, each made without the other."""
    kind = draw(
        st.sampled_from(
            ["letter", "set", "one after the other", "either", "repeat"]
            if depth
            else ["letter", "set"]
        )
    )
    if kind == "letter":
        letter = draw(st.sampled_from("ab日é"))
        return letter, {letter}
    if kind == "set":
        return draw(st.sampled_from([("[ab]", {"a", "b"}), ("[é日]", {"é", "日"}), ("", {""})]))
    (one, ones), (other, others) = finite(draw, depth - 1), finite(draw, depth - 1)
    if kind == "either":
        return f"({one}|{other})", ones | others
    if kind == "one after the other":
        return one + other, {a + b for a in ones for b in others}
    return f"({one}){{0,2}}", {""} | ones | {a + b for a in ones for b in ones}


@given(st.data())
@settings(max_examples=100)
def test_masks_allow_what_some_text_of_the_language_begins_with(load, data):
    pattern, language = finite(data.draw, 3)
    assume(len(language) <= 200)
    words = {text.encode() for text in language}
    model = load("numpy")
    made = masks.Masks(Nfa(parse(pattern)), trie_of(model))
    word = data.draw(st.sampled_from(sorted(words)))
    before = word[: data.draw(st.integers(0, len(word)))]
    expected = {
        token
        for token, entry in VOCABULARY.items()
        if any(word.startswith(before + entry) for word in words)
    }
    expected |= {0} if before in words else set()
    place = made.read(made.begin(), before)
    assert allowed_by(made, place, model.config["vocab_size"]) == expected
    assert place.automaton.goes_on(place.state) == any(
        word.startswith(before) and word != before for word in words
    )


@given(
    st.sampled_from(
        [
            "a",
            "(ab|é)",
            "[a-z日]",
            "(a{2,9}b?|日)",
            "(é{12}|b)",
            "(a*b)",
            "(ab?){7}",
            "(a|aa|aab)",
            "(?:ab)(?:b(?:ab))*",
        ]
    ),
    st.integers(0, 12),
    st.integers(0, 12),
    st.sampled_from(["", "b", "(aab)*é?"]),
    st.text("abé日", max_size=12),
)
@settings(max_examples=200)
def test_copies_that_do_not_see_the_end_share_a_mask(load, part, least, more, rest, text):
    """The shared mask allows the tokens that are found when each state is looked at alone."""
    model = load("numpy")
    trie = trie_of(model)
    made = masks.Masks(Nfa(parse(f"(?:{part}){{{least},{least + more}}}{rest}")), trie)
    place = made.begin()
    for byte in text.encode():
        expected = set(made.candidates(place).tolist()) | ({0} if accepts(place) else set())
        assert allowed_by(made, place, model.config["vocab_size"]) == expected
        if not (place := made.read(place, bytes([byte]))):
            return


@pytest.mark.parametrize(
    ("pattern", "one", "further"),
    [
        ("(?:ab)(?:, (?:ab))*", "a", "b, a"),
        ("x(?:a|b)(?:-(?:a|b))*y", "xa", "-b"),
        ("a{2}(?:,a{2})*b?", "aa", ",aa"),
    ],
)
def test_the_things_of_a_list_share_their_states(pattern, one, further):
    machine = Machine(Nfa(parse(pattern)))
    once = machine.read(machine.begin(), one.encode())
    assert once.state == machine.read(once, further.encode()).state


def test_a_long_repetition_needs_few_masks(load):
    model = load("numpy")
    made = masks.Masks(Nfa(parse('"[^"]{0,500}"')), trie_of(model))
    for length in range(400):
        made.allowed(made.read(made.begin(), b'"' + b"a" * length))
    assert len(made.cache) == 2  # before the first copy, and between copies


def test_characters_of_many_bytes_reach_the_limit_of_states():
    with pytest.raises(ArgumentError, match="more than 50,000 states"):
        Regex("é" * 30_000)


def test_only_a_model_can_be_prepared_for():
    with pytest.raises(ArgumentError, match="model must be a Model"):
        Regex("a").prepare("model.trwkv")


def test_what_was_prepared_has_nothing_to_learn(load):
    model, constraint = load("numpy"), Regex("[ab]{0,60}c")
    assert constraint.prepare(model) == 62
    made = constraint.masks(model)
    names, known = list(made.cache), made.machine.automaton.table.copy()
    for length in range(61):
        assert made.allowed(made.read(made.begin(), b"a" * length)).size
    assert sorted(made.cache) == sorted(names)
    assert np.array_equal(made.machine.automaton.table, known)
    assert constraint.prepare(model, most=7) == 7


def test_tokens_of_great_length_are_left_out():
    vocabulary = single_bytes() | {300: b" " * 24, 301: b" " * 25, 302: b" " * 30 + b"a"}
    data, starts, ids = pack(vocabulary)
    trie = Trie(np.frombuffer(data, np.uint8), starts, ids, 400)
    made = masks.Masks(Nfa(parse(" *a")), trie)
    assert allowed_by(made, made.begin(), 400) == {1 + ord(" "), 1 + ord("a"), 300}


def test_masks_that_are_kept_have_a_bound(load, monkeypatch):
    monkeypatch.setattr(masks, "CACHE_BYTES", 5000)
    monkeypatch.setattr(masks, "FEW", 10)
    model = load("numpy")
    made = masks.Masks(Nfa(parse("".join(f"[^{i}]" for i in "0123456789" * 10))), trie_of(model))
    for i in itertools.chain(range(50), range(50)):
        assert len(allowed_by(made, made.read(made.begin(), b"a" * i), 300)) > 100
        assert made.cache.n_bytes <= 5000 and 0 < len(made.cache) < 50


def test_the_tree_of_the_bundled_vocabulary_has_every_token():
    model = tinyrwkv.load()
    trie = trie_of(model)
    assert trie.longest < LONGEST
    assert sorted(trie.tokens[trie.tokens >= 0].tolist()) == sorted(
        model.file["tokenizer.ids"].tolist()
    )
    everything = Automaton(Nfa(parse("[\\x00-\\x7f]*")))
    found = Filter(trie, everything.classes).tokens(everything, everything.begin)
    ascii_tokens = {
        t for t in model.file["tokenizer.ids"].tolist() if model.tokenizer.token_bytes(t).isascii()
    }
    assert set(found.tolist()) == ascii_tokens
    assert trie_of(model) is trie


# ---- generation ----


def text_of(generation) -> str:
    pieces = list(generation)
    assert all(piece.token < 0 or math.isfinite(piece.logprob) for piece in pieces)
    return "".join(piece.text for piece in pieces)


@given(patterns, st.integers(0, 1000), st.sampled_from([1.0, 5.0]), st.integers(1, 40))
@settings(max_examples=100)
def test_what_is_generated_matches(load, pattern, seed, temperature, max_tokens):
    model = load("numpy")
    constraint = Regex(pattern)
    sampler = Sampler(temperature=temperature, seed=seed)
    generation = model.generate([3], constraint=constraint, sampler=sampler, max_tokens=max_tokens)
    text = text_of(generation)
    data = model.tokenizer.decode_bytes(generation.result.tokens)
    assert data.decode("utf-8", "replace") == text
    if generation.result.stop_reason == "stop":
        assert data.decode() == text  # strictly UTF-8
        assert re.fullmatch(pattern, text, re.ASCII)
    else:
        assert (
            generation.result.stop_reason == "length"
            and len(generation.result.tokens) == max_tokens
        )
    machine = Machine(Nfa(parse(pattern)))
    assert machine.read(machine.begin(), data)  # some end can still be reached


@given(patterns, st.integers(0, 20), st.integers(1, 6))
@settings(max_examples=30)
def test_a_generation_cut_short_goes_on(load, pattern, seed, cut):
    model, greedy = load("numpy"), Sampler(temperature=0)
    constraint = Regex(pattern)
    whole = model.generate([3, seed], constraint=constraint, sampler=greedy, max_tokens=12)
    list(whole)
    first = model.generate([3, seed], constraint=constraint, sampler=greedy, max_tokens=cut)
    list(first)
    if first.result.stop_reason == "stop":
        assert first.result.tokens == whole.result.tokens
        return
    *read, last = first.result.tokens
    state = model.forward([0, 3, seed, *read])[1]
    rest = model.generate(
        [last],
        state=state,
        constraint=constraint.after(model.tokenizer.decode_bytes(first.result.tokens)),
        sampler=greedy,
        max_tokens=12 - cut,
    )
    list(rest)
    assert first.result.tokens + rest.result.tokens == whole.result.tokens


def test_a_constraint_goes_on_only_after_what_it_allows(load):
    with pytest.raises(ArgumentError, match="before"):
        load("numpy").generate([3], constraint=Regex("ab").after("b"))
    after = Regex("abcd").after("a").after(b"b")
    assert text_of(load("numpy").generate([3], constraint=after)) == "cd"


@given(
    st.lists(st.sampled_from(["yes", "no", "no way", "é", "日本", "", "yes "]), min_size=1),
    st.integers(0, 99),
)
@settings(max_examples=20)
def test_a_choice_gives_one_of_them(load, choices, seed):
    generation = load("numpy").generate([3], constraint=Choice(choices), sampler=Sampler(seed=seed))
    assert text_of(generation) in choices
    assert generation.result.stop_reason == "stop"


def test_a_text_that_is_complete_costs_no_further_token(load, backend, monkeypatch):
    model = load(backend)
    read, inner = [], model.reader.read

    def counted(ids, *rest):
        read.extend(ids.tolist())
        return inner(ids, *rest)

    monkeypatch.setattr(model.reader, "read", counted)
    generation = model.generate([3], constraint=Choice(["abc"]), sampler=Sampler(temperature=0))
    assert text_of(generation) == "abc"
    result = generation.result
    assert result.stop_reason == "stop"
    assert read == [0, 3, *result.tokens[:-1]]
    assert result.state.tokens == 2 + len(result.tokens)
    assert np.isneginf(generation.logits).sum() > 200


def test_only_the_end_may_follow_a_whole_text(load):
    generation = load("numpy").generate([3], constraint=Regex(""))
    assert list(generation) == [] and generation.result.stop_reason == "stop"
    with pytest.raises(TinyRWKVError, match="no token is allowed"):
        list(
            load("numpy").generate(
                [3], constraint=Regex(""), sampler=Sampler(logit_bias={0: -math.inf})
            )
        )


def test_a_sampler_must_keep_to_the_constraint(load):
    class Stubborn(Sampler):
        def sample(self, logits):
            return 98, 0.0

    with pytest.raises(TinyRWKVError, match="token 98"):
        list(load("numpy").generate([3], constraint=Regex("ab"), sampler=Stubborn()))


def test_stop_strings_deadlines_and_cancelling_still_end(load, backend):
    model = load(backend)
    generation = model.generate(
        [3], constraint=Regex("a*b"), sampler=Sampler(seed=1, logit_bias={99: -9}), stop=["aaa"]
    )
    assert "aaa" not in text_of(generation)
    generation = model.generate([3], constraint=Regex("a*"), deadline=time.monotonic() - 1)
    assert text_of(generation) == "" and generation.result.stop_reason == "deadline"
    generation = model.generate([3], constraint=Regex("a{500}"), max_tokens=500)
    next(generation)
    generation.cancel()
    text_of(generation)
    assert generation.result.stop_reason == "cancelled"


def test_threads_may_share_a_constraint(load, monkeypatch):
    monkeypatch.setattr(automaton, "MOST_STATES", 70)  # so that it begins anew all the time
    model, constraint, wrong = load("numpy"), Regex("(a|b)*a(a|b){4}(é|日|c)*"), list[object]()

    def work(seed: int) -> None:
        try:
            for i in range(3):
                sampler = Sampler(seed=seed + i, temperature=3)
                generation = model.generate(
                    [3], constraint=constraint, sampler=sampler, max_tokens=20
                )
                text = text_of(generation)
                if generation.result.stop_reason == "stop" and not constraint.matches(text):
                    wrong.append(text)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(100 * seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_logprob_is_that_among_allowed_tokens(load):
    model = load("numpy")
    logits, _ = model.forward([0, 3])
    piece = next(model.generate([3], constraint=Regex("[ab]"), sampler=Sampler(temperature=0)))
    among = logits[[1 + ord("a"), 1 + ord("b")]]
    assert piece.logprob == pytest.approx(
        float(among.max() - np.log(np.exp(among).sum())), abs=1e-5
    )


@pytest.mark.parametrize("pattern", ["[a-e]{6}", ".{6}"])
def test_allowed_tokens_have_exact_logits_whatever_the_head(load, backend, pattern):
    """A preview head knows some logits only roughly, but those of allowed tokens exactly."""
    dense, previewed = load(backend), load(backend, form="previewed")
    generation = previewed.generate(
        [3], constraint=Regex(pattern), sampler=Sampler(temperature=0), max_tokens=1
    )
    next(generation)
    expected, rough = dense.forward([0, 3])[0], previewed.forward([0, 3])[0]
    allowed = np.flatnonzero(np.isfinite(generation.logits))
    best = allowed[np.argsort(rough[allowed])[-20:]]
    best = best[rough[best] > rough[best].max() - 4]
    assert len(best) > 1
    np.testing.assert_allclose(generation.logits[best], expected[best], rtol=1e-4, atol=1e-4)
    assert not np.allclose(
        rough[allowed], expected[allowed], rtol=1e-4, atol=1e-4
    )  # not so without it
    if pattern == "[a-e]{6}":
        np.testing.assert_allclose(
            generation.logits[allowed], expected[allowed], rtol=1e-4, atol=1e-4
        )
        assert generation.logits.argmax() == allowed[expected[allowed].argmax()]


@pytest.mark.parametrize("value", [object(), "a*", Regex, 3])
def test_a_constraint_is_one(load, value):
    with pytest.raises(ArgumentError, match="constraint"):
        load("numpy").generate([3], constraint=value)


def test_names_are_loaded_when_asked_for():
    assert {"Choice", "Regex"} <= set(tinyrwkv.__all__)
    assert tinyrwkv.Regex is Regex
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        _ = tinyrwkv.nothing_of_that_name


def test_errors_survive_a_pickle():
    with pytest.raises(ArgumentError) as caught:
        Regex("(")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
