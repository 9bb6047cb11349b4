"""Channel mixes of which only the neurons that matter are read: exact skipping, bundles and predictors."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import is_exact, rewrite

import tinyrwkv
from converters.calibrate import collect
from converters.sparse_ffn import Inputs, Neurons, Settings, bundle, hot_first, sparse_exact, sparse_predict
from tinyrwkv.errors import ArgumentError
from tinyrwkv.layout import PAGE, VERSIONS
from tinyrwkv.quant import quantize_rows

Tensors = dict[str, np.ndarray]
TOKENS = [3, 70, 299, 0, 257, 5, 5, 98, 120, 44, 2, 61, 280, 7, 19, 33, 150, 151, 12, 64]


def layer(seed: int = 0, F: int = 96, C: int = 64, n: int = 400) -> tuple[Neurons, Inputs]:
    """Return random neurons that fire seldom, and inputs that hang together."""
    random = np.random.default_rng(seed)
    mixing = random.standard_normal((C, C)) * 0.85 ** np.arange(C)
    x = random.standard_normal((n, C)) @ mixing.T + random.standard_normal(C) * 0.3
    key = random.standard_normal((F, C)) - 0.5 * x.mean(axis=0)
    value = random.standard_normal((C, F)) * random.uniform(0.5, 2, F)
    key, value = quantize_rows(key.astype(np.float32)), quantize_rows(value.astype(np.float32))
    scale = (np.abs(x).max(axis=1) / 32512).astype(np.float32)
    return Neurons(*key, *value), Inputs(np.rint(x / scale[:, None]).astype(np.int16), scale)


@pytest.fixture(scope="session")
def statistics(load: Callable[..., tinyrwkv.Model]) -> Callable[[str], Any]:
    """Return what goes into the channel mixes of a tiny model of each version while it reads."""

    def make(arch: str) -> Any:
        model = load("numpy", arch)
        names = [f"blocks.{i}.ffn." for i in range(model.config["n_layer"])]
        return collect(
            model,
            [TOKENS, TOKENS[::-1]],
            inputs=[name + "key.weight" for name in names],
            counts=[name + "value.weight" for name in names],
        )

    return make


def replaced(tiny: Callable[..., str], target: Any, arch: str, make: Callable[[str, Neurons], Tensors]) -> str:
    """Write a tiny model with what ``make(prefix, neurons)`` returns in the place of its channel mixes."""

    def change(metadata: dict[str, Any], tensors: Tensors) -> None:
        for i in range(metadata["n_layer"]):
            ffn = f"blocks.{i}.ffn."
            names = ("key.weight", "key.weight.scale", "value.weight", "value.weight.scale")
            neurons = Neurons(*(tensors.pop(ffn + name) for name in names))
            tensors.update({ffn + end: array for end, array in make(ffn, neurons).items()})

    return rewrite(tiny(arch), target, change)


def logits(path: str, backend: str, threads: int = 1) -> np.ndarray:
    with contextlib.closing(tinyrwkv.load(path, backend=backend, threads=threads)) as model:
        return model.forward(TOKENS, logits="all")[0]


@pytest.mark.parametrize("arch", VERSIONS)
def test_the_exact_form_is_the_dense_one_bit_for_bit(tiny, load, statistics, tmp_path, backend, arch):
    counts = statistics(arch).counts
    path = replaced(tiny, tmp_path / "a.trwkv", arch, lambda ffn, n: sparse_exact(n, counts[ffn + "value.weight"]))
    expected, _ = load(backend, arch).forward(TOKENS, logits="all")
    found = logits(path, backend)
    if is_exact(backend):
        assert np.array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arch", ("v5.2", "v7"))
def test_a_predictor_that_must_keep_all_is_the_dense_form_bit_for_bit(tiny, load, tmp_path, compiled, arch):
    _, inputs = layer()

    def make(ffn: str, neurons: Neurons) -> Tensors:
        tensors, _ = sparse_predict(neurons, inputs)
        return tensors | {"predictor.threshold": np.full(96, -np.inf, np.float32)}

    expected, _ = load(compiled, arch).forward(TOKENS, logits="all")
    assert np.array_equal(logits(replaced(tiny, tmp_path / "a.trwkv", arch, make), compiled), expected)


@given(st.integers(0, 99), st.sampled_from((32, 64, 384)), st.integers(1, 40))
def test_bundles_hold_every_neuron_within_a_page(seed: int, C: int, F: int) -> None:
    random = np.random.default_rng(seed)
    key, value = random.integers(-127, 128, (F, C), np.int8), random.integers(-127, 128, (C, F), np.int8)
    bundles = bundle(key, value)
    assert bundles.shape[1] == PAGE
    raw, per_page = bundles.tobytes(), PAGE // (2 * C)
    for f in range(F):
        at = f // per_page * PAGE + f % per_page * 2 * C
        assert at // PAGE == (at + 2 * C - 1) // PAGE
        assert raw[at : at + 2 * C] == key[f].tobytes() + value[:, f].tobytes()
    assert np.count_nonzero(bundles) == np.count_nonzero(key) + np.count_nonzero(value)


def test_wide_bundles_have_no_page_of_their_own() -> None:
    key, value = np.ones((3, 1088), np.int8), np.full((1088, 3), 2, np.int8)
    assert np.array_equal(bundle(key, value), np.repeat([[1, 2]], 3, axis=0).repeat(1088, axis=1))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30))
def test_hot_neurons_come_first(counts: list[int]) -> None:
    order = hot_first(np.array(counts))
    assert sorted(order) == list(range(len(counts)))
    assert [counts[i] for i in order] == sorted(counts, reverse=True)


@settings(max_examples=20)
@given(st.integers(0, 999), st.floats(0.3, 0.999))
def test_the_energy_asked_for_is_reached_on_the_calibration_inputs(seed: int, energy: float) -> None:
    neurons, inputs = layer(seed)
    _, report = sparse_predict(neurons, inputs, Settings(energy=energy))
    assert report["energy"] >= energy


@settings(max_examples=20)
@given(st.integers(0, 999), st.floats(0.02, 0.9))
def test_the_fraction_asked_for_is_not_exceeded(seed: int, fraction: float) -> None:
    neurons, inputs = layer(seed)
    tensors, report = sparse_predict(neurons, inputs, Settings(fraction=fraction))
    assert report["fraction"] <= fraction
    json.dumps(report, allow_nan=False)
    again, _ = sparse_predict(neurons, inputs, Settings(fraction=fraction))
    assert all(np.array_equal(tensors[name], again[name]) for name in tensors)


def test_a_lower_price_chooses_more() -> None:
    neurons, inputs = layer()
    reports = [sparse_predict(neurons, inputs, Settings(price=price))[1] for price in (1e-2, 1e-3, 1e-4)]
    for key in ("fraction", "energy", "recall", "bytes_after"):
        assert reports[0][key] < reports[1][key] < reports[2][key]


@pytest.mark.parametrize(
    "change",
    [
        lambda n, x: (n._replace(value=n.key), x, Settings()),
        lambda n, x: (n._replace(key=n.key.astype(np.float32)), x, Settings()),
        lambda n, x: (n, x._replace(q=x.q[:, 1:]), Settings()),
        lambda n, x: (n, x, Settings(fraction=0.0)),
        lambda n, x: (n, x, Settings(energy=1.5)),
        lambda n, x: (n, x, Settings(price=-1.0)),
        lambda n, x: (Neurons(n.key[:, :32], n.key_scale, n.value[:32], n.value_scale[:32]), x, Settings()),
    ],
)
def test_what_does_not_fit_is_refused(change) -> None:
    with pytest.raises(ArgumentError, match="sparse ffn"):
        sparse_predict(*change(*layer()))
