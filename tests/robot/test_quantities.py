"""Numbers and units as they are spoken, in metres, degrees and seconds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyrwkv.robot.quantities import SMALL, TENS, quantities
from tinyrwkv.robot.words import tokens


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("two and a half meters", [2.5]),
        ("half a meter forward", [0.5]),
        ("minus five degrees", [-5]),
        ("three quarters of a turn", [270]),
        ("6'1\"", [1.8542]),
        ("six foot one", [1.8542]),
        ("four metres eighty", [4.8]),
        ("1 min 30 s", [90]),
        ("an hour and a half", [5400]),
        ("one and three quarter miles", [2816.352]),
        ("half a dozen feet", [1.8288]),
        ("do a one eighty", [180]),
        ("a quarter turn left", [90]),
        ("2\u00bd m", [2.5]),
        ("1,000 mm", [1]),
        ("two hundred and five cm", [2.05]),
        ("three point one four meters", [3.14]),
        ("three point seventy-five m", [3.75]),
        ("a full circle", [360]),
        ("the second door", []),
        ("18 in back", [0.4572]),
        ("2 in the kitchen", [2]),
        ("quarter of an hour", [900]),
        ("forty-five degrees and then 3 yards", [45, 2.7432]),
        ("five hundredths of a meter", [0.05]),
        ("three thousand two hundred and one mm", [3.201]),
        ("a turn to the left", []),
        ("90\u00b0", [90]),
        ("twice", [2]),
        ("1 inch and half an hour", [0.0254, 1800]),
        ("2 metres and a quarter of a turn", [2, 90]),
    ],
)
def test_spoken_numbers(text, values):
    assert [one.value for one in quantities(tokens(text))] == pytest.approx(values)


@given(st.integers(0, 999), st.sampled_from(["and ", ""]))
def test_every_number_below_a_thousand_is_read_in_words(number, joint):
    hundreds, rest = divmod(number, 100)
    names = {value: word for word, value in (SMALL | TENS).items()}
    said = names.get(rest) or f"{names[rest // 10 * 10]}-{names[rest % 10]}"
    if hundreds:
        said = f"{names[hundreds]} hundred" + (f" {joint}{said}" if rest else "")
    assert [one.value for one in quantities(tokens(f"go {said} metres"))] == [number]
