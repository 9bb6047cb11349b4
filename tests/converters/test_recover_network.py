"""The models in torch compute what the reference does; their losses have the right gradients."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra train (torch) is not installed")

from converters.recover import losses
from converters.recover.base import read_base
from converters.recover.network import Network
from converters.recover.predictor import Chooser, fit_choosers, fit_predictor, fourth_moment
from converters.write.convert import convert
from tests.helpers.checkpoints import raw_checkpoint
from tests.helpers.pth_writer import write_pth
from tinyrwkv.file.mapped import open_file
from tinyrwkv.file.quant import dequantize
from tinyrwkv.versions import reference

ARCHITECTURES = ("v5.2", "v6", "v7")


@pytest.fixture(params=ARCHITECTURES)
def checkpoint(request, tmp_path):
    path = tmp_path / "a.pth"
    raw = raw_checkpoint(request.param, n_layer=3, head_size=32)
    if request.param != "v7":  # some channels forget at once, and some almost never
        raw["blocks.1.att.time_decay"].reshape(-1)[:4] = 4.0, 2.5, -9.0, 1.0
    write_pth(path, raw)
    return path


def loaded(path):
    base = read_base(path)
    network = Network(base.sizes.arch, base.sizes.n_layer, base.sizes.n_head, base.ln_x_eps)
    return network, {name: torch.from_numpy(one) for name, one in base.tensors.items()}


def reference_logits(path, tokens):
    convert(path, path.with_suffix(".trwkv"), "f32")
    with open_file(path.with_suffix(".trwkv")) as file:
        config, weights = dict(file.metadata), dequantize(file)
    state = reference.new_state(config)
    found = []
    for token in tokens:
        logits, state = reference.forward(weights, config, int(token), state)
        found.append(logits)
    return np.array(found)


@pytest.mark.parametrize("length", [1, 48, 53])
def test_logits_are_those_of_the_reference(checkpoint, length):
    network, weights = loaded(checkpoint)
    tokens = np.random.default_rng(length).integers(0, 256, (2, length))
    streams, _ = network.forward(weights, torch.from_numpy(tokens))
    logits = (streams[-1] @ weights["head.weight"].T).numpy()
    for window, found in zip(tokens, logits, strict=True):
        expected = reference_logits(checkpoint, window)
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_tokens_may_come_in_parts(checkpoint):
    network, weights = loaded(checkpoint)
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 40)))
    whole, _ = network.forward(weights, tokens)
    states, parts = None, []
    for first, last in ((0, 1), (1, 17), (17, 18), (18, 40)):
        streams, states = network.forward(weights, tokens[:, first:last], states)
        parts.append(streams[-1])
    np.testing.assert_allclose(torch.cat(parts, 1), whole[-1], atol=1e-4)


def test_few_neurons_are_kept(checkpoint):
    network, weights = loaded(checkpoint)
    tokens = torch.arange(32)[None]
    whole = network.forward(weights, tokens)[0][-1]
    windows = np.random.default_rng(0).integers(0, 256, (6, 32))

    def distance(keep):
        choosers = fit_choosers(network, weights, windows, keep)
        network.choosers = {ffn: one.kept for ffn, one in choosers.items()}
        found = network.forward(weights, tokens)[0][-1]
        network.choosers = {}
        return (found - whole).abs().mean().item()

    assert distance(1.0) < 1e-6
    assert 1e-6 < distance(0.9) < distance(0.5) < distance(0.1)


def test_the_share_of_neurons_is_that_of_all_layers_together(checkpoint):
    network, weights = loaded(checkpoint)
    windows = np.random.default_rng(0).integers(0, 256, (6, 64))
    choosers = fit_choosers(network, weights, windows, 0.3)
    assert len({one.price.item() for one in choosers.values()}) == 1
    shares = []
    network.look = lambda ffn, x, gate: shares.append(choosers[ffn].kept(x).float().mean().item())
    network.forward(weights, torch.from_numpy(windows))
    assert abs(np.mean(shares) - 0.3) < 0.05
    assert network.choosers == {}


def test_what_a_neuron_adds_goes_through_the_gate(checkpoint):
    network, weights = loaded(checkpoint)
    windows = np.random.default_rng(0).integers(0, 256, (6, 64))
    gates = {}
    network.look = lambda ffn, x, gate: gates.update({ffn: gate})
    network.forward(weights, torch.from_numpy(windows))
    for ffn, chooser in fit_choosers(network, weights, windows, 0.3).items():
        V, gate = weights[ffn + "value.weight"], gates[ffn]
        D = torch.ones(len(V)) if gate is None else gate.square().flatten(0, 1).mean(0).sqrt()
        torch.testing.assert_close(chooser.predictor.size, (V * D[:, None]).norm(dim=0))


def test_a_predictor_keeps_what_adds_most():
    random = torch.Generator().manual_seed(0)
    K = torch.randn(96, 32, generator=random)
    size = torch.rand(96, generator=random)
    x = torch.randn(4000, 32, generator=random) + 0.3
    predictor = fit_predictor(K, size, x.mean(0), torch.cov(x.T, correction=0))
    price = predictor.effect(x).flatten().quantile(0.75)
    chosen = Chooser(predictor, price).kept(x)
    assert abs(chosen.float().mean() - 0.25) < 0.001
    energy = (torch.relu(x @ K.T) ** 2 * size) ** 2
    best = energy.flatten().topk(int(chosen.sum())).values.sum() / energy.sum()
    kept = (energy * chosen).sum() / energy.sum()
    assert 0.75 * best < kept < best  # a choice by chance keeps 0.25


@pytest.mark.parametrize("mean", [-3.0, -0.4, 0.0, 1.7])
def test_the_mean_of_a_fourth_power(mean):
    z = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    density = torch.exp(-0.5 * ((z - mean) / 0.8) ** 2) / (0.8 * (2 * np.pi) ** 0.5)
    expected = torch.trapezoid(torch.relu(z) ** 4 * density, z)
    two = torch.tensor([mean, 0.8], dtype=torch.float64)
    torch.testing.assert_close(fourth_moment(*two), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("rare", [0.0, 0.3])
def test_the_gradient_of_the_divergence(monkeypatch, rare):
    random = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 7, 5, generator=random)
    head = torch.randn(11, 5, generator=random)
    x = student.clone().requires_grad_()
    log_q, log_p = torch.log_softmax(x @ head.T, -1), torch.log_softmax(teacher @ head.T, -1)
    expected = torch.nn.functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    loss = expected + rare / 2 * (log_q - log_p).square().mean()
    loss.backward()
    for logits in (1 << 26, 22, 1):  # all tokens at once, two, one
        monkeypatch.setattr(losses, "LOGITS", logits)
        value, gradient = losses.divergence(student, teacher, head, rare)
        torch.testing.assert_close(value, expected.detach())
        torch.testing.assert_close(gradient, x.grad)


def test_nll_is_that_of_the_targets():
    x, head = torch.randn(6, 5), torch.randn(9, 5)
    targets = torch.tensor([0, 1, 2, 3, 4, 8])
    expected = torch.nn.functional.cross_entropy(x @ head.T, targets, reduction="sum")
    torch.testing.assert_close(losses.negative_log_likelihood(x, head, targets), expected)
