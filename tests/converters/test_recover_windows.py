"""The windows that a training reads."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra train (torch) is not installed")

from converters.recover import windows
from converters.recover.base import read_base
from converters.recover.network import Network
from converters.recover.windows import Windows, sample_windows, split_held_out, text_windows
from converters.write.vocab import read_vocab
from tests.helpers.conversions import TEXT, write_files
from tinyrwkv.errors import ArgumentError
from tinyrwkv.tokenizer import Tokenizer


@pytest.fixture
def files(tmp_path):
    return write_files(tmp_path)


def tokenizer(files):
    vocab = files["vocab.txt"]
    return Tokenizer(*read_vocab(vocab, 300), 300, vocab)


def test_windows_hold_the_documents_one_behind_the_other(files):
    windows = text_windows(TEXT, files["vocab.txt"], 300)
    assert windows.shape[1] == 512
    assert (windows[:, 0] == 0).all()
    stream = windows[:, 1:].reshape(-1)
    ends = np.flatnonzero(stream == 0)
    assert ends[0] == 0 and len(ends) == 12
    other = text_windows(TEXT, files["vocab.txt"], 300, seed=1)
    assert other.shape == windows.shape and not np.array_equal(other, windows)


def test_a_quarter_of_the_documents_has_broken_lines(files):
    """Old electronic books have such lines, and a conversion is fitted to some."""
    text = "\n<|doc|>\n".join(f"{i} " + "the cat ran abc " * 40 for i in range(17))
    stream = text_windows(text, files["vocab.txt"], 300)[:, 1:].reshape(-1)
    documents = np.split(stream, np.flatnonzero(stream == 0)[1:])
    decode = tokenizer(files).decode
    longest = [max(map(len, decode(ids).split("\n"))) for ids in documents[:16]]
    assert sum(length <= 80 for length in longest) == 4
    assert all(length <= 80 or length > 600 for length in longest)


def test_a_quarter_of_a_long_document_has_broken_lines(files):
    text = "the cat ran abc " * (8 * windows.PIECE // 16)
    stream = text_windows(text, files["vocab.txt"], 300)[:, 1:].reshape(-1)
    decoded = tokenizer(files).decode(stream)
    broken = sum(len(line) for line in decoded.split("\n") if len(line) <= 80)
    assert broken == pytest.approx(len(text) / 4, rel=0.05)


def test_a_short_text_is_refused(files):
    with pytest.raises(ArgumentError, match="calibration text has"):
        text_windows("the cat", files["vocab.txt"], 300)


@pytest.mark.parametrize(("count", "held"), [(2, 1), (39, 1), (100, 5), (5000, 32)])
def test_a_part_is_held_out(count, held):
    windows = np.arange(count)[:, None]
    train, held_out = split_held_out(windows)
    assert len(held_out) == held
    np.testing.assert_array_equal(np.concatenate([train, held_out]), windows)


def test_half_of_what_is_drawn_is_text_from_anywhere(monkeypatch):
    monkeypatch.setattr(windows, "UNLIKE", 0)
    text = np.concatenate([np.zeros((3, 1)), np.arange(1, 1534).reshape(3, 511)], 1).astype(
        np.int32
    )
    samples = np.full((2, 512), -1, np.int32)
    drawn = Windows(text, samples).draw(400, torch.Generator().manual_seed(0)).numpy()
    is_text = drawn[:, 1] > 0
    assert 150 < is_text.sum() < 250
    assert (drawn[~is_text] == -1).all()
    assert (drawn[is_text, 0] == 0).all() and (np.diff(drawn[is_text, 1:], axis=1) == 1).all()
    firsts = set(drawn[is_text, 1].tolist())
    assert len(firsts) > 100 and min(firsts) >= 1 and max(firsts) <= 1023


def test_some_tokens_stand_for_others_all_over_a_window():
    """The shape of a window stays: equal tokens are exchanged for equal ones."""
    one = np.concatenate([[0], np.tile(np.arange(1, 74), 7)]).astype(np.int32)  # 73 kinds
    other = np.concatenate([[0], np.arange(1000, 1511)]).astype(np.int32)
    other[100] = 0  # the end of a document
    drawn = Windows(np.empty((0, 512), np.int32), np.stack([one, other])).draw(
        300, torch.Generator().manual_seed(0)
    )
    shares = []
    for window in drawn.numpy():
        source = min((one, other), key=lambda each: (each != window).sum())
        pairs = set(zip(source.tolist(), window.tolist(), strict=True))
        assert len(pairs) == len(set(source.tolist()))
        assert ((window == 0) == (source == 0)).all()
        shares.append(np.mean([a != b for a, b in pairs]))
    assert 100 < np.count_nonzero(shares) < 200
    assert 0.2 < max(shares) < 0.45


@pytest.mark.parametrize("there_is_text", [True, False])
def test_windows_of_one_kind_are_all_that_is_drawn(there_is_text):
    some, none = np.arange(1024, dtype=np.int32).reshape(2, 512), np.empty((0, 512), np.int32)
    windows = Windows(some, none) if there_is_text else Windows(none, some)
    drawn = windows.draw(50, torch.Generator().manual_seed(0))
    assert drawn.shape == (50, 512) and drawn.dtype == torch.int64
    assert set(drawn[:, 1].tolist()) <= set(some[:, 1:].reshape(-1).tolist())


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
