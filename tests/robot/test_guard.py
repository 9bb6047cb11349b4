"""The guard reads words: what a script does not account for is never run at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyrwkv.robot.guard import objections, out_of_bounds
from tinyrwkv.robot.scripts import VERBS, Call, Number, Scripts

CASES = Path(__file__).parents[1] / "data" / "guard-cases.txt"
WIDE = Scripts().with_any_number()


def cases() -> list[tuple[str, str, str, str]]:
    """Return the category, the verdict, the order and the script of every case."""
    found = []
    category = ""
    for line in CASES.read_text("utf-8").splitlines():
        if line.startswith("# "):
            category = line[2:].partition(":")[0]
        elif line:
            found.append((category, *line.split(" | ")))
    return found


@pytest.mark.parametrize("category", sorted({case[0] for case in cases()}))
def test_every_case_passes_or_meets_an_objection(category):
    wrong = [
        (verdict, order, script)
        for one, verdict, order, script in cases()
        if one == category and bool(objections(order, WIDE.parse(script))) != (verdict == "object")
    ]
    assert wrong == []


def test_the_cases_are_many_and_a_third_of_them_pass():
    verdicts = [verdict for _, verdict, _, _ in cases()]
    assert len(verdicts) >= 300 and set(verdicts) == {"pass", "object"}
    assert verdicts.count("pass") >= len(verdicts) / 3


def test_nothing_speaks_against_a_script_that_does_nothing():
    assert objections("do not do anything, ever", []) == ()


calls = st.lists(
    st.one_of(
        st.builds(Call, st.sampled_from(["move", "turn", "wait"]), st.floats(-1e6, 1e6)),
        st.builds(Call, st.sampled_from(["goto", "pick", "say"]), st.text(max_size=20)),
        st.builds(Call, st.sampled_from(["photo", "stop", "release", "dock"])),
    ),
    max_size=4,
)
words = st.sampled_from("go not two no , and half a of meters turn left right point the".split())


@given(st.one_of(st.text(max_size=80), st.lists(words, max_size=15).map(" ".join)), calls)
def test_any_order_and_script_get_an_answer_and_always_the_same(order, script):
    found = objections(order, script)
    assert found == objections(order, script) and all(isinstance(one, str) for one in found)


@given(st.sampled_from(["move", "turn", "wait"]), st.floats(1, 500), st.floats(1, 500))
def test_a_number_that_nobody_said_meets_an_objection(verb, said, done):
    unit = {"move": "meters forward", "turn": "degrees left", "wait": "seconds"}[verb]
    order = f"{verb} {said:.2f} {unit}"
    same = abs(round(said, 2) - done) <= 0.05
    if not same:
        assert objections(order, [Call(verb, done)])
    assert not objections(order, [Call(verb, round(said, 2))])


def test_bounds_are_told_in_the_units_of_the_call():
    verbs = {**VERBS, "move": Number(-5, 5), "turn": Number(-90, 90)}
    assert out_of_bounds([Call("move", 5.0), Call("turn", -90.0), Call("photo")], verbs) == ()
    assert out_of_bounds([Call("move", 20.0), Call("turn", 91.0)], verbs) == (
        "move(20) is outside of -5 to 5 metres",
        "turn(91) is outside of -90 to 90 degrees",
    )
