"""eval tells what the answers that are not right would do to a robot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from converters import evaluate
from converters.judge.metrics import Matches, exact_match
from converters.judge.scripts import are_of_the_grammar, count_misses, is_script, kind_of_miss
from tests.helpers.places import ROOT
from tinyrwkv import load
from tinyrwkv.robot.scripts import Scripts

HUMAN = ROOT / "tests" / "data" / "commands-human.txt"
SUMS = ("", "_grammar")


def report_of(capsys: pytest.CaptureFixture[str], model: str, text: str, *options: str) -> dict:
    Path("commands").write_text(text)
    arguments = [model, "--commands", "commands", "--json", *options]
    assert evaluate.main(arguments) == 0
    return json.loads(capsys.readouterr().out)


def documents(*answers: str) -> str:
    return "<|doc|>\n".join(f"User: go\n\nAssistant: {answer}\n\n" for answer in answers)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("move(2)", "wrong_actions"),
        ('fly(-9e9); say("(no)"); hop()', "wrong_actions"),
        ("unknown()", "unknown"),
        ("unknown(); move(1)", "wrong_actions"),
        ("I would move(2).", "no_script"),
        ('goto("kitchen', "no_script"),
        ("move(2);", "no_script"),
        ("move(2)\nturn(90)", "no_script"),
        ("", "no_script"),
    ],
)
def test_a_miss_acts_only_if_it_is_a_script(answer: str, kind: str) -> None:
    assert kind_of_miss(answer) == kind


def test_misses_are_shares_of_all_answers() -> None:
    matches = Matches()
    for answer in ("move(2)", "move(3)", "unknown()", "Hello!"):
        matches.add("", "move(2)", answer, answer == "move(2)", 1)
    assert count_misses(matches) == {"wrong_actions": 0.25, "unknown": 0.25, "no_script": 0.25}


def test_numbers_beyond_the_bounds_are_still_of_the_grammar() -> None:
    assert are_of_the_grammar(["move(1609.34)", 'say("fly(2)")', "unknown()"])
    assert not are_of_the_grammar(["move(1)", "fly(2)"])
    assert not are_of_the_grammar(["Hello!"])
    assert is_script("fly(2)")


@pytest.mark.parametrize("form", ["f32", "int8"])
def test_scripts_are_judged_free_and_under_the_grammar(tiny, capsys, form: str) -> None:
    report = report_of(capsys, tiny("v7", form), documents("move(2)", "unknown()"))
    assert [part["part"] for part in report["parts"]] == ["commands", "grammar"]
    for ending in SUMS:
        kinds = ("exact_match", "wrong_actions", "unknown", "no_script")
        assert sum(report[f"{kind}{ending}"] for kind in kinds) == pytest.approx(1)
    assert report["no_script"] == 1  # random weights write no script of their own


def test_only_the_grammar_of_the_right_answers_is_used(tiny, capsys) -> None:
    others = report_of(capsys, tiny("v7"), documents("fly(2)", "move(2)"))
    assert "wrong_actions" in others and "exact_match_grammar" not in others
    prose = report_of(capsys, tiny("v7"), documents("Hello!", "move(2)"))
    assert not [key for key in prose if key.startswith(("wrong_actions", "unknown"))]
    assert "exact_match_grammar" not in prose


def test_another_model_is_compared_under_the_grammar_too(tiny, capsys) -> None:
    options = ("--against", tiny("v7", "int8"))
    report = report_of(capsys, tiny("v7"), documents("move(2)"), *options)
    assert {"exact_match_delta", "exact_match_grammar_delta"} <= set(report["against"])


def test_the_table_tells_what_misses_would_do(tiny, capsys) -> None:
    Path("commands").write_text(documents("move(2)"))
    assert evaluate.main([tiny("v7"), "--commands", "commands"]) == 0
    told = capsys.readouterr().out
    assert "commands wrong actions 0.0000, unknown() for an action 0.0000, no script 1.0000" in told


def test_a_constraint_holds_every_answer() -> None:
    text = HUMAN.read_text("utf-8")
    scripts = Scripts()
    matches = exact_match(load(), text, limit=12, constraint=scripts)
    assert matches.wrong or matches.right == 12
    assert all(scripts.matches(f" {entry['answer']}\n\n") for entry in matches.wrong)
