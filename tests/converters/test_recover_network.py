"""The models in torch compute what the reference does; their losses have the right gradients."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra train (torch) is not installed")

from converters.recover import losses
from converters.recover.base import read_base
from converters.recover.network import Network
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
    network.keep = 0.9999  # relu^2 leaves far fewer
    torch.testing.assert_close(network.forward(weights, tokens)[0][-1], whole)
    network.keep = 0.01
    assert (network.forward(weights, tokens)[0][-1] - whole).abs().max() > 0.01


def test_the_gradient_of_the_divergence(monkeypatch):
    random = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 7, 5, generator=random)
    head = torch.randn(11, 5, generator=random)
    x = student.clone().requires_grad_()
    expected = torch.nn.functional.kl_div(
        torch.log_softmax(x @ head.T, -1),
        torch.log_softmax(teacher @ head.T, -1),
        reduction="batchmean",
        log_target=True,
    )
    expected.backward()
    for logits in (1 << 26, 22, 1):  # all tokens at once, two, one
        monkeypatch.setattr(losses, "LOGITS", logits)
        value, gradient = losses.divergence(student, teacher, head)
        torch.testing.assert_close(value, expected.detach())
        torch.testing.assert_close(gradient, x.grad)


def test_nll_is_that_of_the_targets():
    x, head = torch.randn(6, 5), torch.randn(9, 5)
    targets = torch.tensor([0, 1, 2, 3, 4, 8])
    expected = torch.nn.functional.cross_entropy(x @ head.T, targets, reduction="sum")
    torch.testing.assert_close(losses.negative_log_likelihood(x, head, targets), expected)
