"""From orders to decisions: stop needs no model, scripts keep to the grammar, doubt asks."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyrwkv
from tinyrwkv.robot import commander
from tinyrwkv.robot.commander import THRESHOLD, Commander, says_only_stop, says_stop
from tinyrwkv.robot.scripts import VERBS, Call, Names, Number, Scripts


@pytest.fixture(scope="module")
def model():
    return tinyrwkv.load()


@pytest.mark.parametrize(
    "text", ["stop", "STOP!", "please stop now", "Halt.", "robot, freeze", "whoa"]
)
def test_stop_alone(text):
    assert says_stop(text) and says_only_stop(text)


@pytest.mark.parametrize("text", ["stop and turn left", "don't stop", "go to the bus stop"])
def test_stop_with_something_else(text):
    assert says_stop(text) and not says_only_stop(text)


@pytest.mark.parametrize("text", ["", "go on", "the nonstop flight", "unstoppable"])
def test_no_stop(text):
    assert not says_stop(text) and not says_only_stop(text)


def decide(commander: Commander, command: str, slice_s: float = math.inf):
    commander.hear(command)
    while commander.thinking:
        if decision := commander.work(time.monotonic() + slice_s):
            return decision
    return None


def test_commands_become_calls(model):
    commander = Commander(model, Scripts())
    decision = decide(commander, "please go forward two meters and then turn left", 0.005)
    assert decision.kind == "run" and decision.calls == [Call("move", 2.0), Call("turn", 90.0)]
    assert decision.script == "move(2); turn(90)" and THRESHOLD <= decision.logprob <= 0
    assert not commander.thinking and commander.work(math.inf) is None
    again = decide(commander, "please go forward two meters and then turn left")
    assert again._replace(logprob=decision.logprob) == decision
    assert again.logprob == pytest.approx(
        decision.logprob, rel=1e-6
    )  # NumPy adds in the order that addresses suggest


def test_doubt_becomes_a_question(model):
    sure = decide(
        Commander(model, Scripts(), threshold=-math.inf), "I'd love a cup from the kitchen"
    )
    assert sure.kind == "run"
    asked = decide(Commander(model, Scripts(), threshold=0.0), "turn left")
    assert asked.kind == "ask" and asked.calls == [Call("turn", 90.0)]


@pytest.mark.parametrize("order", ["go forward 20 meters", "drive back six meters"])
def test_a_number_out_of_bounds_is_refused_and_not_squeezed_into_them(model, order):
    narrow = Scripts({**VERBS, "move": Number(-5, 5)})
    decision = decide(Commander(model, narrow, threshold=-math.inf), order)
    assert (decision.kind, decision.calls) == ("refuse", [])
    assert "outside of -5 to 5 metres" in decision.reasons[0]


@pytest.mark.parametrize(
    "order", ["go to the kitchen if it is dark", "lift the ban", "stop the music"]
)
def test_no_threshold_makes_a_script_run_that_the_guard_objects_to(model, order):
    assert decide(Commander(model, Scripts(), threshold=-math.inf), order).kind in (
        "ask",
        "unknown",
    )


def test_what_has_no_script(model):
    cut = decide(Commander(model, Scripts(), max_tokens=3), "turn left and then turn right")
    assert (cut.kind, cut.calls) == ("unknown", [])
    only = Scripts({"photo": None})
    assert decide(Commander(model, only, threshold=-math.inf), "solve my homework").kind in (
        "run",
        "unknown",
    )


@given(st.text(max_size=60))
@settings(max_examples=15)
def test_whatever_is_said_only_what_the_grammar_allows_is_done(model, command):
    names = ("kitchen", "user")
    scripts = Scripts({**VERBS, "goto": Names(names)})
    decision = decide(Commander(model, scripts, threshold=-math.inf), command)
    for call in decision.calls:
        assert call.verb in VERBS
        assert call.verb != "goto" or call.argument in names
        assert call.verb != "move" or abs(call.argument) <= 20


def test_a_new_command_takes_the_place_of_the_old(model):
    commander = Commander(model, Scripts())
    commander.hear("turn left")
    commander.work(time.monotonic())
    assert commander.thinking
    assert decide(commander, "take a picture").script == "photo()"
    commander.hear("turn left")
    commander.forget()
    assert not commander.thinking and commander.work(math.inf) is None


def test_a_grammar_can_be_prepared(model):
    scripts = Scripts({"move": VERBS["move"], "goto": Names(["kitchen", "user"])})
    count = scripts.prepare(model)
    masks = scripts.masks(model)
    made = len(masks.cache)
    assert 20 < count < 200
    for command in ("go to the kitchen", "go forward two meters"):
        decide(Commander(model, scripts), command)
    assert len(masks.cache) == made
    assert scripts.prepare(model) == count and Scripts().prepare(model, most=7) == 7


def test_whoever_writes_a_script_gets_the_same_decision() -> None:
    scripts = Scripts({**VERBS, "move": Number(-5, 5)})
    cases = (
        ("turn(90)", -0.01, "run"),
        ("turn(90)", -9.0, "ask"),
        ("move(20)", -0.01, "refuse"),
        ("unknown()", -0.01, "unknown"),
        ("Once upon a time", -0.01, "unknown"),
        ("", 0.0, "unknown"),
    )
    for script, logprob, kind in cases:
        decision = commander.decide("turn left", f" {script}\n\n", logprob, scripts)
        assert (decision.kind, decision.script, decision.logprob) == (kind, script, logprob)
        assert bool(decision.calls) == (kind in ("run", "ask"))
        assert bool(decision.reasons) == (kind == "refuse")
