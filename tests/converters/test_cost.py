"""Bytes that tokens read and pages they map."""

from __future__ import annotations

import numpy as np
import pytest

from converters.calibrate.probe import Probe
from converters.judge import cost
from tinyrwkv import load


def read_by(model, ids):
    """Return the bytes of value rows of neurons that fire, for all tokens, as a probe sees them."""
    fired = []
    names = [f"blocks.{i}.ffn.key.weight" for i in range(model.config["n_layer"])]
    Probe(
        model,
        outputs={name: lambda hidden: fired.append(np.count_nonzero(hidden)) for name in names},
    ).read(ids)
    return sum(fired) * model.config["n_embd"]


def test_bytes_of_chosen_weights(load, compiled):
    model = load(compiled, "v5.2", "int8", form="compressed")
    ids = [0, *range(60, 80)]
    before = cost.chosen_bytes(model)
    model.forward(ids)
    found = cost.chosen_bytes(model) - before
    # a few neurons round to 0 on their way to int16
    assert found == pytest.approx(read_by(model, ids), rel=0.02)
    assert found > 0
    assert cost.chosen_bytes(load(compiled, "v5.2")) == 0


@pytest.mark.parametrize("form", ["dense", "compressed", "predicted"])
def test_a_cold_start(tiny, linux, form):
    path = tiny("v5.2", "int8", form)
    every = load(path).plan()["touched_bytes_per_token"]
    found = cost.sample_cold(path, tokens=5)
    assert (found.touched > every) if form != "dense" else (found.touched == every)
    with cost.cold(path) as model:
        assert 0 < found.resident <= -(-len(model.file.bytes) // 4096) * 4096
    assert cost.sample_cold(path, tokens=5).touched == found.touched


def test_pages_of_one_token(tiny, linux):
    one, many = (
        cost.pages_per_token(tiny("v5.2"), 2),
        cost.sample_cold(tiny("v5.2"), 20).resident,
    )
    assert 0 < one <= many
