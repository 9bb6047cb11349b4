"""Calibration documents are pieces of a text, or written by the model."""

from __future__ import annotations

import pytest

from converters.calibrate.documents import LONGEST_SAMPLE, PIECE, choose_documents, sample_documents
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
