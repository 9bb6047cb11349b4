"""Every dialect of names, shapes and values comes back as the raw checkpoint it was made from."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.checkpoint.names import is_flash_linear_attention, raw_tensors, unwrapped
from converters.read.open import open_source
from tests.helpers.checkpoint_files import ggmf, gguf, read_raw, safetensors, write
from tests.helpers.checkpoints import DEEP, LIKE_V7, VERSIONS, raw_checkpoint
from tests.helpers.dialects import to_fla, to_ggmf, to_gguf, to_hugging_face, to_web_rwkv
from tests.helpers.pth_writer import write_pth
from tinyrwkv.errors import FormatError

LAYERS = 4


def checkpoint(version, **sizes):
    return raw_checkpoint(
        version, n_layer=LAYERS, **{"n_embd": 32, "head_size": 8, "vocab_size": 40, **sizes}
    )


def check(path, raw, tolerance=0.0):
    """Compare a file with the raw checkpoint it stands for; v7's unused v0, v1, v2 may be gone."""
    config, found = read_raw(path)
    expected = {
        name: x for name, x in raw.items() if not re.fullmatch(r"blocks\.0\.att\.v[012]", name)
    }
    unused = set(raw) - set(expected) if config["arch"] not in LIKE_V7 else set()
    assert set(found) == set(expected) | unused
    for name, x in found.items():
        assert x.shape == raw[name].shape
        np.testing.assert_allclose(x, raw[name], rtol=tolerance, atol=tolerance, err_msg=name)
    return config


@pytest.mark.parametrize("version", VERSIONS)
def test_blinkdl(tmp_path, version):
    raw = checkpoint(version)
    write_pth(tmp_path / "a", raw)
    config = check(tmp_path / "a", raw)
    assert config["arch"] == version
    check(write(tmp_path / "b", safetensors(raw)), raw)


WRAPPERS = ("_forward_module", "_orig_mod", "_fsdp_wrapped_module", "module", "model")


@pytest.mark.parametrize("prefix", ["_forward_module.", "module.", "_orig_mod.", "model."])
def test_wrappers_of_training(tmp_path, prefix):
    raw = checkpoint("v6")
    write_pth(tmp_path / "a", {prefix + name: x for name, x in raw.items()})
    check(tmp_path / "a", raw)


@given(wrappers=st.lists(st.sampled_from(WRAPPERS), max_size=6))
def test_stacked_wrappers(wrappers):
    name = "blocks.0.att.receptance.weight"
    if "model" in wrappers:  # it stands once, and directly before the model
        wrappers = [one for one in wrappers if one != "model"] + ["model"]
    assert unwrapped(".".join([*wrappers, name])) == name


@pytest.mark.parametrize("to", [to_hugging_face, to_fla, lambda raw: raw])
def test_wrappers_around_every_dialect(tmp_path, to):
    raw = checkpoint("v7" if to is to_fla else "v5.2")
    tensors = {f"_forward_module._orig_mod.{name}": x for name, x in to(raw).items()}
    path = write(tmp_path / "a", safetensors(tensors))
    check(path, raw)
    with open_source(path) as source:
        assert is_flash_linear_attention(source) == (to is to_fla)


def test_wrappers_around_a_part_of_the_model(tmp_path):
    raw = checkpoint("v7")
    wrapped = {
        name.replace(".att.", "._checkpoint_wrapped_module.att._orig_mod."): x
        for name, x in raw.items()
    }
    write_pth(tmp_path / "a", wrapped)
    check(tmp_path / "a", raw)


@pytest.mark.parametrize("version", ["v4", "v5.0", "v5.1", "v5.2", "v6"])
def test_hugging_face(tmp_path, version):
    raw = checkpoint(version)
    check(write(tmp_path / "a", safetensors(to_hugging_face(raw))), raw)
    write_pth(tmp_path / "pytorch_model.bin", to_hugging_face(raw))
    check(tmp_path / "pytorch_model.bin", raw)


@pytest.mark.parametrize("fused", [False, True])
def test_fla(tmp_path, fused):
    raw = checkpoint("v7")
    path = write(tmp_path / "a", safetensors(to_fla(raw, fused)))
    check(path, raw)
    with open_source(path) as source:
        assert is_flash_linear_attention(source)


def test_fla_low_rank_matrices_as_large_as_the_embedding(tmp_path):
    # Where a rank equals n_embd, no shape tells the orientation: the names must.
    raw = checkpoint("v7", n_embd=24)
    assert raw["blocks.0.att.g1"].shape == (24, 24)
    check(write(tmp_path / "a", safetensors(to_fla(raw))), raw)
    check(write(tmp_path / "b", gguf(*to_gguf(raw, "v7"))), raw)
    check(write(tmp_path / "c", ggmf(to_ggmf(raw, "v7"), LAYERS)), raw)
    check(write(tmp_path / "d", safetensors(raw)), raw)


@pytest.mark.parametrize("version", ["v6", "v7"])
def test_web_rwkv(tmp_path, version):
    raw = checkpoint(version)
    check(write(tmp_path / "a", safetensors(to_web_rwkv(raw))), raw)


def test_web_rwkv_5(tmp_path):
    # Its time_first is what others call time_faaaa, and means something else under this name.
    raw = checkpoint("v5.2")
    check(write(tmp_path / "a", safetensors(to_web_rwkv(raw))), raw)


def test_web_rwkv_repeats_what_5_1_has_for_a_head(tmp_path):
    raw = checkpoint("v5.1")
    repeated = {
        name: np.repeat(x[:, None], 8, axis=1) if "time_decay" in name or "faaaa" in name else x
        for name, x in raw.items()
    }
    config = check(write(tmp_path / "a", safetensors(to_web_rwkv(repeated))), repeated)
    assert config["arch"] == "v5.2"
    # A copy of a .pth keeps the meaning that the name has there.
    old = {name.replace("time_faaaa", "time_first"): x for name, x in raw.items()}
    check(write(tmp_path / "b", safetensors(old)), old)


@pytest.mark.parametrize("version", ["v5.0", "v5.1", "v5.2"])
def test_both_names_of_the_bonus(tmp_path, version):
    raw = checkpoint(version)
    old, new = ("time_first", "time_faaaa") if version == "v5.0" else ("time_faaaa", "time_first")
    other = {name.replace(old, new): x for name, x in raw.items()}
    write_pth(tmp_path / "a", other)
    check(tmp_path / "a", other)
    check(write(tmp_path / "b", ggmf(to_ggmf(other, version), LAYERS)), other, 1e-4)


@pytest.mark.parametrize("version", [one for one in VERSIONS if one not in DEEP])
def test_ggmf(tmp_path, version):
    raw = checkpoint(version)
    # A decay near 0 or 1 lost digits when it was exponentiated.
    config = check(write(tmp_path / "a", ggmf(to_ggmf(raw, version), LAYERS)), raw, 1e-4)
    assert config["arch"] == version
    assert config["n_head"] == (1 if version == "v4" else 4)


@pytest.mark.parametrize("version", ["v5.2", "v6", "v7"])
def test_ggmf_with_one_head(tmp_path, version):
    raw = checkpoint(version, head_size=32)
    config = check(write(tmp_path / "a", ggmf(to_ggmf(raw, version), LAYERS)), raw, 1e-4)
    assert (config["n_head"], config["head_size"]) == (1, 32)


@pytest.mark.parametrize(("version", "stored"), [("v4", [-0.0, -1e30]), ("v5.2", [0.0, 1.0])])
def test_decays_that_under_or_overflowed(tmp_path, version, stored):
    raw = checkpoint(version)
    tensors = to_ggmf(raw, version)
    tensors["blocks.1.att.time_decay"].reshape(-1)[:2] = stored
    _, found = read_raw(write(tmp_path / "a", ggmf(tensors, LAYERS)))
    back = to_ggmf({"blocks.1.att.time_decay": found["blocks.1.att.time_decay"], **found}, version)
    np.testing.assert_allclose(
        back["blocks.1.att.time_decay"].reshape(-1)[:2], stored, rtol=1e-5, atol=1e-37
    )


@pytest.mark.parametrize("rescale", [0, 1, 2, 6])
def test_gguf_6_with_rescaling(tmp_path, rescale):
    raw = checkpoint("v6")
    check(write(tmp_path / "a", gguf(*to_gguf(raw, "v6", rescale))), raw)


def test_gguf_6_with_separate_mixes(tmp_path):
    raw = checkpoint("v6")
    arrays, settings = to_gguf(raw, "v6")
    for i in range(LAYERS):
        fused = arrays.pop(f"blk.{i}.time_mix_lerp_fused.weight")
        arrays |= {
            f"blk.{i}.time_mix_lerp_{letter}.weight": x.reshape(-1)
            for letter, x in zip("wkvrg", fused, strict=True)
        }
    check(write(tmp_path / "a", gguf(arrays, settings)), raw)


def test_gguf_7(tmp_path):
    raw = checkpoint("v7")
    config = check(write(tmp_path / "a", gguf(*to_gguf(raw, "v7"))), raw)
    assert (config["n_head"], config["head_size"]) == (4, 8)


def test_gguf_7_without_a_head_size_is_refused(tmp_path):
    arrays, settings = to_gguf(checkpoint("v7"), "v7")
    for wrong in ({}, {"rwkv7.wkv.head_size": 7}, {"rwkv7.wkv.head_size": 0}):
        kept = {name: value for name, value in settings.items() if "head_size" not in name} | wrong
        with pytest.raises(FormatError, match=r"att\.r_k"):
            read_raw(write(tmp_path / "a", gguf(arrays, kept)))


def test_two_tensors_that_mean_the_same_are_refused(tmp_path):
    raw = checkpoint("v6")
    write_pth(tmp_path / "a", {**raw, "module.head.weight": raw["head.weight"]})
    with pytest.raises(FormatError, match=r"module\.head\.weight' is a second 'head\.weight'"):
        read_raw(tmp_path / "a")


def test_a_fused_tensor_of_another_number_is_refused(tmp_path):
    arrays, settings = to_gguf(checkpoint("v7"), "v7")
    arrays["blk.1.time_mix_lerp_fused.weight"] = arrays["blk.1.time_mix_lerp_fused.weight"][:5]
    with pytest.raises(
        FormatError, match=r"shape \(5, 1, 1, 32\), but stands for 6 vectors, r, w, k, v, a, g"
    ):
        read_raw(write(tmp_path / "a", gguf(arrays, settings)))


@pytest.mark.parametrize("version", ["v6", "v7"])
def test_unknown_names_stay(tmp_path, version):
    raw = checkpoint(version)
    arrays, settings = to_gguf(raw, version)
    odd = {
        "blk.0.new.weight",
        "blk.0.new.bias",
        "blk.x.new.weight",
        "other",
        "blk.0.time_mix_first.bias",
    }
    arrays |= {name: np.ones(3, np.float32) for name in odd}
    with open_source(write(tmp_path / "a", gguf(arrays, settings))) as source:
        assert set(raw_tensors(source)) - set(raw) == odd
