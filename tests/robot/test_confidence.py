"""Confidence: precision against coverage by counting, thresholds that hold what they promise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyrwkv import ArgumentError
from tinyrwkv.robot.confidence import calibrate, curve

answers = st.lists(
    st.tuples(st.sampled_from([-3.0, -2.0, -0.5, -0.1, 0.0]), st.booleans()),
    min_size=1,
    max_size=30,
)


@given(answers)
def test_the_curve_counts(answers):
    points = curve(*zip(*answers, strict=True))
    assert [point.threshold for point in points] == sorted(
        {logprob for logprob, _ in answers}, reverse=True
    )
    for point in points:
        trusted = [right for logprob, right in answers if logprob >= point.threshold]
        assert point.coverage == pytest.approx(len(trusted) / len(answers))
        assert point.precision == pytest.approx(sum(trusted) / len(trusted))


@given(answers, st.floats(0, 1))
def test_a_threshold_has_the_precision_and_the_most_answers(answers, precision):
    logprobs, right = zip(*answers, strict=True)
    good = [point for point in curve(logprobs, right) if point.precision >= precision]
    if good:
        assert calibrate(logprobs, right, precision) == max(good, key=lambda point: point.coverage)
    else:
        with pytest.raises(ArgumentError, match="precision"):
            calibrate(logprobs, right, precision)
