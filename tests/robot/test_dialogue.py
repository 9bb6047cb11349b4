"""Words that need no model: yes is yes, and an order may be for later."""

from __future__ import annotations

import pytest

from tinyrwkv.robot.dialogue import YES, says_yes, split_later

ORDERS = (
    *(
        "right",
        "Right.",
        "turn right",
        "yes, turn right",
        "left",
        "go ahead",
        "ahead",
        "go",
        "go on",
    ),
    *("no", "", "?", "yes and no", "do it again", "stop", "yesterday", "ok go to the kitchen"),
)


@pytest.mark.parametrize(
    "text", [*sorted(YES), "Yes!", " YES, please. ", "Okay...", "That\u2019s correct"]
)
def test_yes(text):
    assert says_yes(text)


@pytest.mark.parametrize("text", ORDERS)
def test_what_may_be_an_order_is_no_yes(text):
    assert not says_yes(text)


@pytest.mark.parametrize(
    ("text", "later", "order"),
    [
        ("then turn left", True, "turn left"),
        ("Then, turn left!", True, "turn left!"),
        ("and then please turn left", True, "please turn left"),
        ("ok, after that go home", True, "go home"),
        ("afterwards dock", True, "dock"),
        ("next: take a picture", True, "take a picture"),
        ("when you are done, dock", True, "dock"),
        ("dock when you're done", True, "dock"),
        ("turn left after that.", True, "turn left"),
        ("take a picture next", True, "take a picture"),
        ("turn left", False, "turn left"),
        ("turn left and then go forward", False, "turn left and then go forward"),
        ("turn left, after that go forward", False, "turn left, after that go forward"),
        ("next to the table", False, "next to the table"),
        ("thence", False, "thence"),
        ("then", True, ""),
        ("", False, ""),
    ],
)
def test_later(text, later, order):
    assert split_later(text) == (later, order)
