"""Chat templates: the exact texts, and what they never contain."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyrwkv.chat.templates import TEMPLATES, Template, template
from tinyrwkv.errors import ArgumentError

texts = st.text(
    st.sampled_from("ab \n\r\t{}:\x0b\u2028") | st.characters(codec="utf-8"), max_size=30
)
chatting = pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "none"])


@pytest.mark.parametrize(
    ("name", "expected", "stop"),
    [
        ("chat", "System: Be kind.\n\nUser: Hello\n\nAssistant:", ("\n\nUser:",)),
        ("think", "System: Be kind.\n\nUser: Hello\n\nAssistant: <think", ("\n\nUser:",)),
        (
            *("think-fast", "System: Be kind.\n\nUser: Hello\n\nAssistant: <think>\n</think"),
            ("\n\nUser:",),
        ),
        ("robot", "System: Be kind.\n\nUser: Hello\n\nAssistant:", ("\n\n",)),
        ("raven", "Be kind.\n\nBob: Hello\n\nAlice:", ("\n\n",)),
        ("none", "Be kind.Hello", ()),
    ],
)
def test_first_turn_and_stops(name: str, expected: str, stop: tuple[str, ...]) -> None:
    assert template(name).prompt("Hello", system="Be kind.") == expected
    assert template(name).stop == stop


def test_every_template_is_under_its_name() -> None:
    assert all(name == made.name for name, made in TEMPLATES.items())
    assert len(TEMPLATES) == 6


def test_a_conversation_reads_as_in_training() -> None:
    robot = template("robot")
    answer = ' move(1); place("cup")'
    text = (
        robot.prompt("go on")
        + answer
        + robot.prompt("stop", first=False)
        + " stop()"
        + robot.between
    )
    assert (
        text
        == 'User: go on\n\nAssistant: move(1); place("cup")\n\nUser: stop\n\nAssistant: stop()\n\n'
    )


def test_no_system_text_without_instructions() -> None:
    for empty in ("", "  \n\n "):
        assert template("chat").prompt("a", system=empty) == "User: a\n\nAssistant:"
    assert "System" not in template("chat").prompt("a", first=False, system="Be kind.")


@chatting
@given(text=texts, system=texts)
def test_turns_hold_no_empty_line(name: str, text: str, system: str) -> None:
    made = template(name)
    assert made.user(text).count("\n\n") == 1 and made.user(text).endswith("\n\n")
    assert made.system(system).count("\n\n") <= 1
    assert not made.prompt(text, system=system).endswith((" ", "\n"))


@chatting
@given(text=texts)
def test_cleaning_keeps_the_words(name: str, text: str) -> None:
    made = template(name)
    before, after = made.user_form.split("{}")
    inside = made.user(text)[len(before) : -len(after)]
    assert inside.split() == text.split()
    assert inside == inside.strip()
    assert made.user(inside) == made.user(text)


@pytest.mark.parametrize("name", sorted(TEMPLATES))
@given(text=texts)
def test_turns_after_an_answer_have_one_lead(name: str, text: str) -> None:
    made = template(name)
    assert made.turn(text, first=False).startswith(made.turn_lead)


@given(texts)
def test_none_leaves_the_text_alone(text: str) -> None:
    assert template("none").prompt(text) == text


def test_single_line_breaks_stay() -> None:
    assert template("chat").user("a\nb\r\nc\r\n\r\nd\n \t\n\ne") == "User: a\nb\nc\nd\ne\n\n"


def test_braces_are_only_text() -> None:
    assert template("chat").user("{} {0} {name}") == "User: {} {0} {name}\n\n"


def test_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ArgumentError,
        match="no template 'alpaca', only chat, think, think-fast, robot, raven, none; choose",
    ):
        template("alpaca")


def test_own_templates_need_only_what_differs() -> None:
    own = Template("own", user_form="Q: {}\n", answer_prefix="A:", between="\n", stop=("\nQ:",))
    assert (
        own.prompt("two?") + " 2" + own.prompt("three?", first=False)
        == "Q: two?\nA: 2\nQ: three?\nA:"
    )


def test_no_thought_stays_in_a_conversation() -> None:
    for name in ("think", "think-fast"):
        made = template(name)
        said = made.turn("Why?") + made.answer("\nSo.\n") + made.prompt("And?", first=False)
        assert said.removesuffix(made.opening) == (
            "User: Why?\n\nAssistant: So.\n\nUser: And?\n\nAssistant:"
        )


@pytest.mark.parametrize(
    ("written", "closing"),
    [
        ("", ">\n</think"),
        (">", "\n</think"),
        (">\nOkay", "\n</think"),
        (">\nOkay\n", "</think"),
        ("Okay", ">\n</think"),
    ],
)
def test_a_thought_that_is_ended_has_both_tags_whole(written: str, closing: str) -> None:
    thoughts = template("think").thoughts
    assert thoughts is not None and thoughts.closing(written) == closing


def test_what_stands_before_the_first_word() -> None:
    leads = {name: made.lead for name, made in TEMPLATES.items()}
    assert leads == {
        **{"chat": " ", "robot": " ", "raven": " ", "none": ""},
        **{"think": ">\n", "think-fast": ">\n"},
    }
