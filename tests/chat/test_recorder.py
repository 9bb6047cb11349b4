"""What a choice of a token was made from can be asked afterwards."""

from __future__ import annotations

import numpy as np

from tinyrwkv.chat.recorder import Recorder


def test_before_the_first_step_nothing_was_likely() -> None:
    assert Recorder().likeliest() == []


def test_the_likeliest_tokens_of_the_last_step_are_told_with_the_chosen_one() -> None:
    recorder = Recorder(temperature=0)
    recorder.sample(np.array([3, 0, 0, 0], np.float32))
    recorder.sample(np.log(np.array([1, 5, 2, 1], np.float32)))
    told = recorder.likeliest(2)
    assert [(token, chosen) for token, _, chosen in told] == [(1, True), (2, False)]
    np.testing.assert_allclose([p for _, p, _ in told], [5 / 9, 2 / 9], rtol=1e-5)


def test_another_setting_draws_the_random_numbers_that_would_have_come() -> None:
    logits = np.zeros(1000, np.float32)
    recorder = Recorder(seed=5)
    recorder.sample(logits)
    other = recorder.with_setting("top_p", 1.0)
    assert [other.sample(logits)[0] for _ in range(5)] == [
        recorder.sample(logits)[0] for _ in range(5)
    ]
