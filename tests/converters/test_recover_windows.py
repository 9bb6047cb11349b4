"""The windows that a training reads."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra train (torch) is not installed")

from converters.recover.base import read_base
from converters.recover.network import Network
from converters.recover.windows import sample_windows, split_held_out, text_windows
from tests.helpers.conversions import TEXT, write_files
from tinyrwkv.errors import ArgumentError


@pytest.fixture
def files(tmp_path):
    return write_files(tmp_path)


def test_windows_hold_the_documents_one_behind_the_other(files):
    windows = text_windows(TEXT, files["vocab.txt"], 300)
    assert windows.shape[1] == 512
    assert (windows[:, 0] == 0).all()
    stream = windows[:, 1:].reshape(-1)
    ends = np.flatnonzero(stream == 0)
    assert ends[0] == 0 and len(ends) == 12
    other = text_windows(TEXT, files["vocab.txt"], 300, seed=1)
    assert other.shape == windows.shape and not np.array_equal(other, windows)


def test_a_short_text_is_refused(files):
    with pytest.raises(ArgumentError, match="calibration text has"):
        text_windows("the cat", files["vocab.txt"], 300)


@pytest.mark.parametrize(("count", "held"), [(2, 1), (39, 1), (100, 5), (5000, 32)])
def test_a_part_is_held_out(count, held):
    windows = np.arange(count)[:, None]
    train, held_out = split_held_out(windows)
    assert len(held_out) == held
    np.testing.assert_array_equal(np.concatenate([train, held_out]), windows)


def test_samples_follow_the_model(files):
    base = read_base(files["model.pth"])
    network = Network("v5.2", 2, 4, base.ln_x_eps)
    weights = {name: torch.from_numpy(one) for name, one in base.tensors.items()}
    weights["head.weight"] = 1000 * weights["head.weight"]  # one token is certain
    told = []
    random = torch.Generator().manual_seed(0)
    windows = sample_windows(network, weights, 2, random, lambda *at: told.append(at))
    assert windows.shape == (2, 512) and (windows[:, 0] == 0).all()
    assert told[-1] == (512, 512)
    streams, _ = network.forward(weights, torch.from_numpy(windows).long())
    likeliest = (streams[-1] @ weights["head.weight"].T).argmax(-1).numpy()
    assert (likeliest[:, :-1] == windows[:, 1:]).mean() > 0.99
