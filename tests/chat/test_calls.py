"""Orders to a robot are told from conversation."""

from __future__ import annotations

import time

import pytest

import tinyrwkv
from tinyrwkv.chat.calls import LONGEST, Calls
from tinyrwkv.chat.profile import read_profile
from tinyrwkv.chat.templates import template
from tinyrwkv.loading import BUNDLED


@pytest.fixture(scope="module")
def calls() -> Calls:
    return Calls(tinyrwkv.load(), read_profile(BUNDLED).commands)


@pytest.mark.parametrize(
    "text",
    [
        "turn left",
        "stop",
        "please come here",
        "grab the cup",
        "say hello",
        "look up",
        "how warm is it",
    ],
)
def test_an_order_is_told_whatever_its_call_takes(calls: Calls, text: str) -> None:
    assert calls.expected(template("robot").prompt(text))


@pytest.mark.parametrize("text", ["Do you like pizza?", "Hello!", "thank you", "Tell me a story"])
def test_conversation_is_no_order(calls: Calls, text: str) -> None:
    assert not calls.expected(template("robot").prompt(text))


def test_without_calls_nothing_is_an_order(calls: Calls) -> None:
    assert not Calls(calls.model, ()).expected(template("robot").prompt("turn left"))


def test_a_text_too_long_for_an_order_is_none_and_is_not_read(calls: Calls) -> None:
    prompt = template("robot").prompt("turn left")
    assert len(calls.model.tokenizer.encode(prompt)) <= LONGEST
    assert calls.expected(prompt)
    assert not calls.expected(template("robot").prompt("turn left " * LONGEST))


def test_what_is_not_read_in_time_is_no_order(calls: Calls) -> None:
    assert not calls.expected(template("robot").prompt("turn left"), deadline=time.monotonic() - 1)
