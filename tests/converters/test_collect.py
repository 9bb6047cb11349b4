"""Sums and samples of inputs are what they say."""

from __future__ import annotations

import numpy as np
import pytest

from converters.calibrate.collect import collect, quantize_inputs
from converters.calibrate.probe import Probe
from tests.helpers.tiny_models import VOCAB_SIZE
from tinyrwkv.errors import ArgumentError
from tinyrwkv.program.builder import qmax

IDS = [0, *np.random.default_rng(5).integers(0, VOCAB_SIZE, 36).tolist()]


def test_sums_and_samples_are_those_of_the_inputs(load, compiled):
    model = load(compiled, "v5.2")
    names = ["blocks.0.att.key.weight", "blocks.1.ffn.value.weight", "head.weight"]
    documents = [IDS, IDS[:1], IDS[:20]]
    rows: dict[str, list[np.ndarray]] = {name: [] for name in names}
    probe = Probe(model, {name: listed.append for name, listed in rows.items()})
    for document in documents:
        probe.read(document)
    steps = []
    found = collect(
        model,
        documents,
        moments=names,
        inputs=names,
        counts=names,
        progress=lambda *step: steps.append(step),
    )
    total = sum(map(len, documents))
    assert found.tokens == total
    assert steps[-1] == (total, total)
    for name in names:
        x = np.concatenate(rows[name]).astype(np.float64)
        assert len(x) == total
        np.testing.assert_allclose(
            found.moments[name], x.T @ x / total, atol=1e-5 * np.square(x).sum(axis=1).max()
        )
        q, scale = quantize_inputs(x.astype(np.float32))
        np.testing.assert_array_equal(found.inputs[name], q)
        np.testing.assert_array_equal(found.scales[name], scale)
        np.testing.assert_array_equal(found.counts[name], np.count_nonzero(q, axis=0))


def test_samples_are_drawn_from_all_tokens(load, compiled):
    model = load(compiled, "v7")
    name = "blocks.1.ffn.key.weight"
    everything = collect(model, [IDS], inputs=[name])
    some = collect(model, [IDS], inputs=[name], samples=10, seed=3)
    assert some.inputs[name].shape == (10, model.config["n_embd"])
    places = [
        int(np.flatnonzero((everything.inputs[name] == row).all(axis=1))[0])
        for row in some.inputs[name]
    ]
    assert places == sorted(set(places))
    again = collect(model, [IDS], inputs=[name], samples=10, seed=3)
    np.testing.assert_array_equal(some.inputs[name], again.inputs[name])
    other = collect(model, [IDS], inputs=[name], samples=10, seed=4)
    assert (some.inputs[name] != other.inputs[name]).any()


def test_inputs_are_rounded_as_kernels_round():
    x = np.random.default_rng(0).standard_normal((5, 48)).astype(np.float32)
    x[2] = 0
    q, scale = quantize_inputs(x)
    np.testing.assert_array_equal(
        np.abs(q).max(axis=1), [qmax(48), qmax(48), 0, qmax(48), qmax(48)]
    )
    assert (np.abs(q * scale[:, None] - x) <= 0.51 * scale[:, None]).all()


def test_nothing_to_read_is_refused(load, compiled):
    with pytest.raises(ArgumentError, match="no tokens"):
        collect(load(compiled), [])
