"""Slices: the same tokens as in one go, whenever the time ends; deadlines are kept."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.tiny_models import is_exact
from tinyrwkv import ArgumentError, Regex, Sampler, generate
from tinyrwkv.robot.slices import Slices


class Clock:
    """A clock that ticks whenever it is looked at."""

    def __init__(self) -> None:
        self.now = 0

    def monotonic(self) -> float:
        self.now += 1
        return float(self.now)


@given(
    ticks=st.integers(2, 60),
    seed=st.integers(0, 50),
    pattern=st.sampled_from([None, "(a|b日|é)*", "[^x]{8}", "b{3}"]),
)
@settings(max_examples=15)
def test_slices_add_up_to_the_whole(load, backend, ticks, seed, pattern):
    model, constraint = load(backend), None if pattern is None else Regex(pattern)
    prompt = [3 + seed] * 20
    sampler = Sampler(
        seed=seed, temperature=0.0 if not is_exact(backend) else 1.0, logit_bias={0: -math.inf}
    )
    if pattern == "b{3}":
        sampler = Sampler(seed=seed)
    whole = model.generate(prompt, sampler=sampler, max_tokens=10, constraint=constraint)
    logprob = sum(piece.logprob for piece in whole)
    thought = Slices(model, prompt, sampler=sampler, max_tokens=10, constraint=constraint)
    clock, count = Clock(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate.time, "monotonic", clock.monotonic)
        while not thought.work(
            clock.now + ticks + count // 5
        ):  # a slice may be too short for a token
            count += 1
            assert count < 1000
    assert thought.tokens == whole.result.tokens
    assert thought.stop_reason == whole.result.stop_reason
    assert thought.text == whole.result.text
    near = (
        1e-4 if is_exact(backend) else 2e-3
    )  # NumPy adds in another order if it reads another number of tokens at once
    if pattern is None:
        assert thought.logprob == pytest.approx(logprob, abs=near)
    else:
        assert (
            thought.logprob <= logprob + near
        )  # the model alone finds the answer no more probable
    assert thought.work(0)


def test_the_probability_is_that_without_the_constraint(load):
    model = load("numpy")
    thought = Slices(model, [3], constraint=Regex("ab"))
    assert thought.work(math.inf)
    logits, _ = model.forward([0, 3, *thought.tokens], logits="all")
    expected = 0.0
    for row, token in zip(logits[1:], thought.tokens, strict=False):
        row = row.astype(float)
        expected += row[token] - row.max() - math.log(sum(map(math.exp, row - row.max())))
    assert thought.logprob == pytest.approx(expected, abs=1e-3)


def test_wrong_calls_are_refused_at_once(load):
    for options in ({"max_tokens": -1}, {"constraint": 3}, {"state": 3}, {"sampler": 3}):
        with pytest.raises(ArgumentError):
            Slices(load("numpy"), [3], **options)
