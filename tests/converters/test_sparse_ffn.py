"""Channel mixes of which only the neurons that matter are read: exact skipping, bundles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.calibrate.collect import collect
from converters.techniques.round_int4 import round_int4
from converters.techniques.sparse_ffn import Neurons, PackedNeurons, bundle, hot_first, sparse_exact
from tests.helpers.channel_mixes import TOKENS, logits, replaced
from tests.helpers.tiny_models import is_exact
from tinyrwkv.errors import ArgumentError
from tinyrwkv.file.int4 import row_bytes
from tinyrwkv.file.table import FILE_PAGE
from tinyrwkv.versions.layout import VERSIONS


@pytest.mark.parametrize("arch", [arch for arch in VERSIONS if arch != "v7a"])  # has factors too
def test_the_exact_form_is_the_dense_one_bit_for_bit(tiny, load, tmp_path, backend, arch):
    model = load(backend, arch)
    values = [f"blocks.{i}.ffn.value.weight" for i in range(model.config["n_layer"])]
    counts = collect(model, [TOKENS, TOKENS[::-1]], counts=values).counts
    make = lambda ffn, neurons: sparse_exact(neurons, counts[ffn + "value.weight"])  # noqa: E731
    path = replaced(tiny(arch), tmp_path / "a.trwkv", make)
    expected, _ = model.forward(TOKENS, logits="all")
    found = logits(path, backend)
    if is_exact(backend):
        assert np.array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@given(st.integers(0, 99), st.sampled_from((32, 64, 384)), st.integers(1, 40))
def test_bundles_hold_every_neuron_within_a_page(seed: int, C: int, F: int) -> None:
    random = np.random.default_rng(seed)
    key, value = (
        random.integers(-127, 128, (F, C), np.int8),
        random.integers(-127, 128, (C, F), np.int8),
    )
    bundles = bundle(key, value.T)
    assert bundles.shape[1] == FILE_PAGE
    raw, per_page = bundles.tobytes(), FILE_PAGE // (2 * C)
    for f in range(F):
        at = f // per_page * FILE_PAGE + f % per_page * 2 * C
        assert at // FILE_PAGE == (at + 2 * C - 1) // FILE_PAGE
        assert raw[at : at + 2 * C] == key[f].tobytes() + value[:, f].tobytes()
    assert np.count_nonzero(bundles) == np.count_nonzero(key) + np.count_nonzero(value)


def test_wide_bundles_have_no_page_of_their_own() -> None:
    key, value = np.ones((3, 1088), np.int8), np.full((1088, 3), 2, np.int8)
    assert np.array_equal(bundle(key, value.T), np.repeat([[1, 2]], 3, axis=0).repeat(1088, axis=1))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30))
def test_hot_neurons_come_first(counts: list[int]) -> None:
    order = hot_first(np.array(counts))
    assert sorted(order) == list(range(len(counts)))
    assert [counts[i] for i in order] == sorted(counts, reverse=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda n: n._replace(value=n.key),
        lambda n: n._replace(key=n.key.astype(np.float32)),
        lambda n: n._replace(value_scale=n.key_scale),
    ],
)
def test_what_is_not_one_layer_is_refused(change) -> None:
    neurons = Neurons(
        np.ones((6, 4), np.int8),
        np.ones(6, np.float32),
        np.ones((4, 6), np.int8),
        np.ones(4, np.float32),
    )
    with pytest.raises(ArgumentError, match="sparse ffn"):
        sparse_exact(change(neurons), np.zeros(6))


@given(st.integers(0, 99), st.sampled_from((64, 384, 2560)), st.integers(1, 12))
def test_neurons_in_int4_keep_their_weights_in_any_order(seed: int, C: int, F: int) -> None:
    random = np.random.default_rng(seed)
    key, value = (round_int4(random.standard_normal((F, C), np.float32)) for _ in range(2))
    neurons = PackedNeurons(key.packed(), value.packed())
    assert neurons.check() == (F, C)
    assert (neurons.row_bytes, neurons.nbytes) == (row_bytes(C), 2 * F * row_bytes(C))
    order = random.permutation(F)
    K, V = neurons.ordered(order).weights()
    assert np.array_equal(K, key.weights()[order])
    assert np.array_equal(V, value.weights()[order].T)

    bundles = neurons.ordered(order).bundled()["bundles"]
    pair = 2 * row_bytes(C)
    per_page = max(FILE_PAGE // pair, 1)
    assert bundles.dtype == np.uint8
    assert bundles.shape[1] == (FILE_PAGE if per_page > 1 else pair)
    for place, f in enumerate(order):
        page, at = place // per_page, place % per_page * pair
        expected = neurons.key[f].tobytes() + neurons.value[f].tobytes()
        assert bundles[page, at : at + pair].tobytes() == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (np.zeros((3, 35), np.uint8), np.zeros((2, 35), np.uint8)),
        (np.zeros((3, 36), np.uint8), np.zeros((3, 36), np.uint8)),
        (np.zeros((3, 35), np.int8), np.zeros((3, 35), np.uint8)),
    ],
)
def test_packed_arrays_of_something_else_are_refused(key: np.ndarray, value: np.ndarray) -> None:
    with pytest.raises(ArgumentError, match="two packed arrays"):
        PackedNeurons(key, value).check()
