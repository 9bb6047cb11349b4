"""Calibration documents are pieces of a text, or written by the model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.calibrate import calibration
from converters.calibrate.documents import (
    LONGEST_SAMPLE,
    PIECE,
    WIDTHS,
    break_lines,
    choose_documents,
    sample_documents,
)
from tinyrwkv.errors import ArgumentError


def test_documents_of_a_text(load, compiled):
    model = load(compiled)
    text = "\n<|doc|>\n".join(f"ab {i} " * 700 for i in range(8))
    documents = choose_documents(model, text, tokens=3000, seed=1)
    assert sum(map(len, documents)) == 3000
    decoded = [model.tokenizer.decode(ids[1:]) for ids in documents]
    assert all(ids[0] == 0 for ids in documents)
    assert all(len(piece) <= PIECE and piece in text for piece in decoded)
    assert documents == choose_documents(model, text, tokens=3000, seed=1)
    assert documents != choose_documents(model, text, tokens=3000, seed=2)


def test_a_model_writes_its_own_documents(load, compiled):
    model = load(compiled)
    documents = sample_documents(model, 300, seed=1)
    assert 300 <= sum(map(len, documents)) <= 302
    assert all(ids[0] == 0 and len(ids) <= LONGEST_SAMPLE + 1 for ids in documents)
    assert documents == sample_documents(model, 300, seed=1)
    assert documents != sample_documents(model, 300, seed=2)


def test_a_text_with_nothing_in_it_is_refused(load, compiled):
    with pytest.raises(ArgumentError, match="the calibration text is empty"):
        choose_documents(load(compiled), " \n")


@given(st.text(alphabet="ab \n\t-", max_size=300), st.integers(1, 40))
def test_broken_lines_have_the_same_words_and_fit_the_width(text, width):
    broken = break_lines(text, width)
    assert broken.split() == text.split()
    for line in broken.split("\n"):
        assert len(line) <= width or len(line.split()) == 1
    if all(len(line) <= width for line in text.split("\n")):
        assert broken == text


def test_a_quarter_of_the_text_to_fit_to_has_broken_lines(load, compiled):
    model = load(compiled)
    pieces = [f"{name} " + "one two three four five " * 20 for name in "abcdefghijklmnop"]

    def make(seed: int) -> calibration.Calibration:
        text = "\n<|doc|>\n".join(pieces)
        return calibration.make(model, "text", text, seed, lambda *step: None)

    found = make(1)
    fit = [model.tokenizer.decode(ids[1:]) for ids in found.fit]
    held_out = [model.tokenizer.decode(ids[1:]) for ids in found.held_out]
    broken = [text for text in fit if text.rstrip().count("\n")]
    assert 4 * len(broken) in range(len(fit), len(fit) + 4)
    assert all(len(line) <= max(WIDTHS) for text in broken for line in text.split("\n"))
    assert not any(text.rstrip().count("\n") for text in held_out)
    assert sorted(" ".join(text.split()) for text in fit + held_out) == sorted(
        text.strip() for text in pieces
    )
    assert found == make(1) != make(2)
