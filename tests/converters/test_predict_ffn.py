"""Predictors of the neurons that matter: what they choose, and that they change nothing else."""

from __future__ import annotations

import contextlib
import json
import mmap
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyrwkv
from converters.calibrate.collect import collect
from converters.techniques.mlp_predictor import Network
from converters.techniques.predict_ffn import (
    Inputs,
    PredictorSettings,
    find_prices,
    fit_layer,
    predicted,
)
from converters.techniques.sign_predictor import scores
from converters.techniques.sparse_ffn import Neurons
from converters.write.edit import edit
from tests.helpers.channel_mixes import TOKENS, Tensors, channel_mix, logits, replaced
from tests.helpers.tiny_models import shape_of, write_model
from tinyrwkv.engine.workspace import Workspace
from tinyrwkv.errors import ArgumentError
from tinyrwkv.file.mapped import open_file
from tinyrwkv.file.memory import drop_from_cache
from tinyrwkv.kernels import abi as op
from tinyrwkv.versions.reference import unpack


def sparse_predict(
    neurons: Neurons, inputs: Inputs, wanted: PredictorSettings
) -> tuple[Tensors, dict[str, Any]]:
    fit = fit_layer(neurons, inputs, settings=wanted)
    return predicted(fit, find_prices([fit], wanted)[0])


@settings(max_examples=15)
@given(st.integers(0, 999), st.floats(0.3, 1), st.sampled_from((0, 0, 8)))
def test_the_energy_asked_for_is_reached_on_the_calibration_inputs(
    seed: int, energy: float, mlp: int
) -> None:
    neurons, inputs = channel_mix(seed)
    tensors, report = sparse_predict(neurons, inputs, PredictorSettings(energy=energy, mlp=mlp))
    assert report["energy"] >= energy * (1 - 1e-6)
    if not mlp:
        assert share_of_energy(tensors, inputs) == pytest.approx(report["energy"], abs=1e-4)


def share_of_energy(tensors: Tensors, inputs: Inputs) -> float:
    """Return the energy of what the tensors choose, counted from them alone, without a network."""
    F, C = len(tensors["predictor.threshold"]), tensors["bundles.value_scale"].size
    rows = tensors["bundles"].reshape(-1, 4096)[:, : 4096 // (2 * C) * 2 * C].reshape(-1, 2 * C)[:F]
    K, V = (
        rows[:, :C] * tensors["bundles.key_scale"][:, None],
        rows[:, C:] * tensors["bundles.value_scale"],
    )
    energy = np.maximum((inputs.q * inputs.scale[:, None]) @ K.T, 0) ** 4 * np.square(V).sum(axis=1)
    signs = unpack(tensors["predictor.signs"], 1)[: len(tensors["predictor.threshold"])] == 1
    chosen = scores(signs, *inputs) > tensors["predictor.threshold"]
    return float((energy * chosen).sum() / energy.sum())


@settings(max_examples=15)
@given(st.integers(0, 999), st.floats(0.02, 0.7))
def test_the_fraction_asked_for_is_not_exceeded(seed: int, fraction: float) -> None:
    tensors, report = sparse_predict(*channel_mix(seed), PredictorSettings(fraction=fraction))
    assert fraction - 0.1 < report["fraction"] <= fraction
    json.dumps(report, allow_nan=False)
    again, _ = sparse_predict(*channel_mix(seed), PredictorSettings(fraction=fraction))
    assert all(np.array_equal(tensors[name], again[name]) for name in tensors)


def test_layers_share_one_price_so_that_those_with_more_energy_choose_more() -> None:
    neurons, inputs = channel_mix()
    strong = neurons._replace(value_scale=neurons.value_scale * np.float32(3))
    fits = [fit_layer(neurons, inputs), fit_layer(strong, inputs)]
    prices = find_prices(fits, PredictorSettings(fraction=0.2))
    assert prices[0] == prices[1]
    weak, much = (predicted(fit, price)[1] for fit, price in zip(fits, prices, strict=True))
    assert weak["fraction"] < much["fraction"] and weak["fraction"] + much["fraction"] <= 0.4
    by_energy = find_prices(fits, PredictorSettings(energy=0.9))
    assert by_energy[0] < by_energy[1]
    gated = fit_layer(strong, inputs, effects=np.full(64, 1 / 3, np.float32))
    np.testing.assert_allclose(gated.all_energy, fits[0].all_energy, rtol=1e-5)


def test_a_lower_price_chooses_more() -> None:
    fit = fit_layer(*channel_mix())
    reports = [predicted(fit, price * fit.all_energy)[1] for price in (1e-2, 1e-3, 1e-4)]
    for key in ("fraction", "energy", "recall", "bytes_after"):
        assert reports[0][key] < reports[1][key] < reports[2][key]
    assert find_prices([fit], PredictorSettings(price=0.5)) == [0.5]
    assert predicted(fit, 0.0)[1]["fraction"] == 1
    assert predicted(fit, 1e30)[1]["fraction"] < 0.1


def test_neurons_used_nearly_always_are_not_predicted() -> None:
    neurons, inputs = channel_mix()
    first = inputs._replace(q=np.abs(inputs.q))
    neurons.key[:3] = 100  # fires after every input that is positive
    tensors, report = sparse_predict(neurons, first, PredictorSettings(fraction=0.3))
    always = tensors["predictor.threshold"] == -np.inf
    assert report["always"] == always.sum() >= 3
    assert always[: always.sum()].all()  # they are the hottest


def test_the_order_is_of_how_often_each_is_chosen() -> None:
    neurons, inputs = channel_mix()
    tensors, _ = sparse_predict(neurons, inputs, PredictorSettings(fraction=0.2))
    signs = unpack(tensors["predictor.signs"], 1)[: len(tensors["predictor.threshold"])] == 1
    counts = (scores(signs, *inputs) > tensors["predictor.threshold"]).sum(axis=0)
    assert (np.diff(counts) <= 0).all()


@pytest.mark.parametrize(
    "change",
    [
        lambda n, x: (n._replace(value=n.key), x, PredictorSettings()),
        lambda n, x: (n, x._replace(q=x.q[:, 1:]), PredictorSettings()),
        lambda n, x: (n, x, PredictorSettings(fraction=0.0)),
        lambda n, x: (n, x, PredictorSettings(energy=1.5)),
        lambda n, x: (n, x, PredictorSettings(price=-1.0)),
        lambda n, x: (
            Neurons(n.key[:, :32], n.key_scale, n.value[:32], n.value_scale[:32]),
            x,
            PredictorSettings(),
        ),
    ],
)
def test_what_does_not_fit_is_refused(change) -> None:
    with pytest.raises(ArgumentError, match="sparse ffn"):
        sparse_predict(*change(*channel_mix()))


@pytest.mark.parametrize("arch", ("v4", "v5.2", "v7"))
def test_a_predictor_that_must_keep_all_is_the_dense_form_bit_for_bit(
    tiny, load, tmp_path, compiled, arch
):
    _, inputs = channel_mix()
    path = replaced(
        tiny(arch),
        tmp_path / "a.trwkv",
        lambda ffn, neurons: predicted(fit_layer(neurons, inputs), 0.0)[0],
    )
    expected, _ = load(compiled, arch).forward(TOKENS, logits="all")
    assert np.array_equal(logits(path, compiled), expected)


def hidden(model: tinyrwkv.Model, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the inputs of the first key matrix, q and scale, and what comes out."""
    operations, keys = model.program.operations, ("blocks.0.ffn.key.weight", "blocks.0.ffn.bundles")
    at = next(i for i, operation in enumerate(operations) if operation.label in keys)
    p, memory = operations[at].fields, Workspace(model.program, 1)
    new = np.zeros(model.program.state_size, np.float32)
    model.backend.run(memory, 0, at + 1, ids, model.new_state().data, new, None, op.NO_HEAD)
    q = np.frombuffer(memory.private[0], np.int16, len(ids) * p.stride, p.src).reshape(len(ids), -1)
    scale = np.frombuffer(memory.private[0], np.float32, len(ids), p.src_scale)
    y = np.frombuffer(memory.shared, np.float32, len(ids) * p.dst_stride, p.dst).reshape(
        len(ids), -1
    )
    return q, scale, y


@pytest.mark.parametrize("mlp", [0, 8])
def test_the_engine_leaves_out_what_the_tensors_say_and_changes_nothing_else(
    tiny, load, tmp_path, backend, mlp
):
    dense = load(backend, "v7")
    ids = np.arange(16, dtype=np.int32)
    q, scale, expected = hidden(dense, ids)
    kept: list[Tensors] = []
    orders: list[np.ndarray] = []

    def make(ffn: str, neurons: Neurons) -> Tensors:
        wanted = PredictorSettings(fraction=0.4, mlp=mlp)
        fit = fit_layer(neurons, Inputs(q.copy(), scale.copy()), settings=wanted)
        price = find_prices([fit], wanted)[0]
        orders.append(np.argsort(-fit.chosen[fit.place(price)], kind="stable"))
        kept.append(predicted(fit, price)[0])
        return kept[-1]

    path = replaced(tiny("v7"), tmp_path / "a.trwkv", make)
    with contextlib.closing(tinyrwkv.load(path, backend=backend)) as model:
        q_again, scale_again, found = hidden(model, ids)
    assert np.array_equal(q, q_again) and np.array_equal(scale, scale_again)
    signs = unpack(kept[0]["predictor.signs"], 1)[: len(kept[0]["predictor.threshold"])] == 1
    chosen = scores(signs, q, scale) > kept[0]["predictor.threshold"]
    if mlp:
        parts = (
            "fc1.weight",
            "fc1.weight.scale",
            "fc2.weight",
            "fc2.weight.scale",
            "mlp_threshold",
        )
        *network, threshold = (kept[0][f"predictor.{part}"] for part in parts)
        chosen |= Network(*network).scores(q * scale[:, None]) > threshold
    assert 0.1 < chosen.mean() < 0.9
    wanted = np.where(chosen, expected[:, orders[0]], 0)
    np.testing.assert_allclose(found, wanted, rtol=0 if backend != "numpy" else 1e-5, atol=0)


@pytest.mark.parametrize("arch", ("v5.2", "v7"))
def test_chunks_choose_for_each_token_what_it_would_choose_alone(tiny, tmp_path, compiled, arch):
    _, inputs = channel_mix()

    def make(ffn: str, neurons: Neurons) -> Tensors:
        fit = fit_layer(neurons, inputs)
        return predicted(fit, find_prices([fit], PredictorSettings(fraction=0.3))[0])[0]

    path = replaced(tiny(arch), tmp_path / "a.trwkv", make)
    with contextlib.closing(tinyrwkv.load(path, backend=compiled)) as model:
        together, _ = model.forward(TOKENS, logits="all")
        state = None
        for token, row in zip(TOKENS, together, strict=True):
            alone, state = model.forward([token], state)
            assert np.array_equal(alone, row)


def chosen(model: tinyrwkv.Model, token: int) -> dict[str, np.ndarray]:
    """Return for the bundles of each layer which neurons are chosen for a first token."""
    found, memory = {}, Workspace(model.program, 1)
    state, new, at = model.new_state().data, np.zeros(model.program.state_size, np.float32), 0
    for i, (opcode, p, note, *_) in enumerate(model.program.operations):
        if opcode == op.PREDICT:
            model.backend.run(
                memory, at, i, np.array([token], np.int32), state, new, None, op.NO_HEAD
            )
            at = i
            q = np.frombuffer(memory.private[0], np.int16, p.cols, p.src)[None]
            scale = np.frombuffer(memory.private[0], np.float32, 1, p.src_scale)
            predictor = note.replace("bundles", "predictor.")
            signs = unpack(model.file[predictor + "signs"], 1)[: model.config["n_ffn"]] == 1
            found[note] = scores(signs, q, scale)[0] > model.file[predictor + "threshold"]
    return found


@pytest.mark.usefixtures("linux")
def test_from_a_cold_start_only_the_pages_of_chosen_neurons_are_read(tmp_path, compiled):
    F, C, page = 4000, 256, mmap.PAGESIZE
    dense = write_model(
        tmp_path / "dense.trwkv", shape_of("v7", width=C, ffn=F, head_size=64), "int8"
    )
    layers, path = ("blocks.0.ffn.", "blocks.1.ffn."), str(tmp_path / "a.trwkv")
    with contextlib.closing(tinyrwkv.load(dense, backend=compiled)) as model:
        seen = collect(model, [[5, *range(100)]], inputs=[ffn + "key.weight" for ffn in layers])
    with open_file(dense) as file:
        edits: dict[str, Any] = {}
        for ffn in layers:
            matrices = [ffn + name for name in ("key.weight", "value.weight")]
            inputs = Inputs(seen.inputs[matrices[0]], seen.scales[matrices[0]])
            fit = fit_layer(
                Neurons(*(file[name + end] for name in matrices for end in ("", ".scale"))), inputs
            )
            made = predicted(fit, find_prices([fit], PredictorSettings(fraction=0.02))[0])[0]
            edits[matrices[0]] = lambda ffn=ffn, made=made: {
                ffn + end: array for end, array in made.items()
            }
            edits[matrices[1]] = dict
        edit(file, path, edits, dict(file.metadata))
    drop_from_cache(path)
    with contextlib.closing(tinyrwkv.load(path, backend=compiled)) as model:
        regions = {name: t for name, t in model.file.tensors.items() if name.endswith(".bundles")}
        for advice in ("MADV_NOHUGEPAGE", "MADV_RANDOM"):  # nothing is read ahead
            model.file.advise(advice)
        if model.cached() is None or model.cached() > len(model.file.bytes) / 2:
            pytest.skip("this file system is in memory")
        model.forward([5])
        first = model.file.bytes.ctypes.data
        for name, neurons in chosen(model, 5).items():
            region, per_page = regions[name], 4096 // (2 * C)
            wanted = {
                (region.offset + f // per_page * 4096) // page for f in np.flatnonzero(neurons)
            }
            assert region.offset % 4096 == 0 and 0 < len(wanted) < region.nbytes / page / 2
            with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
                pagemap.seek((first + region.offset) // page * 8)
                entries = np.frombuffer(pagemap.read(-(-region.nbytes // page) * 8), np.uint64)
            found = np.flatnonzero(entries >> np.uint64(63)) + region.offset // page
            assert set(found.tolist()) == wanted
