"""A walk sees block by block what a model sees that reads from the beginning."""

from __future__ import annotations

import numpy as np
import pytest

from converters.calibrate.collect import collect
from converters.calibrate.probe import Probe
from converters.calibrate.walk import Walk
from converters.compress.float_copy import FloatCopy
from converters.compress.spectra import matrix
from converters.judge.texts import WINDOW
from tests.helpers.tiny_models import VOCAB_SIZE
from tinyrwkv import load as load_model
from tinyrwkv.errors import ArgumentError
from tinyrwkv.versions.layout import VERSIONS

_IDS = np.random.default_rng(5).integers(0, VOCAB_SIZE, 600).tolist()
DOCUMENTS = [[0, *_IDS[:36]], [0], [0, *_IDS[:560]]]  # the last has two windows
FIRST = {"time_mix": ["att.receptance", "att.key"], "channel_mix": ["ffn.key"]}
LAST = {"time_mix": ["att.output"], "channel_mix": ["ffn.value"]}


def read(walk: Walk, layers: int, change=lambda name: None) -> dict[str, np.ndarray]:
    """Walk through a model; return the moments of its matrices. Each may change after that."""
    found = {}
    walk.advance("embedding")
    for layer in range(layers):
        for part in ("time_mix", "channel_mix"):
            for words in (FIRST[part], LAST[part]):
                names = [f"blocks.{layer}.{word}.weight" for word in words]
                found |= walk.moments(part, layer, names)
                for name in names:
                    change(name)
            walk.advance(part, layer)
    return found | walk.moments("head", None, ["head.weight"])


def compare(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, moments in found.items():
        largest = np.abs(expected[name]).max()
        np.testing.assert_allclose(moments, expected[name], atol=1e-5 * largest, err_msg=name)


@pytest.mark.parametrize("arch", VERSIONS)
def test_a_walk_sees_what_a_reader_sees(load, compiled, tmp_path, arch):
    model = load(compiled, arch, "f32")
    found = read(Walk(model, DOCUMENTS, str(tmp_path)), model.config["n_layer"])
    compare(found, collect(model, DOCUMENTS, moments=[*found]).moments)


@pytest.mark.parametrize("samples", [1, 7, 300, 10**6])
def test_the_inputs_of_some_tokens(load, compiled, tmp_path, samples):
    model = load(compiled, "v5.2", "f32")
    walk = Walk(model, DOCUMENTS, str(tmp_path))
    read(walk, model.config["n_layer"])
    seen: list[np.ndarray] = []
    probe = Probe(model, {"head.weight": seen.append})
    for document in DOCUMENTS:
        for start in range(0, len(document), WINDOW):
            probe.read(document[start : start + WINDOW])
    found = walk.inputs("head", None, "head.weight", samples)
    step = max(1, walk.tokens // samples)
    np.testing.assert_allclose(found, np.concatenate(seen)[::step], atol=1e-5)


@pytest.mark.parametrize("arch", ["v5.2", "v7"])
def test_what_changes_is_seen_by_what_follows(load, compiled, tmp_path, arch):
    model = load(compiled, arch, "int8")
    path = str(tmp_path / "float.trwkv")
    before = collect(model, DOCUMENTS, moments=["head.weight"]).moments["head.weight"]
    with FloatCopy(model, path, 1) as copy:

        def change(name: str) -> None:
            copy.replace(name, np.rint(8 * matrix(model, name)) / 8)

        found = read(Walk(copy.model, DOCUMENTS, str(tmp_path)), model.config["n_layer"], change)
        changed = load_model(path)
        compare(found, collect(changed, DOCUMENTS, moments=[*found]).moments)
        changed.close()
    assert np.abs(found["head.weight"] - before).max() > 1e-3 * np.abs(before).max()
    assert not (tmp_path / "float.trwkv").exists()


def test_a_copy_in_float_computes_what_the_model_does(load, compiled, tmp_path):
    model = load(compiled, "v7", "int8")
    with FloatCopy(model, str(tmp_path / "float.trwkv"), 1) as copy:
        found, expected = (one.forward(_IDS[:9], logits="all")[0] for one in (copy.model, model))
        np.testing.assert_allclose(found, expected, atol=5e-3 * np.std(expected))


def test_nothing_to_read_is_refused(load, compiled, tmp_path):
    with pytest.raises(ArgumentError, match="no tokens"):
        Walk(load(compiled, "v7", "f32"), [[]], str(tmp_path))
