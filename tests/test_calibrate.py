"""What a probe sees is what the reference computes; sums, samples and documents are what they say."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import VOCAB_SIZE

from converters import calibrate
from tinyrwkv import reference
from tinyrwkv.errors import ArgumentError
from tinyrwkv.program import qmax

IDS = [0, *np.random.default_rng(5).integers(0, VOCAB_SIZE, 36).tolist()]


def watch(model, oracle, ids, monkeypatch):
    """Return inputs and outputs of the projections, and inputs of the other matrices, as the reference makes them."""
    seen = {}
    project = reference.project

    def spy(tensors, name, x):
        y = project(tensors, name, x)
        part = "ffn" if "value.weight" in tensors and "output.weight" not in tensors else "att"
        seen.setdefault((part, name), []).append((x, y))
        return y

    monkeypatch.setattr(reference, "project", spy)
    oracle.run(ids)
    monkeypatch.setattr(reference, "project", project)
    layers = model.config["n_layer"]
    found = {}
    for (part, name), pairs in seen.items():
        for i in range(layers):
            mine = pairs[i::layers]
            found[f"blocks.{i}.{part}.{name}.weight"] = tuple(np.stack(side) for side in zip(*mine, strict=True))
    return found


@pytest.mark.parametrize("arch", ["v4", "v5.2", "v7"])
@pytest.mark.parametrize("dtype", ["f32", "int8"])
def test_a_probe_sees_what_the_reference_computes(load, oracle, compiled, monkeypatch, arch, dtype):
    model = load(compiled, arch, dtype)
    expected = watch(model, oracle(arch, dtype), IDS, monkeypatch)
    inputs, outputs = {name: [] for name in expected}, {name: [] for name in expected}
    probe = calibrate.Probe(
        model,
        {name: rows.append for name, rows in inputs.items()},
        {name: rows.append for name, rows in outputs.items()},
    )
    probe.read(IDS)
    for name, (x, y) in expected.items():
        if name.endswith("receptance.weight") and (arch == "v4" or ".ffn." in name):
            y = reference.sigmoid(y)
        if name.endswith("gate.weight"):
            y = reference.silu(y)
        for found, wanted in ((np.concatenate(inputs[name]), x), (np.concatenate(outputs[name]), y)):
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, wanted, atol=(2e-5 if dtype == "f32" else 1e-2) * np.abs(wanted).max())


def test_a_probe_knows_its_matrices(load, compiled):
    model = load(compiled)
    with pytest.raises(ArgumentError, match="give the name of a dense matrix"):
        calibrate.Probe(model, {"blocks.9.att.key.weight": print})
    with pytest.raises(ArgumentError, match="a matrix whose outputs are kept"):
        calibrate.Probe(model, outputs={"blocks.0.att.output.weight": print})


def test_sums_and_samples_are_those_of_the_inputs(load, compiled):
    model = load(compiled, "v5.2")
    names = ["blocks.0.att.key.weight", "blocks.1.ffn.value.weight", "head.weight"]
    documents = [IDS, IDS[:1], IDS[:20]]
    rows: dict[str, list[np.ndarray]] = {name: [] for name in names}
    probe = calibrate.Probe(model, {name: listed.append for name, listed in rows.items()})
    for document in documents:
        probe.read(document)
    steps = []
    found = calibrate.collect(
        model, documents, moments=names, inputs=names, counts=names, progress=lambda *step: steps.append(step)
    )
    total = sum(map(len, documents))
    assert found.tokens == total
    assert steps[-1] == (total, total)
    for name in names:
        x = np.concatenate(rows[name]).astype(np.float64)
        assert len(x) == total
        np.testing.assert_allclose(found.moments[name], x.T @ x / total, atol=1e-5 * np.square(x).sum(axis=1).max())
        q, scale = calibrate.quantize_inputs(x.astype(np.float32))
        np.testing.assert_array_equal(found.inputs[name], q)
        np.testing.assert_array_equal(found.scales[name], scale)
        np.testing.assert_array_equal(found.counts[name], np.count_nonzero(q, axis=0))


def test_samples_are_drawn_from_all_tokens(load, compiled):
    model = load(compiled, "v7")
    name = "blocks.1.ffn.key.weight"
    everything = calibrate.collect(model, [IDS], inputs=[name])
    some = calibrate.collect(model, [IDS], inputs=[name], samples=10, seed=3)
    assert some.inputs[name].shape == (10, model.config["n_embd"])
    places = [int(np.flatnonzero((everything.inputs[name] == row).all(axis=1))[0]) for row in some.inputs[name]]
    assert places == sorted(set(places))
    again = calibrate.collect(model, [IDS], inputs=[name], samples=10, seed=3)
    np.testing.assert_array_equal(some.inputs[name], again.inputs[name])
    other = calibrate.collect(model, [IDS], inputs=[name], samples=10, seed=4)
    assert (some.inputs[name] != other.inputs[name]).any()


def test_inputs_are_rounded_as_kernels_round():
    x = np.random.default_rng(0).standard_normal((5, 48)).astype(np.float32)
    x[2] = 0
    q, scale = calibrate.quantize_inputs(x)
    np.testing.assert_array_equal(np.abs(q).max(axis=1), [qmax(48), qmax(48), 0, qmax(48), qmax(48)])
    assert (np.abs(q * scale[:, None] - x) <= 0.51 * scale[:, None]).all()


def test_nothing_to_read_is_refused(load, compiled):
    with pytest.raises(ArgumentError, match="no tokens"):
        calibrate.collect(load(compiled), [])
    with pytest.raises(ArgumentError, match="no tokens"):
        calibrate.effects(load(compiled), [[]])
    with pytest.raises(ArgumentError, match="some text"):
        calibrate.choose_documents(load(compiled), " \n")


@pytest.mark.parametrize("arch", ["v4", "v5.0", "v5.2", "v6", "v7"])
def test_effects_of_values_are_exact(load, compiled, arch):
    """What reaches the residual stream is linear in the value: its effect is what disturbing an output does."""
    model = load(compiled, arch, "f32")
    found = calibrate.effects(model, [IDS])
    expected = {"att.receptance", "att.key", "att.value"}
    expected |= {"att.gate"} & ({"att.gate"} if arch in ("v5.2", "v6") else set())
    expected |= {"ffn.receptance"} if arch != "v7" else set()
    layers = range(model.config["n_layer"])
    assert set(found) == {f"blocks.{i}.{name}.weight" for i in layers for name in expected}
    for effect in found.values():
        assert effect.shape == (model.config["n_embd"],)
        assert np.isfinite(effect).all()
        assert (effect > 0).all()


def test_documents_of_a_text(load, compiled):
    model = load(compiled)
    text = "\n<|doc|>\n".join(f"ab {i} " * 700 for i in range(8))
    documents = calibrate.choose_documents(model, text, tokens=3000, seed=1)
    assert sum(map(len, documents)) == 3000
    decoded = [model.tokenizer.decode(ids[1:]) for ids in documents]
    assert all(ids[0] == 0 for ids in documents)
    assert all(len(piece) <= calibrate.PIECE and piece in text for piece in decoded)
    assert documents == calibrate.choose_documents(model, text, tokens=3000, seed=1)
    assert documents != calibrate.choose_documents(model, text, tokens=3000, seed=2)


def test_a_model_writes_its_own_documents(load, compiled):
    model = load(compiled)
    documents = calibrate.sample_documents(model, 300, seed=1)
    assert 300 <= sum(map(len, documents)) <= 302
    assert all(ids[0] == 0 and len(ids) <= calibrate.LONGEST_SAMPLE + 1 for ids in documents)
    assert documents == calibrate.sample_documents(model, 300, seed=1)
    assert documents != calibrate.sample_documents(model, 300, seed=2)
