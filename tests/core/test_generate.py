"""Generation: stop strings wherever tokens end, states that fit, deadlines at any moment."""

from __future__ import annotations

import functools
import gc
import itertools
import math
import sys
import threading
import time
import tracemalloc
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyrwkv
from tests.helpers.scripts import run_script
from tests.helpers.tiny_models import BOUNDS, VOCAB_SIZE, VOCABULARY, WORDS, error, is_exact
from tests.helpers.work_clock import WorkClock
from tinyrwkv import ArgumentError, Regex, Sampler, State, TinyRWKVError
from tinyrwkv import generate as module
from tinyrwkv.engine import pace as pace_module


class Script(Sampler):
    """Chooses the tokens of a list, then ends the document."""

    def __init__(self, tokens: list[int]) -> None:
        super().__init__(temperature=0)
        self.tokens = list(tokens)

    def sample(self, logits: np.ndarray) -> tuple[int, float]:
        assert np.isfinite(logits).all()
        return (self.tokens.pop(0) if self.tokens else 0), -1.0


def greedy(**options) -> Sampler:
    """Choose the best token but never the end of the document."""
    return Sampler(temperature=0, logit_bias={0: -math.inf}, **options)


def data_of(tokens: list[int]) -> bytes:
    return b"".join(VOCABULARY.get(token, b"") for token in tokens)


def finish(generation: module.Generation) -> module.Result:
    """Check that the pieces are the text; return the result."""
    pieces = list(generation)
    assert "".join(piece.text for piece in pieces) == generation.result.text
    assert [piece.token for piece in pieces if piece.token >= 0] == generation.result.tokens
    assert next(generation, None) is None
    return generation.result


def same_state(backend: str, found: State, expected: State) -> bool:
    if is_exact(backend):
        return found.tokens == expected.tokens and found.data.tobytes() == expected.data.tobytes()
    return found.tokens == expected.tokens and error(found.data, expected.data) < 4 * BOUNDS["int8"]


# Overlapping entries and pieces of characters far more often than chance would have them.
letters = [
    VOCAB_SIZE - 1,
    1 + ord("a"),
    1 + ord("b"),
    1 + ord("c"),
    1 + ord("\n"),
    1 + 0xC3,
    1 + 0xA9,
    1 + 0xE6,
    *WORDS,
]
scripts = st.lists(st.sampled_from(letters), max_size=12)
stops_of = st.lists(
    st.sampled_from(
        [
            "ab",
            "abc",
            "bc",
            "aab",
            "\n\n",
            "c\n",
            "é",
            "日本",
            "日",
            "🙂",
            "User:",
            "aba",
            "\ufffd",
            "ca",
            "aaa",
        ]
    ),
    max_size=3,
)


def oracle_text(
    tokens: list[int], stops: list[str], max_tokens: int
) -> tuple[bytes, str, list[int]]:
    """Return the bytes up to a stop string, why they end there, and the tokens.

    It is the first of the stop strings that are complete after some token.
    """
    text = b""
    for i, token in enumerate(tokens):
        if i == max_tokens:
            return text, "length", tokens[:i]
        text += VOCABULARY.get(token, b"")
        found = [at for at in (text.find(stop.encode()) for stop in stops) if at >= 0]
        if found:
            return text[: min(found)], "stop", tokens[: i + 1]
    return text, "length" if len(tokens) == max_tokens else "stop", tokens


@given(scripts, stops_of, st.integers(0, 14), st.booleans())
@settings(max_examples=60)
def test_text_ends_before_the_first_stop_string(load, backend, script, stops, max_tokens, fresh):
    model = load(backend, "v7", "int8")
    state = None if fresh else model.forward([5, 6])[1]
    generation = model.generate(
        [3, 4], state=state, sampler=Script(script), max_tokens=max_tokens, stop=stops
    )
    result = finish(generation)
    data, reason, tokens = oracle_text(script, stops, max_tokens)
    assert result.text == data.decode("utf-8", "replace")
    assert (result.stop_reason, result.tokens) == (reason, tokens)
    assert not any(stop in result.text for stop in stops if "\ufffd" not in stop)
    # The state has read the prompt and the text, no more and no less: whole tokens, then the rest
    # of the text anew.
    prompt = [0, 3, 4] if fresh else [3, 4]
    ways = [k for k in range(len(tokens) + 1) if data.startswith(data_of(tokens[:k]))]
    readings = [tokens[:k] + model.tokenizer.encode(data[len(data_of(tokens[:k])) :]) for k in ways]
    readings = [
        reading
        for reading in readings
        if len(prompt + reading) + (0 if fresh else 2) == result.state.tokens
    ]
    assert readings
    states = [model.forward(prompt + reading, state)[1] for reading in readings]
    assert any(same_state(backend, result.state, expected) for expected in states)
    if reason == "length" or (reason == "stop" and tokens == script and data == data_of(script)):
        assert same_state(
            backend, result.state, model.forward(prompt + tokens, state)[1]
        )  # exactly what was sampled


def test_a_stop_string_inside_one_token(load, backend):
    model = load(backend)
    abc = next(token for token, word in WORDS.items() if word == b"abc")
    result = finish(
        model.generate([3], sampler=Script([1 + ord("a"), abc, 1 + ord("b")]), stop=["b"])
    )
    assert (
        result.text == "aa"
        and result.stop_reason == "stop"
        and result.tokens == [1 + ord("a"), abc]
    )
    expected = model.forward([0, 3, 1 + ord("a"), 1 + ord("a")])[1]
    assert same_state(backend, result.state, expected)


def test_a_stop_string_over_a_hundred_tokens(load, backend):
    model, stop = load(backend), "ab" * 50
    script = [1 + ord(c) for c in "xx" + stop + "yy"]
    result = finish(model.generate([3], sampler=Script(script), stop=[stop], max_tokens=500))
    assert result.text == "xx" and result.stop_reason == "stop"
    assert same_state(backend, result.state, model.forward([0, 3, 1 + ord("x"), 1 + ord("x")])[1])


def test_text_is_shown_as_soon_as_no_stop_string_can_begin_in_it(load, backend):
    pieces = list(
        load(backend).generate(
            [3], sampler=Script([1 + ord(c) for c in "xUser?User:"]), stop=["User:"]
        )
    )
    assert [piece.text for piece in pieces[:6]] == ["x", "", "", "", "", "User?"]
    assert "".join(piece.text for piece in pieces) == "xUser?"


def test_one_stop_may_be_given_as_a_text(load, backend):
    result = finish(
        load(backend).generate([3], sampler=Script([1 + ord(c) for c in "ab\n\nc"]), stop="\n\n")
    )
    assert result.text == "ab"


def test_token_0_ends_and_is_not_read(load, backend):
    model = load(backend)
    result = finish(model.generate([3], sampler=Script([5, 0, 6])))
    assert (result.tokens, result.stop_reason, result.unread) == ([5], "stop", [])
    assert same_state(backend, result.state, model.forward([0, 3, 5])[1])


@pytest.mark.parametrize("max_tokens", [0, 1, 2])
def test_max_tokens(load, backend, max_tokens):
    model = load(backend)
    generation = model.generate([3, 4], sampler=Script([5, 6, 7]), max_tokens=max_tokens)
    result = finish(generation)
    assert result.tokens == [5, 6][:max_tokens] and result.stop_reason == "length"
    assert same_state(backend, result.state, model.forward([0, 3, 4, *result.tokens])[1])


def test_the_prompt_is_sent_as_it_is(load, backend):
    model = load(backend)
    prompt = model.tokenizer.encode("User: é日本")
    state = model.forward([9])[1]
    for given_state, expected in ((None, [0, *prompt]), (state, prompt)):
        generation = model.generate(
            "User: é日本", state=given_state, sampler=greedy(), max_tokens=0
        )
        result = finish(generation)
        assert same_state(backend, result.state, model.forward(expected, given_state)[1])
        logits = model.forward(expected, given_state)[0]
        assert error(generation.logits, logits) < (
            1e-30 if is_exact(backend) else 4 * BOUNDS["int8"]
        )
    assert (
        finish(model.generate("", sampler=greedy(), max_tokens=0)).state.tokens == 1
    )  # token 0 alone


def test_the_state_given_never_changes(load, backend):
    model = load(backend)
    state = model.forward([5])[1]
    before = state.data.tobytes()
    result = finish(model.generate([3], state=state, sampler=greedy(), max_tokens=20, stop=["zzz"]))
    assert state.data.tobytes() == before and state.tokens == 1
    held = result.state.data.tobytes()
    model.forward([1, 2, 3], result.state)
    assert result.state.data.tobytes() == held


# Choices.


def test_the_same_seed_gives_the_same_text(load, backend):
    model = load(backend)
    sampler = Sampler(seed=7, logit_bias={0: -math.inf}, frequency_penalty=0.3)
    runs = [finish(model.generate("abc", sampler=sampler, max_tokens=40)) for _ in range(3)]
    assert runs[0].tokens == runs[1].tokens == runs[2].tokens and runs[0].text == runs[2].text
    other = Sampler(seed=8, logit_bias={0: -math.inf}, frequency_penalty=0.3)
    assert finish(model.generate("abc", sampler=other, max_tokens=40)).tokens != runs[0].tokens


def test_greedy_is_the_best_token_each_time(load, backend):
    model = load(backend)
    generation = model.generate([3, 4], sampler=greedy(), max_tokens=30)
    logits, state = model.forward([0, 3, 4])
    for piece in generation:
        logits[0] = -math.inf
        assert piece.token == int(logits.argmax())
        logits, state = model.forward([piece.token], state)


def test_logprobs_are_of_the_logits(load, backend):
    model = load(backend)
    for piece in (generation := model.generate([3, 4], sampler=Sampler(seed=1), max_tokens=10)):
        wide = generation.logits.astype(np.float64)
        expected = wide[piece.token] - wide.max() - np.log(np.exp(wide - wide.max()).sum())
        assert piece.logprob == pytest.approx(expected, abs=1e-4)


def test_several_generations_at_once_do_not_meet(load, backend):
    model = load(backend)
    alone = [
        finish(model.generate([i], sampler=greedy(), max_tokens=15)).tokens for i in range(1, 5)
    ]
    together = [model.generate([i], sampler=greedy(), max_tokens=15) for i in range(1, 5)]
    for _ in range(15):
        for generation in together:
            next(generation)
    assert [generation.result.tokens for generation in together] == alone


class Counting:
    """Chooses 5, 6, 7 and so on: no `Sampler`, but with its methods."""

    def __init__(self) -> None:
        self.accepted: list[int] = [1]

    def copy(self) -> Counting:
        return Counting()

    def reset(self) -> None:
        self.accepted.clear()

    def sample(self, logits: np.ndarray) -> tuple[int, float]:
        return 5 + len(self.accepted), -1.0

    def accept(self, token: int) -> None:
        self.accepted.append(token)


class Even:
    """Allows even tokens alone, up to three of them: no class of the library."""

    def __init__(self) -> None:
        self.models: list[object] = []

    def start(self, model: object) -> Even:
        self.models.append(model)
        self.left = 3
        return self

    def mask(self, logits: np.ndarray, exact: object) -> None:
        logits[1::2] = -math.inf
        logits[0] = -math.inf

    def advance(self, token: int) -> bool:
        self.left -= 1
        return self.left > 0


def test_a_sampler_may_be_of_another_class(load, backend):
    sampler = Counting()
    result = finish(load(backend).generate([3], sampler=sampler, max_tokens=4))
    assert result.tokens == [5, 6, 7, 8] and sampler.accepted == [1]


def test_a_constraint_may_be_of_another_class(load, backend):
    model, even = load(backend), Even()
    result = finish(model.generate([3], constraint=even))
    assert len(result.tokens) == 3 and not any(token % 2 for token in result.tokens)
    assert result.stop_reason == "stop" and even.models == [model]


# Deadlines and cancellation, at any look at the clock.


BEGIN = 1000.0
"""What the clock shows first."""


class Clock:
    """A clock that ticks when it is looked at."""

    def __init__(self, begin: float = BEGIN) -> None:
        self.now = begin - 1  # a call of generate looks at it once

    def monotonic(self) -> float:
        self.now += 1
        return float(self.now)

    perf_counter = staticmethod(time.perf_counter)
    time = staticmethod(time.time)


def with_clock(call):
    """Call with a fake clock and a look at it after every layer."""
    before, pause = module.time, pace_module.PAUSE
    module.time, pace_module.PAUSE = Clock(), 0.0
    try:
        return call()
    finally:
        module.time, pace_module.PAUSE = before, pause


@given(
    st.lists(st.integers(1, 256), min_size=1, max_size=40),
    st.integers(0, 60),
    st.sampled_from(["v4", "v6", "v7"]),
)
@settings(max_examples=30)
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(load, backend, prompt, ticks, arch):
    model = load(backend, arch, "int8")
    whole = finish(model.generate(prompt, sampler=greedy(), max_tokens=8))
    deadline = BEGIN + ticks
    result = with_clock(
        lambda: finish(model.generate(prompt, sampler=greedy(), max_tokens=8, deadline=deadline))
    )
    tokens = list(result.tokens)
    if result.stop_reason == "deadline":
        read = [0, *prompt, *tokens][: result.state.tokens]
        assert read + result.unread == [0, *prompt, *tokens] and result.unread
        assert same_state(
            backend, result.state, model.forward(read)[1] if read else model.new_state()
        )
        rest = model.generate(
            result.unread, state=result.state, sampler=greedy(), max_tokens=8 - len(tokens)
        )
        result = finish(rest)
        tokens += result.tokens
    if is_exact(backend):
        assert tokens == whole.tokens
        assert result.state.data.tobytes() == whole.state.data.tobytes()
    assert result.state.tokens == whole.state.tokens or not is_exact(backend)


@given(st.integers(0, 80))
@settings(max_examples=40)
def test_a_seeded_run_goes_on_with_its_own_sampler(load, compiled, ticks):
    model, sampler = load(compiled), Sampler(seed=3, logit_bias={0: -math.inf})
    whole = finish(model.generate([3, 4, 5], sampler=sampler, max_tokens=10))
    deadline = BEGIN + ticks
    first = with_clock(
        lambda: model.generate([3, 4, 5], sampler=sampler, max_tokens=10, deadline=deadline)
    )
    result = with_clock(lambda: finish(first))
    tokens = list(result.tokens)
    if result.stop_reason == "deadline":
        left = 10 - len(tokens)
        rest = model.generate(
            result.unread, state=result.state, sampler=first.sampler, max_tokens=left
        )
        tokens += finish(rest).tokens
    assert tokens == whole.tokens


def test_a_deadline_that_has_passed_reads_nothing(load, backend):
    model = load(backend)
    state = model.forward([7])[1]
    now = time.monotonic()
    for deadline in (now, now - 1, now * 0.51, 0, -1, -math.inf):
        result = finish(model.generate([3, 4], state=state, deadline=deadline))
        assert (result.stop_reason, result.unread, result.tokens) == ("deadline", [3, 4], [])
        assert same_state(backend, result.state, state)


@pytest.mark.parametrize("operation", [20e-6, 500e-6])
@pytest.mark.parametrize("prompt", [[3], [3] * 100_000], ids=["decode", "prefill"])
def test_a_deadline_is_kept(tiny, backend, monkeypatch, prompt, operation):
    """On fast and slow machines, from the first tokens on, when the speed is not known yet."""
    model = tinyrwkv.load(tiny("v7", "int8"), backend=backend)
    clock = WorkClock(model, monkeypatch, operation)
    for milliseconds in (80, 81, 150, 333):
        deadline = clock.now + milliseconds / 1000
        generation = model.generate(prompt, sampler=greedy(), max_tokens=10**9, deadline=deadline)
        result = finish(generation)
        assert result.stop_reason == "deadline"
        assert 0 <= clock.now - deadline <= max(1.1 * pace_module.PAUSE, clock.largest_step)
        assert result.timings["prompt_tokens"] <= len(prompt) + 1
        assert result.timings["tokens"] == len(result.tokens)
        assert (result.timings["prompt_tokens"] == len(prompt) + 1) == bool(result.tokens)


def test_no_deadline_is_far_away(load, backend):
    for deadline in (None, math.inf, 1e18):
        result = finish(
            load(backend).generate([3], sampler=greedy(), max_tokens=5, deadline=deadline)
        )
        assert result.stop_reason == "length"


@pytest.mark.parametrize("prompt", [[3], [3] * 200_000], ids=["decode", "prefill"])
def test_cancel_from_another_thread(tiny, backend, monkeypatch, prompt):
    model = tinyrwkv.load(tiny("v7", "int8"), backend=backend)
    inside, cancelled, inner, calls = threading.Event(), threading.Event(), model.backend.run, []

    def run(*args):
        calls.append(args)
        if len(calls) == 30:
            inside.set()
            cancelled.wait(60)
        inner(*args)

    monkeypatch.setattr(model.backend, "run", run)
    generation = model.generate(prompt, sampler=greedy(), max_tokens=10**9)
    thread = threading.Thread(target=lambda: list(generation))
    thread.start()
    assert inside.wait(60)
    generation.cancel()
    cancelled.set()
    thread.join(60)
    assert not thread.is_alive() and len(calls) == 30  # no call of the kernels after that
    result = generation.result
    assert result.stop_reason == "cancelled" and result.unread
    assert result.state.tokens + len(result.unread) == 1 + len(prompt) + len(result.tokens)


def test_cancel_before_the_first_piece(load, backend):
    model = load(backend)
    generation = model.generate([3, 4])
    generation.cancel()
    assert list(generation) == []
    assert generation.result.stop_reason == "cancelled" and generation.result.unread == [0, 3, 4]
    assert same_state(backend, generation.result.state, model.new_state())


@given(scripts, stops_of, st.integers(1, 60))
@settings(max_examples=40)
def test_text_that_was_held_back_is_shown_at_a_deadline(load, compiled, script, stops, ticks):
    model = load(compiled)
    how = {"sampler": Script(script), "stop": stops, "max_tokens": 100}
    deadline = BEGIN + ticks
    result = with_clock(lambda: finish(model.generate([3], deadline=deadline, **how)))
    if result.stop_reason == "deadline":
        assert result.text == data_of(result.tokens).decode("utf-8", "replace")
        assert result.state.tokens + len(result.unread) == 2 + len(result.tokens)


# What may take long besides the kernels.


def calls_of(function) -> int:
    """Return how many lines and functions Python runs in a call."""
    count = [0]

    def trace(*_):
        count[0] += 1
        return trace

    def profile(_frame, event, _argument):
        count[0] += event == "c_call"

    before = sys.gettrace(), sys.getprofile()
    sys.settrace(trace)
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.settrace(before[0])
        sys.setprofile(before[1])
    return count[0]


@pytest.mark.parametrize(
    "stops", [["a" * 8000 + "b"], ["a" * size + "b" for size in range(1, 175)]]
)
def test_a_token_costs_the_same_however_long_a_stop_string_is(load, stops):
    always = Sampler(temperature=0, logit_bias={98: 1e4})  # the letter a
    model = load("numpy")
    short = model.generate([3], sampler=always, max_tokens=10**9, stop="ab")
    long = model.generate([3], sampler=always, max_tokens=10**9, stop=stops)
    for generation in (short, long):
        for _ in range(300):
            next(generation)
    assert calls_of(lambda: next(long)) < 1.5 * calls_of(lambda: next(short))


def test_what_may_be_a_stop_string_is_not_read_again_for_ever(load, backend):
    script = [1 + ord("a")] * 60 + [1 + ord("b")]
    result = finish(load(backend).generate([3], sampler=Script(script), stop="ab", max_tokens=99))
    assert result.text == "a" * 59 and result.stop_reason == "stop"
    result.stop_reason = None  # so that it is only looked at, not read
    assert len(result.unread) <= 6
    result.stop_reason = "stop"
    expected = load(backend).forward([0, 3, *script[:59]])[1]
    assert same_state(backend, result.state, expected) or not is_exact(backend)


def test_stop_strings_are_not_too_long_together(load):
    model = load("numpy")
    model.generate([3], stop=["a" * 8000, "b" * (module.MOST_STOP_BYTES - 8000)])
    with pytest.raises(ArgumentError, match=r"stop must be .* of 16,384 bytes together at most"):
        model.generate([3], stop=["a" * 8000, "b" * (module.MOST_STOP_BYTES - 7999)])


def test_a_long_text_is_only_encoded_as_far_as_it_is_read(load, backend):
    model = load(backend)
    text = "abc the User: x" * 3000
    calls = calls_of(lambda: finish(model.generate(text, max_tokens=0, timeout=0)))
    assert calls < 20_000
    result = finish(model.generate(text, max_tokens=0, timeout=0))
    assert result.stop_reason == "deadline"
    assert result.unread == [0, *model.tokenizer.encode(text)]


def test_a_text_that_is_read_in_parts_is_read_whole(load, backend):
    model = load(backend)
    text = "abc the User: x" * 300
    ids = model.tokenizer.encode(text)
    assert len(ids) > 2 * module.PIECE_OF_PROMPT
    result = finish(model.generate(text, max_tokens=0))
    assert result.timings["prompt_tokens"] == 1 + len(ids) and result.unread == []
    assert same_state(backend, result.state, model.forward([0, *ids])[1])


def test_a_constraint_is_interrupted_and_goes_on(load, backend):
    model = load(backend)
    how = {"sampler": greedy(), "max_tokens": 8}
    whole = finish(model.generate([3, 4], constraint=Regex("[ab]{3,9}|(?:.|\n)+"), **how))
    constraint = Regex("[ab]{3,9}|(?:.|\n)+")  # it has to learn all again

    def run(prompt: list[int], state: State | None, tokens: list[int], ticks: int) -> module.Result:
        part = constraint.after(model.tokenizer.decode_bytes(tokens))
        how["max_tokens"] = 8 - len(tokens)
        deadline = BEGIN + ticks
        return finish(
            model.generate(prompt, state=state, constraint=part, deadline=deadline, **how)
        )

    reasons, tokens, prompt, state = [], [], [3, 4], None
    for ticks in range(2, 400, 9):
        result = with_clock(functools.partial(run, prompt, state, tokens, ticks))
        tokens += result.tokens
        reasons.append(result.stop_reason)
        if result.stop_reason != "deadline":
            break
        prompt, state = result.unread, result.state
        assert prompt  # there is always something to go on with
    assert reasons[0] == "deadline" and reasons[-1] == whole.stop_reason
    assert tokens == whole.tokens or not is_exact(backend)


def test_a_walk_ends_when_it_is_told_to(load):
    model = load("numpy")
    walk = Regex("(ab|c)*").start(model)
    logits = np.zeros(VOCAB_SIZE, np.float32)
    walk.stopped = lambda: True
    with pytest.raises(module.InterruptionError):
        walk.mask(logits)
    assert not logits.any()
    walk.stopped = None
    walk.mask(logits)
    assert np.isfinite(logits).sum() == 6  # a, ab, abc, c, ca and the end


# A time of another clock, and a result before there is one.


@pytest.mark.parametrize(
    "deadline", [0.5, 20.0, time.time() + 5], ids=["half a second", "20 seconds", "time.time"]
)
def test_a_deadline_that_is_no_monotonic_time_is_refused(load, monkeypatch, deadline):
    monkeypatch.setattr(module, "time", Clock())
    with pytest.raises(ArgumentError, match=r"absolute time\.monotonic\(\) time.*timeout=seconds"):
        load("numpy").generate([3], deadline=deadline)


def test_a_deadline_of_long_ago_or_never_is_one(load, monkeypatch):
    monkeypatch.setattr(module, "time", Clock())
    for deadline in (BEGIN * 0.6, BEGIN + 1e6, math.inf):
        load("numpy").generate([3], deadline=deadline)


def test_a_deadline_may_pass_soon_after_the_machine_has_started(load, monkeypatch):
    monkeypatch.setattr(module, "time", Clock(begin=40))
    assert finish(load("numpy").generate([3], deadline=14)).stop_reason == "deadline"


def test_a_timeout_is_counted_from_the_call(load, monkeypatch):
    model = load("numpy")
    monkeypatch.setattr(module, "time", Clock())
    assert model.generate([3], timeout=2.5).deadline == BEGIN + 2.5
    assert finish(model.generate([3], timeout=0)).stop_reason == "deadline"
    with pytest.raises(ArgumentError, match="timeout must be given without a deadline"):
        model.generate([3], timeout=1, deadline=BEGIN + 5)
    with pytest.raises(ArgumentError, match="timeout must be a number of at least 0, not -1"):
        model.generate([3], timeout=-1)


def test_there_is_no_text_before_somebody_asks_for_it(load, backend):
    model = load(backend)
    generation = model.generate([3], sampler=Script([1 + ord("a"), 1 + ord("b")]))
    with pytest.raises(TinyRWKVError, match=r"no text yet.*iterate.*text\(\)"):
        _ = generation.result.text
    assert next(generation).text == generation.result.text == "a"
    assert generation.text() == generation.result.text == "ab"
    assert model.generate([3], max_tokens=0).text() == ""


def test_two_threads_cannot_make_pieces_of_one_generation(load, backend):
    inside, go_on = threading.Event(), threading.Event()

    class Waiting(Script):
        def copy(self):
            return self  # an event cannot be copied

        def sample(self, logits):
            inside.set()
            assert go_on.wait(60)
            return super().sample(logits)

    generation = load(backend).generate([3], sampler=Waiting([1 + ord("a")]))
    thread = threading.Thread(target=lambda: list(generation))
    thread.start()
    assert inside.wait(60)
    with pytest.raises(TinyRWKVError, match="another thread is iterating"):
        next(generation)
    go_on.set()
    thread.join(60)
    assert generation.result.text == "a" and generation.result.stop_reason == "stop"


# Leaving early.


def test_a_caller_that_leaves_early_finds_a_state_that_goes_on(load, backend):
    """The most natural way to stop: ``break``."""
    model = load(backend)
    whole = finish(model.generate([3, 4], sampler=greedy(), max_tokens=10))
    generation = model.generate([3, 4], sampler=greedy(), max_tokens=10)
    for i, _ in enumerate(generation):
        if i == 4:
            break
    result = generation.result
    tokens = list(result.tokens)
    assert len(tokens) == 5
    # All of prompt and text is either read or told to be unread.
    assert result.state.tokens + len(result.unread) == 3 + len(tokens)
    if result.unread:
        rest = model.generate(result.unread, state=result.state, sampler=greedy(), max_tokens=5)
        tokens += finish(rest).tokens
    else:
        assert same_state(backend, result.state, model.forward([0, 3, 4, *tokens])[1])
        return
    assert tokens == whole.tokens or not is_exact(backend)


@pytest.mark.parametrize("end", ["length", "stop"])
def test_what_is_unread_and_the_state_never_overlap(load, backend, end):
    """Who gives ``result.unread`` and ``result.state`` to the next call has no token read twice."""
    model = load(backend)
    stop = ["c"] if end == "stop" else []
    result = finish(
        model.generate([3], sampler=Script([1 + ord(c) for c in "abc"]), stop=stop, max_tokens=3)
    )
    assert result.stop_reason == end
    unread, state = list(result.unread), result.state  # in this order, as arguments are
    text = [1 + ord("a"), 1 + ord("b")] + [1 + ord("c")] * (end == "length")
    assert state.tokens + len(unread) == 2 + len(text)


def test_a_timeout_of_the_caller_is_not_taken_for_the_deadline(load, monkeypatch):
    """Handlers of alarms raise a TimeoutError too."""

    class Alarmed(Script):
        def sample(self, logits):
            module.time.now = math.inf  # the deadline has passed as well
            raise TimeoutError("the alarm")

    monkeypatch.setattr(module, "time", Clock())
    generation = load("numpy").generate([3], sampler=Alarmed([5]), deadline=BEGIN + 1000)
    with pytest.raises(TimeoutError, match="the alarm"):
        next(generation)


def test_an_interrupt_leaves_a_state_that_goes_on(load, backend):
    class Interrupted(Script):
        def sample(self, logits):
            if len(self.tokens) == 1:
                raise KeyboardInterrupt
            return super().sample(logits)

    model = load(backend)
    generation = model.generate([3, 4], sampler=Interrupted([5, 6, 7, 8]))
    with pytest.raises(KeyboardInterrupt):
        list(generation)
    result = generation.result
    assert result.tokens == [5, 6, 7]
    assert result.state.tokens + len(result.unread) == 3 + 3


# Memory and time.


def growth(step, count: int) -> int:
    """Return the bytes that Python has more after a number of steps.

    What is made once, such as memory for longer guesses, counts in one of two times at most.
    """
    for _ in range(30):
        step()
    tracemalloc.start()
    try:
        for _ in range(30):
            step()
        gc.collect()
        held = [tracemalloc.get_traced_memory()[0]]
        for _ in range(2):
            for _ in range(count):
                step()
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
        return min(after - before for before, after in itertools.pairwise(held))
    finally:
        tracemalloc.stop()


def test_nothing_grows_with_the_tokens_but_their_list(load, backend):
    count = 1500 if is_exact(backend) else 150
    always = Sampler(
        temperature=0, logit_bias={98: 1e4}
    )  # one letter; small numbers are no new objects
    generation = load(backend).generate([3], sampler=always, max_tokens=10**9, stop=["bc", "\n\n"])
    assert growth(lambda: next(generation), count) < 12 * count + 20_000


def test_a_long_prompt_is_not_copied_for_every_chunk(load, backend):
    generation = with_clock(
        lambda: load(backend).generate([3] * 100_000, sampler=greedy(), deadline=BEGIN + 20)
    )
    tracemalloc.start()
    try:
        result = with_clock(lambda: finish(generation))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 300_000  # a list of what is left takes 8 bytes a token
    assert result.stop_reason == "deadline" and len(result.unread) + result.state.tokens == 100_001


@pytest.mark.parametrize("form", ["dense", "previewed"])
def test_a_finished_generation_goes_without_the_collector(load, form):
    generation = load("numpy", form=form).generate(
        [3], sampler=greedy(), max_tokens=5, stop="zz", constraint=Regex("[ab]*")
    )
    generation.text()
    seen = weakref.ref(generation)
    gc.disable()
    try:
        del generation
        assert seen() is None
    finally:
        gc.enable()


def test_nothing_grows_with_the_calls(load, backend):
    model, state = load(backend), [None]

    def step():
        state[0] = model.forward([1, 2], state[0])[1]

    assert growth(step, 1000 if is_exact(backend) else 150) < 20_000


def test_timings(load, backend):
    begin = time.perf_counter()
    result = finish(load(backend).generate([3] * 30, sampler=greedy(), max_tokens=6))
    timings = result.timings
    assert timings["prompt_tokens"] == 31 and timings["tokens"] == 6
    assert 0 < timings["prompt_seconds"] and 0 < timings["seconds"]
    assert timings["prompt_seconds"] + timings["seconds"] <= time.perf_counter() - begin


# Calls that are wrong.


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": -1},
        {"max_tokens": 1.5},
        {"max_tokens": None},
        {"max_tokens": "5"},
        {"max_tokens": True},
        {"max_tokens": np.True_},
        {"deadline": "now"},
        {"deadline": True},
        {"deadline": math.nan},
        {"deadline": [1]},
        {"stop": [""]},
        {"stop": ""},
        {"stop": ["a", None]},
        {"stop": [b"a"]},
        {"stop": b"a"},
        {"stop": [5]},
        {"stop": 5},
        {"stop": None},
        {"stop": ["\ud800"]},
        {"state": 5},
        {"sampler": "greedy"},
        {"sampler": Sampler},
        {"sampler": object()},
        {"constraint": "yes|no"},
        {"constraint": tinyrwkv.Choice},
        {"prompt": None},
        {"prompt": 5.5},
        {"prompt": [5.5]},
        {"prompt": [True]},
        {"prompt": [VOCAB_SIZE]},
        {"prompt": ["a"]},
        {"prompt": "\ud800"},
        {"prompt": ...},
    ],
    ids=lambda options: next(iter(options)),
)
def test_wrong_calls_are_refused(load, options):
    with pytest.raises(ArgumentError):
        load("numpy").generate(**{"prompt": [1], **options})


def test_nothing_to_read_is_refused(load):
    model = load("numpy")
    for prompt in ("", [], b""):
        with pytest.raises(ArgumentError, match="tokens"):
            model.generate(prompt, state=model.new_state())


def test_a_prompt_may_come_as_any_integers(load, backend):
    model = load(backend)
    expected = finish(model.generate([3, 4], sampler=greedy(), max_tokens=4)).tokens
    for prompt in (
        np.array([3, 4]),
        (3, 4),
        range(3, 5),
        iter([3, 4]),
        np.array([3, 4], np.uint16),
    ):
        assert finish(model.generate(prompt, sampler=greedy(), max_tokens=4)).tokens == expected


def test_logits_that_are_no_numbers_are_an_error_of_the_library(load, backend):
    model = load(backend)
    state = model.new_state().copy()
    state.data[:] = np.nan
    with pytest.raises(tinyrwkv.TinyRWKVError, match="logits"):
        list(model.generate([3], state=state, max_tokens=3))


@pytest.mark.parametrize("threads", [1, 2])
def test_interrupts_of_the_keyboard_end_a_generation(tiny, compiled, threads):
    code = """
    import signal
    import tinyrwkv
    path, backend, threads = sys.argv[1:]
    model = tinyrwkv.load(path, backend=backend, threads=int(threads))
    sampler = tinyrwkv.Sampler(temperature=0, logit_bias={0: -float("inf")})
    def twenty():
        generation = model.generate([3], sampler=sampler, max_tokens=20)
        return [piece.token for piece in generation]
    expected = twenty()
    for delay in (0.001, 0.003, 0.01, 0.03):
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, delay)
        try:
            for piece in model.generate([3], sampler=sampler, max_tokens=10**6):
                pass
            raise SystemExit("not interrupted")
        except KeyboardInterrupt:
            pass
        assert twenty() == expected
    print("done", end="")
    """
    assert run_script(code, tiny("v7", "int8"), compiled, str(threads)) == "done"
