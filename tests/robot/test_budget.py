"""How far a robot may go within some time: never more, however its motion is spread."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyrwkv.errors import ArgumentError
from tinyrwkv.robot.budget import Budget, Motion

STEPS = st.lists(
    st.tuples(
        st.floats(0, 15),  # metres that somebody asks for
        st.floats(0, 400),  # degrees
        st.integers(0, 30),  # seconds that the robot is given for it
    ),
    max_size=25,
)


@given(STEPS)
def test_no_stretch_of_time_has_more_than_the_budget(steps):
    budget = Budget(metres=10, degrees=360, seconds=20)
    moved: list[tuple[int, Motion]] = []
    now = 0
    for metres, degrees, seconds in steps:
        if budget.objections(Motion(metres, degrees), now):
            continue
        for second in range(1, seconds + 1):  # evenly; what is left at the end is given up
            now += 1
            part = Motion(metres / seconds, degrees / seconds)
            budget.spend(part, now)
            moved.append((now, part))
            assert second <= seconds
    for begin in range(now + 1):
        within = [motion for when, motion in moved if begin <= when <= begin + 20]
        assert sum(motion.metres for motion in within) <= 10 + 1e-5
        assert sum(motion.degrees for motion in within) <= 360 + 1e-5


def test_each_bound_has_its_sentence():
    budget = Budget(metres=1, degrees=90, seconds=5)
    assert budget.objections(Motion(1, 90), 0) == ()
    found = budget.objections(Motion(2, 180), 0)
    assert len(found) == 2 and "1 m are allowed" in found[0] and "90 degrees" in found[1]


def test_time_gives_the_budget_back():
    budget = Budget(metres=10, degrees=10, seconds=5)
    budget.spend(Motion(10, 0), 1.0)
    assert budget.objections(Motion(0.1), 6.0) and not budget.objections(Motion(0.1), 6.1)
    assert budget.spent(7.0) == Motion(0, 0)


def test_a_motion_that_is_no_number_is_refused():
    assert Budget().objections(Motion(float("nan"), 0), 0)
    assert Budget().objections(Motion(0, float("inf")), 0)


@pytest.mark.parametrize("bad", [-1, float("nan"), float("inf"), "1", None, True])
def test_bounds_are_numbers(bad):
    for name in ("metres", "degrees", "seconds"):
        with pytest.raises(ArgumentError):
            Budget(**{name: bad})
