"""What a probe sees is what the reference computes."""

from __future__ import annotations

import numpy as np
import pytest

from converters.calibrate.probe import Probe
from tests.helpers.tiny_models import VOCAB_SIZE
from tinyrwkv.errors import ArgumentError
from tinyrwkv.versions import reference

IDS = [0, *np.random.default_rng(5).integers(0, VOCAB_SIZE, 36).tolist()]


def watch(model, oracle, ids, monkeypatch):
    """Return inputs of all matrices, and outputs of projections, as the reference makes them."""
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
            found[f"blocks.{i}.{part}.{name}.weight"] = tuple(
                np.stack(side) for side in zip(*mine, strict=True)
            )
    return found


@pytest.mark.parametrize("arch", ["v4", "v5.2", "v7"])
@pytest.mark.parametrize("dtype", ["f32", "int8"])
def test_a_probe_sees_what_the_reference_computes(load, oracle, compiled, monkeypatch, arch, dtype):
    model = load(compiled, arch, dtype)
    expected = watch(model, oracle(arch, dtype), IDS, monkeypatch)
    inputs, outputs = {name: [] for name in expected}, {name: [] for name in expected}
    probe = Probe(
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
        for found, wanted in (
            (np.concatenate(inputs[name]), x),
            (np.concatenate(outputs[name]), y),
        ):
            assert found.dtype == np.float32
            np.testing.assert_allclose(
                found, wanted, atol=(2e-5 if dtype == "f32" else 1e-2) * np.abs(wanted).max()
            )


def test_a_probe_knows_its_matrices(load, compiled):
    model = load(compiled)
    with pytest.raises(ArgumentError, match="give the name of a dense matrix"):
        Probe(model, {"blocks.9.att.key.weight": print})
    with pytest.raises(ArgumentError, match=r"the outputs of .* are not kept"):
        Probe(model, outputs={"blocks.0.att.output.weight": print})
