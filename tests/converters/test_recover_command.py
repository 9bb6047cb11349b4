"""The command ``tinyrwkv-convert recover`` and its files, as far as they need no torch."""

from __future__ import annotations

import sys
import zipfile

import numpy as np
import pytest

from converters import cli
from converters.recover import trained
from converters.recover.base import read_base
from converters.recover.body import FROZEN, body, by_groups
from converters.recover.trained import Trained, about
from converters.recover.write_checkpoint import write_checkpoint
from tests.helpers.checkpoints import raw_checkpoint
from tests.helpers.conversions import SIZES, run, write_files
from tests.helpers.pth_writer import write_pth
from tinyrwkv.errors import ArgumentError, FormatError, UnsupportedError
from tinyrwkv.file import int4
from tinyrwkv.file.mapped import open_file


@pytest.fixture
def files(tmp_path):
    return write_files(tmp_path)


@pytest.fixture
def levels(files, tmp_path):
    """Write levels as a training would; return the checkpoint, them, and their path."""
    base = read_base(files["model.pth"])
    random = np.random.default_rng(0)
    rows = {}
    for name, transposed in body(base.tensors, "neurons").items():
        shape = by_groups(base.tensors[name], transposed).shape
        q = random.integers(0, 16, (shape[0], shape[1] * shape[2])).astype(np.uint8)
        scale = random.uniform(0.001, 0.1, shape[:2]).astype(np.float16)
        rows[name] = int4.pack(q, scale, random.integers(0, 16, shape[:2]).astype(np.uint8))
    vectors = {
        name: array + 1
        for name, array in base.tensors.items()
        if name not in rows and not FROZEN.fullmatch(name)
    }
    found = Trained(about(base, {"values": "neurons"}, REPORT), rows, vectors)
    path = str(tmp_path / "a.levels")
    trained.save(path, found)
    return base, found, path


REPORT = {
    "held_out_tokens": 511,
    "nll_teacher": 3.0,
    "nll_before": 3.2,
    "nll_after": 3.1,
    "kl_before": 0.2,
    "kl_after": 0.1,
    "steps": 2,
    "tokens": 1024,
    "seconds": 3.0,
    "device": "a device",
}


def test_levels_come_back(levels):
    base, found, path = levels
    again = trained.load(path, base)
    assert again.about == found.about
    for old, new in ((found.rows, again.rows), (found.vectors, again.vectors)):
        assert old.keys() == new.keys()
        for name, array in old.items():
            np.testing.assert_array_equal(new[name], array)


def test_levels_and_their_checkpoint_make_the_recovered_one(levels, files, tmp_path, capsys):
    base, found, path = levels
    output = str(tmp_path / "b.safetensors")
    assert cli.main(["recover", files["model.pth"], output, "--from", path]) == 0
    told = capsys.readouterr().out
    assert "checkpoint 3.0000, rounded +0.2000, trained +0.1000" in told
    made = read_base(output).tensors
    for name, array in found.tensors(base).items():
        np.testing.assert_array_equal(made[name], array)
    value = "blocks.1.ffn.value.weight"
    np.testing.assert_array_equal(made[value].T, int4.dequantize(found.rows[value]))
    assert run({**files, "model.pth": output}, calibrate=False) == 0


def test_a_conversion_to_int4_keeps_the_levels(levels, files, tmp_path):
    base, found, path = levels
    output, model = str(tmp_path / "b.safetensors"), str(tmp_path / "b.trwkv")
    assert cli.main(["recover", files["model.pth"], output, "--from", path, "--quiet"]) == 0
    assert cli.main([output, model, "--dtype", "int4", "--round", "--quiet"]) == 0
    with open_file(model) as file:
        for name, transposed in body(base.tensors, "neurons").items():
            if not transposed:  # a dense file has no groups along neurons
                rows = int4.dequantize(file[name])
                np.testing.assert_array_equal(rows, int4.dequantize(found.rows[name]))


def test_the_values_of_rwkv_5_0_to_time_first_have_one_name(tmp_path):
    raw = raw_checkpoint("v5.2", **SIZES)
    for layer in range(2):
        bonus = raw.pop(f"blocks.{layer}.att.time_faaaa")
        raw[f"blocks.{layer}.att.time_first"] = np.log(np.abs(bonus) + 0.1)
    write_pth(tmp_path / "a.pth", raw)
    found = read_base(tmp_path / "a.pth").tensors["blocks.0.att.time_faaaa"]
    np.testing.assert_allclose(found, np.exp(raw["blocks.0.att.time_first"]), rtol=1e-6)


def test_levels_of_another_checkpoint_are_refused(levels, tmp_path):
    write_pth(tmp_path / "b.pth", raw_checkpoint("v5.2", **SIZES, seed=1))
    with pytest.raises(FormatError, match="belongs to another checkpoint"):
        trained.load(levels[2], read_base(tmp_path / "b.pth"))


def rewritten(path, change):
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


KEY = "blocks.0.att.key.weight.npy"


@pytest.mark.parametrize(
    "change",
    [
        lambda members: members.pop(KEY),
        lambda members: members.pop("about.json"),
        lambda members: members.update({"about.json": b"{}"}),
        lambda members: members.update({"about.json": b"["}),
        lambda members: members.update({KEY: members[KEY][:-1]}),
        lambda members: members.update({KEY: members[KEY] + bytes(8192)}),
        lambda members: members.update({KEY: members[KEY].replace(b"(64, 35)", b"(35, 64)")}),
        lambda members: members.update({KEY: b"\x80\x04no array"}),
        lambda members: members.update(
            {"ln_out.bias.npy": members["ln_out.bias.npy"][:-4] + b"\0\0\xc0\x7f"}
        ),
    ],
    ids=["tensor", "about", "empty", "no json", "cut", "long", "shape", "bytes", "nan"],
)
def test_damaged_levels_are_refused(levels, change):
    base, _, path = levels
    rewritten(path, change)
    with pytest.raises(FormatError):
        trained.load(path, base)


def test_cut_levels_are_refused(levels, tmp_path):
    base, _, path = levels
    data = (tmp_path / "a.levels").read_bytes()
    for size in (0, 10, len(data) // 2, len(data) - 1):
        (tmp_path / "a.levels").write_bytes(data[:size])
        with pytest.raises(FormatError):
            trained.load(path, base)


def test_nothing_else_is_overwritten(levels, tmp_path):
    base, found, _ = levels
    other = tmp_path / "mine"
    other.write_text("my notes")
    with pytest.raises(ArgumentError, match="is not levels of"):
        trained.save(str(other), found)
    with pytest.raises(ArgumentError, match="is not a checkpoint of"):
        write_checkpoint(str(other), found.tensors(base), {})
    assert other.read_text() == "my notes"
    trained.save(levels[2], found)  # but what it has made itself


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["a.pth", "out.pth"], "OUT ends in .pth"),
        (["a.pth", "out.levels", "--from", "a.levels"], "OUT ends in .levels"),
        (["missing.pth", "out.levels"], "no such file"),
        (["a.pth", "out.levels", "--minutes", "0"], "--minutes is 0.0"),
        (["a.pth", "out.levels", "--samples", "-1"], "--samples is -1"),
        (["v4.pth", "out.levels"], "is RWKV v4, which recover does not train"),
        (["model.trwkv", "out.levels"], "is a model file, which recover does not train"),
        (["a.pth", "a.pth.levels", "--calibrate", "missing.txt"], "missing.txt"),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path, monkeypatch, capsys, options, told):
    monkeypatch.chdir(tmp_path)
    write_pth(tmp_path / "a.pth", raw_checkpoint("v5.2", **SIZES))
    write_pth(tmp_path / "v4.pth", raw_checkpoint("v4", **SIZES))
    assert cli.main(["a.pth", "model.trwkv", "--quiet"]) == 0
    capsys.readouterr()
    assert cli.main(["recover", *options]) == 1
    assert told in capsys.readouterr().err


def test_without_torch_it_says_what_to_install(files, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert cli.main(["recover", files["model.pth"], str(tmp_path / "a.levels")]) == 1
    told = capsys.readouterr().err
    assert "recover needs PyTorch, which is not installed; install it: pip install torch" in told


def test_a_checkpoint_of_low_rank_is_refused(tmp_path):
    raw = raw_checkpoint("v5.2", **SIZES)
    for layer in range(2):
        raw.pop(f"blocks.{layer}.att.key.weight")
        raw[f"blocks.{layer}.att.key1.weight"] = np.ones((8, 64), np.float32)
        raw[f"blocks.{layer}.att.key2.weight"] = np.ones((64, 8), np.float32)
    write_pth(tmp_path / "a.pth", raw)
    with pytest.raises(UnsupportedError, match="low rank"):
        read_base(tmp_path / "a.pth")
