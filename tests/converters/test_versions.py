"""Versions are told from tensors alone; what is missing, odd or misshapen is refused by name."""

from __future__ import annotations

import numpy as np
import pytest

from converters.checkpoint.versions import check, detect, refuse_variants
from converters.read.source import SourceTensor
from tests.helpers.checkpoints import LIKE_V7, VERSIONS, raw_checkpoint
from tinyrwkv.errors import FormatError, UnsupportedError

SIZES = {"n_layer": 2, "n_embd": 32, "head_size": 8, "vocab_size": 40}


def sources(raw):
    return {
        name: SourceTensor("a.pth", name, x.shape, lambda x=x: iter([x])) for name, x in raw.items()
    }


def checkpoint(version, changes=None):
    return sources(raw_checkpoint(version, **SIZES) | (changes or {}))


def ones(*shape):
    return np.ones(shape, np.float32)


@pytest.mark.parametrize("version", VERSIONS)
def test_version_and_sizes(version):
    tensors = checkpoint(version)
    assert detect(tensors) == version
    found = check("a.pth", tensors)
    heads = (1, 32) if version == "v4" else (4, 8)
    width = 96 if version in ("v5.2", "v6") else 128
    assert found.config == {
        **{"arch": version, "n_layer": 2, "n_embd": 32, "n_ffn": width, "vocab_size": 40},
        **{"n_head": heads[0], "head_size": heads[1]},
    }
    assert bool(found.notes) == (version in LIKE_V7)


def test_the_order_of_tensors_does_not_matter():
    tensors = checkpoint("v7")
    backwards = dict(reversed(tensors.items()))
    assert check("a", backwards).config == check("a", tensors).config
    assert list(check("a", backwards).tensors) == list(check("a", tensors).tensors)


def test_v5_1_and_v5_2_differ_by_the_size_of_the_decay():
    tensors = checkpoint("v5.1")
    for shape in ((4,), (4, 1), (4, 1, 1)):
        decays = {
            f"blocks.{i}.att.{name}": ones(*shape)
            for i in (0, 1)
            for name in ("time_decay", "time_faaaa")
        }
        assert check("a", tensors | sources(decays)).config["arch"] == "v5.1"
    decays = {
        f"blocks.{i}.att.{name}": ones(4, 8, 1)
        for i in (0, 1)
        for name in ("time_decay", "time_faaaa")
    }
    assert check("a", tensors | sources(decays)).config["arch"] == "v5.2"


def test_first_values_of_layer_0_are_dropped():
    tensors = checkpoint("v7", {"blocks.0.att.v1": ones(5, 77)})
    assert not any(
        name.startswith("blocks.0.att.v") and name[-1] in "012"
        for name in check("a", tensors).tensors
    )
    without = {
        name: x for name, x in tensors.items() if name not in {f"blocks.0.att.v{i}" for i in "012"}
    }
    assert not check("a", without).notes


@pytest.mark.parametrize("version", VERSIONS)
def test_every_tensor_is_needed(version):
    tensors = checkpoint(version)
    for name in tensors:
        if version in LIKE_V7 and name in {f"blocks.0.att.v{i}" for i in "012"}:
            continue
        with pytest.raises(FormatError):
            check("a", {other: x for other, x in tensors.items() if other != name})


def test_missing_and_unknown_tensors_are_listed():
    tensors = checkpoint("v6")
    del tensors["blocks.1.ffn.key.weight"], tensors["ln_out.bias"]
    tensors |= sources({"pos_emb": ones(3), "blocks.0.att.extra": ones(3)})
    with pytest.raises(FormatError) as error:
        check("a", tensors)
    for part in (
        "2 are missing (",
        "blocks.1.ffn.key.weight",
        "ln_out.bias",
        "2 are unknown (pos_emb, blocks.0.att.extra)",
        "v6",
    ):
        assert part in str(error.value)
    with pytest.raises(
        FormatError, match=r"9 are unknown \(odd0, odd1, odd2, odd3, odd4, \.\.\.\)"
    ):
        check("a", checkpoint("v6", {f"odd{i}": ones(3) for i in range(9)}))


@pytest.mark.parametrize(
    ("version", "name", "shape", "expected"),
    [
        ("v4", "blocks.1.att.time_decay", (31,), "(32,)"),
        ("v4", "blocks.0.att.key.weight", (64, 32), "(32, 32)"),
        ("v5.2", "blocks.1.att.time_faaaa", (8, 4), "(4, 8)"),
        ("v6", "blocks.1.att.time_maa_w1", (40, 32), "(32, 40)"),
        ("v6", "blocks.1.ffn.value.weight", (96, 32), "(32, 96)"),
        ("v7", "blocks.1.att.w2", (32, 16), "(16, 32)"),
        ("v7", "head.weight", (41, 32), "(40, 32)"),
        ("v7", "blocks.0.ln0.bias", (1, 33), "(32,)"),
    ],
)
def test_shapes_are_checked(version, name, shape, expected):
    with pytest.raises(FormatError) as error:
        check("a.pth", checkpoint(version, {name: ones(*shape)}))
    wrong = f"tensor '{name}' has shape {shape}, not {expected}"
    assert f"a.pth looks like {version}, but {wrong}" in str(error.value)


def test_sizes_of_1_come_and_go():
    tensors = checkpoint("v7", {"blocks.0.att.k_k": ones(32), "blocks.1.ln1.bias": ones(1, 32, 1)})
    found = check("a", tensors).tensors
    assert found["blocks.0.att.k_k"].load().shape == (1, 1, 32)
    assert found["blocks.1.ln1.bias"].load().shape == (32,)


def test_heads_must_divide_the_embedding():
    decays = {
        f"blocks.{i}.att.{name}": ones(5) for i in (0, 1) for name in ("time_decay", "time_faaaa")
    }
    with pytest.raises(FormatError, match="5 heads, which is not a divisor of 32"):
        check("a", checkpoint("v5.1", decays))


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("blocks.3.qkv.q.weight", "DEA"),
        ("blocks.0.qkv.k_emb.weight", "RWKV-7b"),
        ("rosa1.emb0", "ROSA"),
        ("blocks.0.rosa.x_q", "ROSA"),
        ("model.layers.3.self_attn.q_proj.weight", "hybrid"),
        ("model.layers.3.attn.q_proj.weight", "hybrid"),
        ("blocks.0.ffn.experts.0.key.weight", "mixture of experts"),
        ("model.layers.0.attn.x_proj.0.weight", "flash-linear-attention"),
        ("blocks.5.tiny_q.weight", "tiny attention"),
    ],
)
def test_relatives_are_refused_by_name(name, variant):
    with pytest.raises(UnsupportedError, match=variant) as error:
        refuse_variants("a.pth", ["emb.weight", name, "head.weight"])
    assert name in str(error.value)


@pytest.mark.parametrize(
    ("name", "kind", "fix"),
    [
        ("blocks.0.att.key.lora_A", "a LoRA adapter", "BASE OUTPUT --lora a.pth"),
        ("model.blocks.0.att.key.lora_B", "a LoRA adapter", "BASE OUTPUT --lora a.pth"),
        (
            "model.blocks.0.att.key.init_lora_A",
            "the initial file of a PiSSA adapter",
            "--lora ADAPTER --lora-init a.pth",
        ),
        ("blocks.0.att.key.bone", "a Bone adapter", "merge it with the program that trained it"),
        ("blocks.0.att.key.disha", "a DiSHA adapter", "merge it with the program that trained it"),
    ],
)
def test_adapters_are_no_models(name, kind, fix):
    with pytest.raises(UnsupportedError) as error:
        refuse_variants("a.pth", ["blocks.0.ln1.weight", name])
    assert str(error.value).startswith(f"a.pth is {kind}, not a model; ") and fix in str(
        error.value
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_plain_checkpoints_are_no_relatives(version):
    refuse_variants("a.pth", list(checkpoint(version)))


def test_what_is_no_rwkv_at_all():
    with pytest.raises(FormatError, match=r"the tensors fc\.weight, fc\.bias"):
        check("a", sources({"fc.weight": ones(3, 3), "fc.bias": ones(3)}))
    with pytest.raises(FormatError, match="it has no tensors"):
        check("a", {})
    with pytest.raises(FormatError, match=r"'emb\.weight' has shape \(32,\)"):
        check("a", checkpoint("v4", {"emb.weight": ones(32)}))
    with pytest.raises(FormatError, match=r"'blocks\.0\.att\.r_k' is missing"):
        tensors = checkpoint("v7")
        del tensors["blocks.0.att.r_k"]
        check("a", tensors)


def test_a_stray_layer_number_makes_no_layers():
    with pytest.raises(FormatError, match=r"1 is unknown \(blocks\.9999\.ln1\.weight\)"):
        check("a", checkpoint("v4", {"blocks.9999.ln1.weight": ones(32)}))
    tensors = {
        name: x for name, x in checkpoint("v4").items() if not name.startswith("blocks.0.ln1")
    }
    with pytest.raises(
        FormatError, match=r"2 are missing \(blocks\.0\.ln1\.weight, blocks\.0\.ln1\.bias\)"
    ):
        check("a", tensors)
