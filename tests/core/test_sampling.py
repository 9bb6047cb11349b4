"""The sampler: each truncation against its definition, penalties, bias, seeds, limits, memory."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tinyrwkv import sampling
from tinyrwkv.errors import ArgumentError, TinyRWKVError
from tinyrwkv.sampling import MOST_IDS, Sampler

# Few different values give ties, the others a spread. A constraint sets -inf, but never everywhere.
tied_logits = arrays(
    np.float32, st.integers(1, 50), elements=st.sampled_from([-2.0, 0.0, 1.0, 1.5, -math.inf])
).filter(lambda logits: math.isfinite(logits.max()))
some_logits = st.one_of(
    tied_logits,
    arrays(np.float32, st.integers(1, 300), elements=st.floats(-20, 20, width=32)),
    arrays(np.float32, st.integers(1, 20), elements=st.floats(-(2**100), 2**100, width=32)),
).filter(lambda logits: math.isfinite(logits.max()))

options = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.3, 1.0, 2.5]),
        "top_k": st.sampled_from([0, 1, 2, 5, 40]),
        "top_p": st.sampled_from([0.0, 0.3, 0.9, 0.999, 1.0]),
        "min_p": st.sampled_from([0.0, 0.05, 0.5, 1.0]),
        "presence_penalty": st.sampled_from([0.0, 0.5]),
        "frequency_penalty": st.sampled_from([0.0, 0.7]),
        "repetition_penalty": st.sampled_from([1.0, 1.3]),
        "seed": st.integers(0, 2**64 - 1),
    }
)


def softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    weights = np.exp(wide - wide.max())
    return weights / weights.sum()


def zipf(size: int = 2000) -> np.ndarray:
    """Logits of a peaked distribution with a long tail, in mixed order."""
    return (
        np.random.default_rng(3)
        .permutation(-1.2 * np.log(np.arange(1, size + 1)))
        .astype(np.float32)
    )


@given(some_logits, options)
def test_logits_are_never_changed(logits: np.ndarray, setting: dict[str, Any]) -> None:
    before = logits.tobytes()
    logits.flags.writeable = False
    sampler = Sampler(**setting, logit_bias={0: 1.0})
    for _ in range(3):
        sampler.accept(sampler.sample(logits)[0])
        sampler.probabilities(logits)
        sampler.top(logits)
    assert logits.tobytes() == before


@given(some_logits, options)
def test_sampled_token_has_a_probability(logits: np.ndarray, setting: dict[str, Any]) -> None:
    sampler = Sampler(**setting)
    for _ in range(3):
        chances = sampler.probabilities(logits)
        assert chances.dtype == np.float32 and chances.shape == logits.shape
        assert chances.min() >= 0 and abs(float(chances.sum(dtype=np.float64)) - 1) < 1e-5
        token, logprob = sampler.sample(logits)
        assert chances[token] > 0 and type(token) is int and type(logprob) is float
        sampler.accept(token)


@given(some_logits, options)
def test_same_seed_same_tokens(logits: np.ndarray, setting: dict[str, Any]) -> None:
    one, other = Sampler(**setting), Sampler(**setting)
    for _ in range(10):
        token, logprob = one.sample(logits)
        assert other.sample(logits) == (token, logprob)
        one.accept(token)
        other.accept(token)


def test_other_seeds_other_tokens() -> None:
    logits = zipf()
    runs = {tuple(draw(Sampler(seed=seed), logits, 5)) for seed in (1, 2, 3, None, None)}
    assert len(runs) == 5


def draw(sampler: Sampler, logits: np.ndarray, n: int) -> list[int]:
    return [sampler.sample(logits)[0] for _ in range(n)]


@given(
    some_logits,
    st.sampled_from([{"temperature": 0}, {"top_k": 1}, {"temperature": 0.5, "top_p": 0}]),
)
@example(np.array([15] + 117 * [0], np.float32), {"temperature": 0})  # 117 times 3e-7 beside 1
def test_greedy_is_argmax(logits: np.ndarray, setting: dict[str, Any]) -> None:
    sampler = Sampler(**setting)
    token, logprob = sampler.sample(logits)
    assert token == int(np.argmax(logits))
    assert math.isclose(logprob, math.log(softmax(logits)[token]), rel_tol=1e-5, abs_tol=1e-6)
    assert sampler.probabilities(logits)[token] == 1


@given(some_logits, options)
def test_logprob_is_that_of_the_logits_as_given(
    logits: np.ndarray, setting: dict[str, Any]
) -> None:
    sampler = Sampler(**setting, logit_bias={0: 2.0})
    token, logprob = sampler.sample(logits)
    with np.errstate(divide="ignore"):
        expected = (
            float(logits[token])
            - float(logits.max())
            - math.log(np.exp(logits - logits.max()).sum(dtype=float))
        )
    assert math.isclose(logprob, expected, rel_tol=1e-4, abs_tol=1e-5)


@given(some_logits, st.floats(0.05, 10))
def test_temperature_divides_the_logits(logits: np.ndarray, temperature: float) -> None:
    with np.errstate(over="ignore"):
        expected = softmax(logits.astype(np.float64) / temperature)
    np.testing.assert_allclose(
        Sampler(temperature=temperature).probabilities(logits), expected, atol=1e-5
    )


@given(some_logits, st.integers(1, 60))
def test_top_k_keeps_the_k_largest(logits: np.ndarray, k: int) -> None:
    kept = np.sort(Sampler(top_k=k).probabilities(logits))[::-1]
    expected = softmax(np.sort(logits)[::-1][:k])
    np.testing.assert_allclose(kept[:k], expected, atol=1e-6)
    assert not kept[k:].any()


@given(tied_logits, st.integers(1, 60))
def test_lowest_ids_come_first_among_equals(logits: np.ndarray, k: int) -> None:
    order = np.argsort(-logits, kind="stable")[:k]
    allowed = order[np.isfinite(logits[order])]
    assert set(np.flatnonzero(Sampler(top_k=k).probabilities(logits))) == set(allowed)
    assert [token for token, _ in Sampler().top(logits, k)] == order.tolist()


@given(some_logits, st.floats(0, 0.9999), st.sampled_from([0, 3]))
def test_top_p_keeps_the_fewest_that_have_the_mass(
    logits: np.ndarray, top_p: float, top_k: int
) -> None:
    whole = Sampler(top_k=top_k).probabilities(logits).astype(np.float64)
    kept = Sampler(top_p=top_p, top_k=top_k).probabilities(logits) > 0
    assert whole[kept].sum() >= top_p - 1e-6
    least = whole[kept].min()
    assert np.all(whole[~kept] <= least)
    if kept.sum() > 1:
        assert whole[kept].sum() - least <= top_p + 1e-6


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.99, 0.9999])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0, 100.0])
def test_top_p_of_a_large_vocabulary(top_p: float, temperature: float) -> None:
    logits = zipf()
    whole = Sampler(temperature=temperature).probabilities(logits).astype(np.float64)
    chances = Sampler(temperature=temperature, top_p=top_p).probabilities(logits)
    count = int(np.searchsorted(np.cumsum(np.sort(whole)[::-1]), top_p)) + 1
    assert abs(int((chances > 0).sum()) - count) <= 1
    np.testing.assert_allclose(
        chances[chances > 0], (whole / whole[chances > 0].sum())[chances > 0], rtol=1e-4
    )


@given(some_logits, st.floats(0, 1), st.sampled_from([{}, {"top_k": 1000}]))
def test_min_p_keeps_what_is_near_the_largest(
    logits: np.ndarray, min_p: float, setting: dict[str, Any]
) -> None:
    chances = softmax(logits)
    kept = Sampler(min_p=min_p, **setting).probabilities(logits) > 0
    assert np.all(kept[chances >= min_p * chances.max() * (1 + 1e-5) + 1e-30])
    assert not np.any(kept[chances < min_p * chances.max() * (1 - 1e-5)])


def test_min_p_comes_after_top_k_and_top_p() -> None:
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))
    for setting in ({"top_k": 3}, {"top_p": 0.8}):
        assert (Sampler(**setting, min_p=0.6).probabilities(logits) > 0).tolist() == [
            True,
            True,
            False,
            False,
        ]
    # min-p first would leave 4/7 and 3/7, and of those top-p 0.5 only the first
    assert (Sampler(top_p=0.5, min_p=0.6).probabilities(logits) > 0).tolist() == [
        True,
        True,
        False,
        False,
    ]


def test_top_p_comes_after_top_k_and_temperature() -> None:
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))
    # top-k leaves 4/7 and 3/7: 0.5 of that is the first alone, though 0.4 of the whole would not
    # reach 0.5
    assert list(Sampler(top_k=2, top_p=0.5).probabilities(logits)) == [1, 0, 0, 0]
    # squared, the first two have 25/30 of the probability instead of 7/10
    assert (Sampler(temperature=0.5, top_p=0.8).probabilities(logits) > 0).tolist() == [
        True,
        True,
        False,
        False,
    ]
    assert (Sampler(temperature=1.0, top_p=0.8).probabilities(logits) > 0).tolist() == [
        True,
        True,
        True,
        False,
    ]


def test_penalties_follow_their_formula() -> None:
    logits = np.array([2.0, -1.0, 0.5, 3.0], np.float32)
    sampler = Sampler(
        presence_penalty=0.2, frequency_penalty=0.3, repetition_penalty=1.5, penalty_decay=0.9
    )
    for token in (0, 1, 0):
        sampler.accept(token)
    counts = np.array([0.9**2 + 1, 0.9, 0, 0])
    expected = np.array([2 / 1.5, -1 * 1.5, 0.5, 3.0]) - (0.2 * (counts > 0) + 0.3 * counts)
    np.testing.assert_allclose(sampler.probabilities(logits), softmax(expected), rtol=1e-5)
    sampler.reset()
    np.testing.assert_allclose(sampler.probabilities(logits), softmax(logits), rtol=1e-5)


@pytest.mark.parametrize("decay", [0.01, 0.5, 0.996, 1.0])
def test_counts_stay_right_over_many_tokens(decay: float) -> None:
    sampler = Sampler(frequency_penalty=1.0, presence_penalty=2.0, penalty_decay=decay)
    counts, seen = np.zeros(50), np.zeros(50)
    for token in np.random.default_rng(0).integers(0, 40, 12_000).tolist():
        sampler.accept(token)
        counts *= decay
        counts[token] += 1
        seen[token] = 1
    logits = np.linspace(0, 1, 50).astype(np.float32)
    expected = softmax(logits - 2 * seen - counts)
    np.testing.assert_allclose(sampler.probabilities(logits), expected, rtol=2e-4, atol=1e-30)


def test_greedy_with_penalty_leaves_a_loop() -> None:
    logits = np.array([1.0, 0.9, 0.0], np.float32)
    sampler, tokens = Sampler(temperature=0, frequency_penalty=0.3), []
    for _ in range(4):
        tokens.append(sampler.sample(logits)[0])
        sampler.accept(tokens[-1])
    assert tokens == [0, 1, 0, 1]


def test_bias_bans_and_prefers() -> None:
    logits = zipf(50)
    best = int(logits.argmax())
    sampler = Sampler(logit_bias={best: -math.inf, 7: 1.0}, seed=1)
    chances = sampler.probabilities(logits)
    assert chances[best] == 0 and best not in draw(sampler, logits, 500)
    biased = logits.astype(np.float64)
    biased[best], biased[7] = -np.inf, biased[7] + 1
    np.testing.assert_allclose(chances, softmax(biased), rtol=1e-5)
    assert Sampler(temperature=0, logit_bias={9: 100.0}).sample(logits)[0] == 9


def test_only_allowed_tokens_are_drawn() -> None:
    logits = np.full(1000, -np.inf, np.float32)
    logits[[3, 500]] = [1.0, 2.0]
    for setting in (
        {},
        {"top_k": 5},
        {"top_p": 0.999},
        {"top_k": 900, "top_p": 0.9999},
        {"min_p": 0.01},
    ):
        sampler = Sampler(**setting, seed=2)
        assert set(draw(sampler, logits, 200)) == {3, 500}
        assert np.count_nonzero(sampler.probabilities(logits)) == 2
    logits[3] = -np.inf
    assert Sampler(seed=1).sample(logits) == (500, 0.0)
    assert Sampler(temperature=0).sample(logits) == (500, 0.0)


class Fixed:
    """A generator of one number."""

    def __init__(self, number: float) -> None:
        self.number = number

    def random(self) -> float:
        """Return it."""
        return self.number


@pytest.mark.parametrize(("number", "token"), [(0.0, 1), (math.nextafter(1, 0), 2)])
@pytest.mark.parametrize("setting", [{}, {"top_k": 3}, {"top_p": 0.9999999}])
def test_extreme_random_numbers_draw_allowed_tokens(
    monkeypatch: pytest.MonkeyPatch, number: float, token: int, setting: dict[str, Any]
) -> None:
    logits = np.array([-math.inf, 0.5, 0.0, -math.inf], np.float32)
    monkeypatch.setattr(sampling, "Random", lambda seed: Fixed(number))
    assert Sampler(**setting).sample(logits)[0] == token


def _weights(size: int, rows: int, seed: int, zeros: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    weights = np.exp(rng.normal(0, 5, size)).astype(np.float32)
    weights[rng.random(size) < zeros] = 0
    weights[rng.integers(0, rows, size // 256 + 1).repeat(256)[:size] == 0] = 0
    weights[rng.integers(size)] = 1
    return weights


# Sums are made in rows of 256: some of them empty, some of one weight, the last one short.
many_weights = st.builds(
    _weights,
    st.sampled_from([1, 2, 255, 256, 257, 512, 1000, 5000]),
    st.integers(1, 20),
    st.integers(0, 2**32 - 1),
    st.floats(0, 0.999),
)


@given(
    many_weights, st.floats(0, 1, exclude_max=True) | st.sampled_from([0.0, math.nextafter(1, 0)])
)
def test_a_place_is_drawn_by_its_share(weights: np.ndarray, share: float) -> None:
    place, sums = sampling.draw(weights, share), np.cumsum(weights, dtype=np.float64)
    rounding = 1e-12 * sums[-1]
    assert weights[place] > 0
    assert sums[place] - weights[place] - rounding <= share * sums[-1] <= sums[place] + rounding


@pytest.mark.parametrize(
    "setting", [{}, {"top_k": 20}, {"top_p": 0.8}, {"temperature": 0.7, "min_p": 0.02}]
)
def test_frequencies_match_probabilities(setting: dict[str, Any]) -> None:
    logits, n = zipf(60), 20_000
    sampler = Sampler(**setting, seed=11)
    chances = sampler.probabilities(logits).astype(np.float64)
    drawn = np.bincount(draw(sampler, logits, n), minlength=60)
    expected = n * chances
    assert not drawn[expected == 0].any()
    likely = expected > 0
    chi2 = float((((drawn - expected) ** 2)[likely] / expected[likely]).sum())
    freedom = int(likely.sum()) - 1
    assert chi2 < freedom + 4 * math.sqrt(2 * freedom)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([math.nan, 1.0], "nan at id 0"),
        ([1.0, math.nan, -math.inf], "nan at id 1"),
        ([1.0, math.inf], "inf at id 1"),
        ([-math.inf, -math.inf], "no token is allowed"),
    ],
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_impossible_logits_are_named(wrong: list[float], message: str, temperature: float) -> None:
    sampler = Sampler(temperature=temperature)
    for method in (sampler.sample, sampler.probabilities, sampler.top):
        with pytest.raises(TinyRWKVError, match=message):
            method(np.array(wrong, np.float32))


def test_banning_every_token_is_named() -> None:
    with pytest.raises(TinyRWKVError, match="no token is allowed"):
        Sampler(logit_bias={0: -math.inf, 1: -math.inf}).sample(np.zeros(2, np.float32))


@pytest.mark.parametrize("shape", [(0,), (2, 3), ()])
def test_logits_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError, match="pass one row"):
        Sampler().sample(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("temperature", value) for value in (-0.1, math.nan, math.inf, 1e5, "hot", None)),
        *(("top_k", value) for value in (-1, 1.5, None, MOST_IDS)),
        *(("top_p", value) for value in (-0.1, 1.1, math.nan)),
        *(("min_p", value) for value in (-0.1, 1.1, math.nan)),
        *(("presence_penalty", value) for value in (math.nan, math.inf)),
        *(("frequency_penalty", value) for value in (math.nan, -math.inf)),
        *(("repetition_penalty", value) for value in (0, -1, math.nan)),
        *(("penalty_decay", value) for value in (0, 1.1, math.nan)),
        *(("seed", value) for value in (-1, 1.5, 2**64)),
        *(
            ("logit_bias", value)
            for value in (5, [1], {-1: 0.0}, {1.5: 0.0}, {"a": 0.0}, {1: math.nan}, {1: math.inf})
        ),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: object) -> None:
    with pytest.raises(ArgumentError, match=r"^Sampler: .* must be .*, not ") as caught:
        Sampler(**{name: value})  # type: ignore[arg-type]
    assert caught.value.object == name


@pytest.mark.parametrize("token", [-1, MOST_IDS, 1.5, "a", None])
def test_accept_refuses_what_is_no_id(token: int) -> None:
    with pytest.raises(ArgumentError, match="token"):
        Sampler().accept(token)


@pytest.mark.parametrize("setting", [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 0.0}])
def test_a_setting_may_change_between_tokens(setting: dict[str, float]) -> None:
    logits, sampler = np.array([0, 0.1, 0], np.float32), Sampler(seed=1)
    assert len(set(draw(sampler, logits, 30))) == 3
    for name, value in setting.items():
        setattr(sampler, name, value)
    assert set(draw(sampler, logits, 30)) == {1}


def test_bias_beyond_the_logits_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"largest id in logit_bias must be below 5, .*, not 5"):
        Sampler(logit_bias={5: 1.0}).sample(np.zeros(5, np.float32))


def test_tokens_may_be_accepted_before_the_first_logits() -> None:
    sampler = Sampler(temperature=0, presence_penalty=1.0)
    for token in (2, 5, 900):  # 900 is beyond these logits: it plays no part
        sampler.accept(token)
    assert sampler.sample(np.array([0, 0, 0.5, 0, 0.1, 0.5], np.float32))[0] == 4


def test_copy_is_independent_and_goes_on_alike() -> None:
    logits = zipf()
    one = Sampler(seed=5, frequency_penalty=0.5)
    for token in draw(one, logits, 10):
        one.accept(token)
    other = one.copy()
    np.testing.assert_array_equal(one.probabilities(logits), other.probabilities(logits))
    tokens = draw(one, logits, 20)
    assert draw(other, logits, 20) == tokens
    other.accept(1)
    other.reset()
    assert one.probabilities(logits)[tokens[0]] != other.probabilities(logits)[tokens[0]]


def test_copies_without_a_seed_differ() -> None:
    logits, one = zipf(), Sampler()
    one.sample(logits)
    assert draw(one.copy(), logits, 8) != draw(one.copy(), logits, 8)


def test_reset_goes_on_with_the_random_numbers() -> None:
    logits, one, other = zipf(), Sampler(seed=1), Sampler(seed=1)
    first = draw(one, logits, 8)
    one.reset()
    assert first + draw(one, logits, 8) == draw(other, logits, 16)


@given(some_logits, st.integers(1, 12))
def test_top_lists_the_most_probable(logits: np.ndarray, n: int) -> None:
    listed = Sampler(temperature=3.0, logit_bias={0: -5.0}).top(logits, n)
    tokens, chances = [token for token, _ in listed], [chance for _, chance in listed]
    assert len(set(tokens)) == len(tokens) == min(n, logits.size)
    np.testing.assert_allclose(chances, softmax(logits)[tokens], rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(chances, np.sort(softmax(logits))[::-1][:n], rtol=1e-4, atol=1e-9)


@settings(max_examples=30)
@given(some_logits, options)
@example(np.array([0, 0, -100], np.float32), {})
def test_floating_point_settings_of_the_program_do_not_matter(
    logits: np.ndarray, setting: dict[str, Any]
) -> None:
    with np.errstate(all="raise"):
        sampler = Sampler(**setting)
        sampler.accept(sampler.sample(logits)[0])
        sampler.sample(logits)
        sampler.probabilities(logits)
        sampler.top(logits)


@pytest.mark.parametrize(
    "setting",
    [
        {"temperature": 0.0},
        {},
        {"top_k": 40, "top_p": 0.9, "frequency_penalty": 0.2, "logit_bias": {1: 1.0}},
    ],
)
def test_memory_does_not_grow(setting: dict[str, Any]) -> None:
    logits, sampler = zipf(500), Sampler(**setting, seed=1)

    def run(n: int) -> None:
        for _ in range(n):
            sampler.accept(sampler.sample(logits)[0])

    sampler.accept(499)
    run(200)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    run(10_000)
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (
        after - before < 100_000 and peak - before < 200_000
    )  # not ten bytes a token; NumPy keeps small blocks
