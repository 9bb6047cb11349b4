"""Scripts: bounds and names hold, parsing loses nothing, the bundled model says nothing else."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyrwkv
from tests.helpers.tiny_models import VOCAB_SIZE
from tinyrwkv import ArgumentError, Sampler
from tinyrwkv.constraints.automaton import Machine
from tinyrwkv.robot.scripts import NOUNS, VERBS, Call, Names, Number, Scripts, Words

SCRIPTS = Scripts()

nouns = st.lists(st.text("abz09-'", min_size=1, max_size=5), min_size=1, max_size=3).map(" ".join)
calls = st.one_of(
    st.integers(-2000, 2000).map(lambda x: Call("move", x / 100)),
    st.integers(-36000, 36000).map(lambda x: Call("turn", x / 10)),
    st.integers(0, 864000).map(lambda x: Call("wait", x / 10)),
    st.builds(Call, st.sampled_from(["goto", "pick", "place", "follow", "say"]), nouns),
    st.sampled_from([Call("photo"), Call("release"), Call("look", "up"), Call("gripper", "open")]),
)


@given(st.lists(calls, min_size=1, max_size=6))
def test_a_script_is_read_as_it_was_written(script):
    text = "; ".join(map(str, script))
    assert SCRIPTS.matches(f" {text}\n\n")
    assert SCRIPTS.parse(text) == SCRIPTS.parse(f" {text}\n\n") == script


def test_unknown_stands_alone():
    assert SCRIPTS.parse("unknown()") == []
    assert not SCRIPTS.matches(" unknown(); move(1)\n\n")


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "move(21)",
            "move(-20.01)",
            "move(1.234)",
            "move(01)",
            "move(-0)",
            "move()",
            "move(1);move(2)",
        ),
        *(
            "move(1);",
            'look("away")',
            'pick("")',
            'pick("a  b")',
            'pick("a\n")',
            "fly(1)",
            'photo("x")',
        ),
        *("turn(3601)", "wait(86401)", "wait(-1)"),
    ],
)
def test_what_is_not_a_script_is_refused(text):
    with pytest.raises(ArgumentError, match="script"):
        SCRIPTS.parse(text)


def test_a_world_has_its_own_names_and_bounds():
    scripts = Scripts(
        {**VERBS, "goto": Names(["kitchen (north)", "user"]), "move": Number(0, 2, 0)},
        prefix="",
        suffix="",
    )
    assert scripts.parse('goto("kitchen (north)"); move(2)') == [
        Call("goto", "kitchen (north)"),
        Call("move", 2.0),
    ]
    assert not any(
        map(scripts.matches, ['goto("kitchen")', "move(2.5)", "move(-1)", ' goto("user")'])
    )
    assert Scripts({"say": Words()}, prefix="").verbs == {"say": Words()}


@pytest.mark.parametrize("names", [[], [""], ['a"b'], ["a\\"], ["a\n"], [3], 5, None])
def test_names_without_quotes(names):
    with pytest.raises(ArgumentError, match="names"):
        Names(names)


@pytest.mark.parametrize("verbs", [{}, {"a b": None}, {"": NOUNS}, {3: None}, {"été": None}])
def test_verbs_are_names(verbs):
    with pytest.raises(ArgumentError, match="verbs"):
        Scripts(verbs)


def test_verbs_that_take_the_same_share_what_is_learnt():
    machine = Machine(SCRIPTS.nfa)
    places = [
        machine.read(machine.begin(), f' {before}("the red c'.encode())
        for before in ("goto", "pick", "place", "follow", "photo(); pick", 'goto("lab"); place')
    ]
    assert all(places) and len({place.state for place in places}) == 1


@given(st.integers(0, 10**6))
@settings(max_examples=25)
def test_a_random_model_says_only_scripts(load, seed):
    model, sampler = (
        load("numpy"),
        Sampler(seed=seed, temperature=2, logit_bias={0: -math.inf, VOCAB_SIZE - 1: 9}),
    )
    verbs = {"move": Number(-2, 2, 1), "goto": Names(["a", "é日"]), "stop": None}
    scripts = Scripts(verbs)
    generation = model.generate(
        [3], constraint=scripts, sampler=sampler, stop=["\n\n"], max_tokens=60
    )
    text = "".join(piece.text for piece in generation)
    if generation.result.stop_reason == "stop":
        assert all(call.verb in verbs for call in scripts.parse(text))


@pytest.mark.parametrize(
    ("command", "script"),
    [
        ("please go forward two meters and then turn left", "move(2); turn(90)"),
        (
            "Bring me the red cup from the kitchen.",
            'goto("kitchen"); pick("red cup"); goto("user"); release()',
        ),
    ],
)
def test_the_bundled_model_says_what_it_was_taught(command, script):
    model = tinyrwkv.load()
    prompt = f"User: {command}\n\nAssistant:"
    generation = model.generate(
        prompt, constraint=SCRIPTS, sampler=Sampler(temperature=0), stop=["\n\n"]
    )
    assert "".join(piece.text for piece in generation).strip() == script
    generation = model.generate(
        "User: Tell me a story.\n\nAssistant:", constraint=SCRIPTS, stop=["\n\n"]
    )
    list(generation)
    assert generation.result.stop_reason == "length" or SCRIPTS.matches(
        generation.result.text + "\n\n"
    )
