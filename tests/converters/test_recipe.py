"""The tensors of a model file compute the same as the raw checkpoint, piece by piece."""

from __future__ import annotations

import numpy as np
import pytest

from converters.checkpoint.versions import check
from converters.read import source
from converters.read.source import SourceTensor, row_blocks
from converters.write.fold import fold_ln0
from converters.write.recipe import recipes
from tests.helpers.checkpoints import LIKE_V7, VERSIONS, raw_checkpoint
from tinyrwkv.errors import FormatError
from tinyrwkv.versions.forms import SHIFTED
from tinyrwkv.versions.layout import KEPT, tensor_shapes

C, H, N = 32, 4, 8
MIXES = {"v6": "time_maa_", **dict.fromkeys(LIKE_V7, "x_")}


def raw_of(version):
    return raw_checkpoint(version, n_layer=2, n_embd=C, head_size=N, vocab_size=40)


def sources(raw):
    def reader(x):
        return lambda: (x[first:last] for first, last in row_blocks(x.shape))

    return {name: SourceTensor("a.pth", name, x.shape, reader(x)) for name, x in raw.items()}


def model_tensors(raw):
    return {
        entry.name: np.concatenate(list(entry.blocks()))
        for entry in recipes(check("a.pth", sources(raw)))
    }


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("block", [1 << 19, 100])
def test_names_order_and_shapes_are_those_of_the_layout(monkeypatch, version, block):
    monkeypatch.setattr(source, "BLOCK", block)
    raw = raw_of(version)
    found, expected = model_tensors(raw), tensor_shapes(check("a.pth", sources(raw)).config)
    assert list(found) == [*expected, *KEPT]
    for name, shape in expected.items():
        assert found[name].dtype == np.float32
        assert found[name].ndim == len(shape)
        assert all(
            n == size
            for n, size in zip(found[name].shape, shape, strict=True)
            if isinstance(size, int)
        )


def test_nothing_is_read_before_it_is_needed():
    def unread():
        raise AssertionError("read")

    tensors = {
        name: SourceTensor("a.pth", name, x.shape, unread) for name, x in raw_of("v6").items()
    }
    assert len(recipes(check("a.pth", tensors))) == len(
        tensor_shapes(check("a.pth", tensors).config)
    ) + len(KEPT)


@pytest.mark.parametrize("version", VERSIONS)
def test_matrices_and_norms_stay_as_they_are(version):
    raw = raw_of(version)
    found = model_tensors(raw)
    same = [
        name for name in raw if name in found and name != "emb.weight" and "time_decay" not in name
    ]
    assert {
        "head.weight",
        "ln_out.bias",
        "blocks.1.ffn.value.weight",
        "blocks.0.att.output.weight",
    } <= set(same)
    for name in same:
        np.testing.assert_array_equal(
            found[name], raw[name].reshape(found[name].shape), err_msg=name
        )


def test_the_first_norm_is_folded_into_the_embedding():
    raw = raw_of("v4")
    x = raw["emb.weight"].astype(np.longdouble)
    x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    x = x * raw["blocks.0.ln0.weight"] + raw["blocks.0.ln0.bias"]
    found = model_tensors(raw)
    np.testing.assert_allclose(found["emb.weight"], x.astype(np.float32), rtol=2e-7, atol=1e-7)
    for name in KEPT:  # kept to take it out again
        np.testing.assert_array_equal(found[name], raw[name])


def test_a_row_of_equal_numbers_has_a_norm():
    rows = np.full((2, 8), 3.0, np.float32)
    np.testing.assert_array_equal(fold_ln0(rows, np.ones(8), np.arange(8)), [np.arange(8)] * 2)


@pytest.mark.parametrize("version", VERSIONS)
def test_token_shift(version):
    raw, prefix = raw_of(version), MIXES.get(version, "time_mix_")
    found = model_tensors(raw)
    x, x_prev = np.random.default_rng(1).standard_normal((2, C))
    for part, letters in (("att", SHIFTED[version]), ("ffn", "k" if version in LIKE_V7 else "kr")):
        rows = found[f"blocks.1.{part}.token_shift"]
        assert rows.shape == (len(letters), C)
        for row, letter in zip(rows, letters, strict=True):
            mix = raw[f"blocks.1.{part}.{prefix}{letter}"].reshape(C)
            # v4 and v5 write x mu + x_prev (1 - mu), the others x + (x_prev - x) mu
            expected = x + (x_prev - x) * mix if version in MIXES else x * mix + x_prev * (1 - mix)
            np.testing.assert_allclose(x + (x_prev - x) * row, expected, atol=1e-6)


def test_decay_and_first_of_v4():
    raw = raw_of("v4")
    found = model_tensors(raw)
    np.testing.assert_allclose(
        found["blocks.1.att.time_decay"], -np.exp(raw["blocks.1.att.time_decay"]), rtol=1e-6
    )
    np.testing.assert_array_equal(found["blocks.1.att.time_first"], raw["blocks.1.att.time_first"])


@pytest.mark.parametrize("version", ["v5.0", "v5.1", "v5.2"])
@pytest.mark.parametrize("first", ["time_first", "time_faaaa"])
def test_decay_and_bonus_of_v5(version, first):
    raw = {
        name.replace("time_faaaa", first).replace("time_first", first): x
        for name, x in raw_of(version).items()
    }
    found = model_tensors(raw)

    def per_channel(x):
        return x.reshape(C) if version == "v5.2" else np.repeat(x, N)

    decay, bonus = raw["blocks.1.att.time_decay"], raw[f"blocks.1.att.{first}"]
    np.testing.assert_allclose(
        found["blocks.1.att.time_decay"], per_channel(np.exp(-np.exp(decay))), rtol=1e-6
    )
    expected = per_channel(np.exp(bonus) if first == "time_first" else bonus)
    np.testing.assert_allclose(found["blocks.1.att.bonus"], expected, rtol=1e-6)
    assert ("blocks.0.att.gate.weight" in found) == (version != "v5.0")


def test_low_rank_of_v6():
    raw = raw_of("v6")
    found = model_tensors(raw)
    att, new = (
        "blocks.1.att.",
        {name[13:]: x for name, x in found.items() if name.startswith("blocks.1.att.")},
    )
    z = np.random.default_rng(1).standard_normal(C).astype(np.float32)
    D = raw[att + "time_maa_w2"].shape[1]
    # raw: tanh(z @ w1) in five parts, each times its w2, in the order w, k, v, r, g
    parts = np.tanh(z @ raw[att + "time_maa_w1"]).reshape(5, 1, D)
    old = dict(zip("wkvrg", (parts @ raw[att + "time_maa_w2"]).reshape(5, C), strict=True))
    down = np.tanh(new["time_maa_w1.weight"] @ z)
    for j, letter in enumerate(SHIFTED["v6"]):
        m = new["time_maa_w2.weight"][j * C : (j + 1) * C] @ down[j * D : (j + 1) * D]
        np.testing.assert_allclose(m, old[letter], atol=1e-6, err_msg=letter)
    expected = np.tanh(z @ raw[att + "time_decay_w1"]) @ raw[att + "time_decay_w2"]
    decay = new["time_decay_w2.weight"] @ np.tanh(new["time_decay_w1.weight"] @ z)
    np.testing.assert_allclose(decay, expected, atol=1e-6)
    np.testing.assert_array_equal(new["time_decay"], raw[att + "time_decay"].reshape(C))
    np.testing.assert_array_equal(new["bonus"], raw[att + "time_faaaa"].reshape(C))
    np.testing.assert_array_equal(new["time_maa_x"], raw[att + "time_maa_x"].reshape(C))


def test_low_rank_of_v7():
    raw = raw_of("v7")
    found, att = model_tensors(raw), "blocks.1.att."
    x = np.random.default_rng(1).standard_normal(C).astype(np.float32)
    for letter in "wavg":
        expected = x @ raw[att + letter + "1"] @ raw[att + letter + "2"]
        y = found[f"{att}{letter}2.weight"] @ (found[f"{att}{letter}1.weight"] @ x)
        np.testing.assert_allclose(y, expected, atol=1e-5)
    for name in ("w0", "a0", "v0", "k_k", "k_a", "r_k"):
        np.testing.assert_array_equal(found[att + name], raw[att + name].reshape(C))
    assert not any(name.startswith("blocks.0.att.v") and "value" not in name for name in found)


def test_deep_embedding_of_v7a():
    """The table has the embedding after ln0 in it, and the small matrices are transposed."""
    raw = raw_of("v7a")
    found = model_tensors(raw)
    x = found["emb.weight"]  # (V, C)
    for layer in range(2):
        ffn = f"blocks.{layer}.ffn."
        expected = raw[ffn + "s_emb.weight"] + x @ raw[ffn + "s_emb_x.weight"].T
        table = found["deep_emb.table"][:, layer]
        np.testing.assert_allclose(table, expected, rtol=1e-5, atol=1e-6)
        assert np.abs(table - raw[ffn + "s_emb.weight"]).max() > 0.01
        for name in ("s1", "s2"):
            np.testing.assert_array_equal(found[f"{ffn}{name}.weight"], raw[ffn + name].T)
        np.testing.assert_array_equal(found[ffn + "s0"], raw[ffn + "s0"].reshape(-1))


def test_deep_embedding_of_v8():
    raw = raw_of("v8-rc00")
    table = model_tensors(raw)["deep_emb.table"]  # (V, L, C)
    for layer in range(2):
        np.testing.assert_array_equal(table[:, layer], raw[f"blocks.{layer}.ffn.enn.weight"])


def test_a_deep_embedding_that_overflows_is_named():
    raw = raw_of("v7a")
    raw["blocks.1.ffn.s_emb_x.weight"][:] = 3e38
    table = recipes(check("a.pth", sources(raw)))[-3]
    with pytest.raises(FormatError, match=r"a\.pth: .* makes values that are not finite"):
        list(table.blocks())


def test_bad_numbers_are_named():
    raw = raw_of("v7")
    raw["blocks.1.att.x_a"][0, 0, 5] = np.nan
    entry = next(
        entry
        for entry in recipes(check("a.pth", sources(raw)))
        if entry.name == "blocks.1.att.token_shift"
    )
    with pytest.raises(
        Exception, match=r"a\.pth: tensor 'blocks\.1\.att\.x_a' holds NaN or infinity"
    ):
        list(entry.blocks())
