"""Numbers that a caller gives: of Python or of NumPy alike, and never truth values or texts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import tinyrwkv
from tinyrwkv import ArgumentError, Sampler
from tinyrwkv.arguments import real_number, whole_number

TINY_LOGITS = np.zeros(4, np.float32)

WHOLE: dict[str, Callable[[tinyrwkv.Model, Any], object]] = {
    "threads": lambda model, value: tinyrwkv.load(model.path, backend="numpy", threads=value),
    "resident_limit": lambda model, value: tinyrwkv.load(
        model.path, backend="numpy", resident_limit=value
    ),
    "max_tokens": lambda model, value: model.generate([1], max_tokens=value),
    "top_k": lambda model, value: Sampler(top_k=value),
    "seed": lambda model, value: Sampler(seed=value),
    "logit_bias": lambda model, value: Sampler(logit_bias={value: 0.0}),
    "n": lambda model, value: Sampler().top(TINY_LOGITS, value),
    "token": lambda model, value: Sampler().accept(value),
    "tokens": lambda model, value: model.forward(value),
    "tokens in a list": lambda model, value: model.forward([1, value]),
    "tokens of a prompt": lambda model, value: model.generate([1, value]),
    "token of a tokenizer": lambda model, value: model.tokenizer.token_bytes(value),
}
REAL: dict[str, Callable[[tinyrwkv.Model, Any], object]] = {
    "deadline": lambda model, value: model.generate([1], deadline=value),
    "timeout": lambda model, value: model.generate([1], timeout=value),
    "temperature": lambda model, value: Sampler(temperature=value),
    "top_p": lambda model, value: Sampler(top_p=value),
    "min_p": lambda model, value: Sampler(min_p=value),
    "presence_penalty": lambda model, value: Sampler(presence_penalty=value),
    "frequency_penalty": lambda model, value: Sampler(frequency_penalty=value),
    "repetition_penalty": lambda model, value: Sampler(repetition_penalty=value),
    "penalty_decay": lambda model, value: Sampler(penalty_decay=value),
    "logit_bias": lambda model, value: Sampler(logit_bias={1: value}),
}


NOT_WHOLE = (True, False, np.True_, "1", b"1", 1.5, np.float32(1), None)
MEANINGFUL = {"seed": None, "resident_limit": None}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name in WHOLE
        for value in NOT_WHOLE
        if not (name in MEANINGFUL and value is MEANINGFUL[name])
    ],
)
def test_what_is_no_whole_number_is_refused(load, name, value):
    with pytest.raises(ArgumentError, match=name.split(maxsplit=1)[0]):
        WHOLE[name](load("numpy"), value)


@pytest.mark.parametrize("value", [True, False, np.True_, "1", b"1", [1], 1j])
@pytest.mark.parametrize("name", REAL)
def test_what_is_no_number_is_refused(load, name, value):
    with pytest.raises(ArgumentError, match=name):
        REAL[name](load("numpy"), value)


@pytest.mark.parametrize("kind", [int, np.int64, np.int8, np.uint16])
@pytest.mark.parametrize("name", [name for name in WHOLE if name != "resident_limit"])
def test_integers_of_numpy_are_whole_numbers(load, name, kind):
    WHOLE[name](load("numpy"), kind(1))


@pytest.mark.parametrize("kind", [int, float, np.float64, np.float32, np.int64, Fraction])
@pytest.mark.parametrize("name", REAL)
def test_numbers_of_any_kind_are_numbers(load, name, kind):
    number = int(time.monotonic()) + 60 if name == "deadline" else 1
    REAL[name](load("numpy"), kind(number))


@pytest.mark.usefixtures("linux")
def test_a_limit_may_be_an_integer_of_numpy(load):
    model = load("numpy")
    size = model.plan()["file_bytes"]
    limited = tinyrwkv.load(model.path, backend="numpy", resident_limit=np.int64(2 * size))
    assert type(limited.resident_limit) is int and limited.resident_limit == 2 * size


def test_integers_of_numpy_count_the_same_tokens(load):
    model = load("numpy")
    sampler = Sampler(temperature=0, logit_bias={0: -math.inf})
    generation = model.generate([1], sampler=sampler, max_tokens=np.int64(3))
    assert len(list(generation)) == 3
    assert type(generation.max_tokens) is int


def test_a_range_includes_its_ends():
    assert [whole_number("f", "x", value, 1, 3) for value in (1, 2, 3)] == [1, 2, 3]
    assert real_number("f", "x", -math.inf) == -math.inf
    for value in (0, 4):
        with pytest.raises(
            ArgumentError, match=f"f: x must be a whole number from 1 to 3, not {value}; "
        ):
            whole_number("f", "x", value, 1, 3)
    with pytest.raises(ArgumentError, match=r"a number from 0 to 10,000, not 100000\.0; "):
        real_number("f", "x", 1e5, 0, 1e4)
    with pytest.raises(ArgumentError, match="a whole number of at least 0, not -1; raise it"):
        whole_number("f", "x", -1, fix="raise it")
    with pytest.raises(ArgumentError, match="a number within the range of a float, not nan; "):
        real_number("f", "x", math.nan)


def test_a_long_value_is_cut_in_the_message():
    with pytest.raises(ArgumentError) as caught:
        whole_number("f", "x", [0] * 1000)
    assert len(str(caught.value)) < 200
