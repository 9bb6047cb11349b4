"""Patterns of numbers: every number between the bounds in its one form, and nothing else."""

from __future__ import annotations

import math
import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyrwkv import ArgumentError
from tinyrwkv.constraints.numbers import pattern
from tinyrwkv.constraints.numbers import units as pattern_of_units

units = st.integers(-3000, 3000) | st.integers(-(10**12), 10**12)


def plain(number: int, decimals: int) -> str:
    """Return a number of units of the last decimal as it is written by hand."""
    return format(Decimal(number).scaleb(-decimals).normalize(), "f") if number else "0"


@given(units, units, st.integers(0, 3), st.lists(units, max_size=3), st.integers(0, 100))
def test_numbers_between_the_bounds_match(one, other, decimals, more, share):
    low, high = min(one, other), max(one, other)
    bounds = (float(Decimal(low).scaleb(-decimals)), float(Decimal(high).scaleb(-decimals)))
    found = re.compile(pattern(*bounds, decimals))
    for number in {low, high, low - 1, high + 1, 0, low + (high - low) * share // 100, *more}:
        text = plain(number, decimals)
        assert bool(found.fullmatch(text)) == (low <= number <= high), text
        for wrong in (
            "0" + text,
            text + "0" if "." in text else text + ".0",
            "+" + text,
            text + ".",
            "",
        ):
            assert (
                not found.fullmatch(wrong)
                or wrong.startswith("0.")
                or wrong == text + "0" == plain(10 * number, 0)
            )


@given(units, units, st.integers(0, 3), st.lists(units, max_size=3), st.integers(0, 3))
def test_numbers_with_zeros_at_their_end_match(one, other, decimals, more, zeros):
    low, high = min(one, other), max(one, other)
    found = re.compile(pattern_of_units(low, high, decimals, zeros=True))
    for number in {low, high, low - 1, high + 1, 0, *more}:
        text = plain(number, decimals)
        whole, _, fraction = text.partition(".")
        longer = fraction.ljust(min(len(fraction) + zeros, decimals), "0")
        text = f"{whole}.{longer}" if longer else whole
        assert bool(found.fullmatch(text)) == (low <= number <= high), text


@given(st.text("0123456789.-", max_size=6))
def test_what_matches_is_a_number_in_its_one_form(text):
    if re.fullmatch(pattern(-20, 20, 2), text):
        assert -20 <= float(text) <= 20 and text == plain(int(Decimal(text) * 100), 2)


@pytest.mark.parametrize(
    "bounds",
    [
        (2, 1),
        (0.1, 0.9, 0),
        (math.nan, 1),
        (0, math.inf),
        (-1e16, 0),
        ("a", 1),
        (0, 1, 20),
        (None, 1),
        (0, 1, None),
        (0, 1, -1),
        (10**5000, 1),
    ],
)
def test_bounds_with_no_number_between_them_are_refused(bounds):
    with pytest.raises(ArgumentError, match=r"bounds|decimals"):
        pattern(*bounds)


def test_wide_bounds_are_short():
    assert len(pattern(-(10**15) + 1, 10**15 - 1)) < 300
    assert len(pattern(-99999.123456, 1234567.654321, 6)) < 1500
