"""Conversions to int4: which matrices, what they lose, and what the file says of it."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from converters import cli
from converters.calibrate import calibration
from converters.techniques.round_int4 import round_int4
from converters.write.convert import convert
from converters.write.parts import is_int4
from tests.helpers.checkpoints import raw_checkpoint
from tests.helpers.conversions import SIZES, run
from tests.helpers.pth_writer import write_pth
from tests.helpers.tiny_models import Oracle, error
from tinyrwkv import load
from tinyrwkv.errors import ArgumentError, FormatError, UnsupportedError
from tinyrwkv.file.int4 import dequantize, row_bytes
from tinyrwkv.file.verify import open_verified

IDS = [0, 5, 99, 250, 7, 7, 130, 64]
BOTH = pytest.mark.parametrize("parts", ["body", "all"])


def matrices(path) -> dict[str, np.ndarray]:
    """Return the matrices of a file, as floats."""
    with open_verified(path) as file:
        found = {}
        for name in file.tensors:
            if f"{name}.scale" in file:
                found[name] = file[name] * file[f"{name}.scale"][:, None]
            elif file[name].ndim == 2 and name.endswith(".weight"):
                packed = file[name].dtype == np.uint8
                found[name] = dequantize(file[name]) if packed else file[name].copy()
        return found


def check_types(path, parts: str) -> None:
    """Check that the matrices that should be are int4, and the others int8."""
    with open_verified(path) as file:
        assert file.metadata["dtype"] == "int4"
        C, F = file.config["n_embd"], file.config["n_ffn"]
        packed = {name for name, tensor in file.tensors.items() if tensor.dtype == "u8"}
        packed = {name for name in packed if not name.startswith("tokenizer.")}
        for name in packed:
            columns = F if name.endswith("ffn.value.weight") else C
            assert file[name].shape[1] == row_bytes(columns)
            assert f"{name}.scale" not in file
        widths = {name: array.shape[1] for name, array in matrices(path).items()}
        assert packed == {name for name in widths if is_int4(name, widths[name], parts)}
        assert ("head.weight" in packed) == (parts in ("all", "body,head"))
        assert ("emb.weight" in packed) == (parts in ("all", "body,embedding"))
        assert "blocks.1.att.key.weight" in packed


def check_logits(path) -> None:
    """Check that the engine computes what the reference does."""
    model = load(path)
    try:
        assert error(model.forward(IDS, logits="all")[0], Oracle(path).run(IDS)[0]) < 5e-3
    finally:
        model.close()


@BOTH
@pytest.mark.parametrize("version", ["v4", "v5.2", "v6", "v7"])
def test_rounding_to_nearest(files, capsys, tmp_path, version, parts):
    files = files(version)
    assert run(files, "--dtype", "int4", "--round", "--parts", parts, calibrate=False) == 0
    report = json.loads(capsys.readouterr().out)
    path = files["out.trwkv"]
    check_types(path, parts)
    check_logits(path)
    convert(files["model.pth"], tmp_path / "f32.trwkv", dtype="f32")
    exact = matrices(tmp_path / "f32.trwkv")
    difference = norm = 0.0
    for name, found in matrices(path).items():
        if is_int4(name, found.shape[1], parts):
            np.testing.assert_array_equal(found, round_int4(exact[name]).weights())
        difference += np.square(found - exact[name], dtype=np.float64).sum()
        norm += np.square(exact[name], dtype=np.float64).sum()
    (step,) = report["compression"]
    assert step["technique"] == "int4"
    assert step["params"] == {"parts": parts, "scale": "one per 64 weights"}
    assert step["report"]["relative_error"] == pytest.approx((difference / norm) ** 0.5, rel=1e-3)


@BOTH
@pytest.mark.parametrize("version", ["v4", "v5.2", "v6", "v7"])
def test_gptq(files, capsys, version, parts):
    files = files(version)
    assert run(files, "--dtype", "int4", "--parts", parts) == 0
    report = json.loads(capsys.readouterr().out)
    path = files["out.trwkv"]
    check_types(path, parts)
    check_logits(path)
    steps = {step["technique"]: step for step in report["compression"]}
    assert list(steps) == ["int8", "calibration", "gptq"]
    expected = {"parts": parts, "scale": "one per 64 weights", "text": "text.txt"}
    likely = {"likely_rows": SIZES["vocab_size"] // 4} if parts == "all" else {}
    assert steps["gptq"]["params"] == expected | likely
    found = steps["gptq"]["report"]
    assert 0 < found["relative_error"] < found["relative_error_to_nearest"]
    assert found["nll"] == pytest.approx(
        steps["calibration"]["report"]["nll"] + found["nll_delta"], rel=1e-6
    )
    assert ("head" in "".join(found["parts"])) == (parts in ("all", "body,head"))
    for one in found["parts"].values():
        assert 0 < one["relative_error"] <= one["relative_error_to_nearest"] < 0.5


@pytest.mark.parametrize("parts", ["body,head", "body,embedding"])
@pytest.mark.parametrize("options", [(), ("--round",)])
def test_the_embedding_and_the_head_are_chosen_one_by_one(files, capsys, parts, options):
    files = files()
    assert run(files, "--dtype", "int4", "--parts", parts, *options, calibrate=not options) == 0
    assert json.loads(capsys.readouterr().out)["compression"][-1]["params"]["parts"] == parts
    check_types(files["out.trwkv"], parts)
    check_logits(files["out.trwkv"])


def test_likely_rows_of_the_head_keep_their_int8(files, capsys, tmp_path):
    files = files()
    assert run(files, "--dtype", "int4", "--parts", "body,head", "--likely-rows", "70") == 0
    with open_verified(files["out.trwkv"]) as file:
        found = {name: file[name].copy() for name in file.tensors if name.startswith("head.")}
    assert run(files, "--dtype", "int4", "--parts", "body,head", "--likely-rows", "0") == 0
    convert(files["model.pth"], tmp_path / "int8.trwkv")
    with (
        open_verified(files["out.trwkv"]) as coarse,
        open_verified(tmp_path / "int8.trwkv") as fine,
    ):
        assert "head.places" not in coarse
        tokens = np.argsort(found["head.places"])
        likely, others = tokens[:70], tokens[70:]
        for end in ("weight", "weight.scale"):
            np.testing.assert_array_equal(found[f"head.likely.{end}"], fine[f"head.{end}"][likely])
        np.testing.assert_array_equal(found["head.weight"], coarse["head.weight"][others])
    # The text has few tokens, and a model that is fitted to it finds them likely.
    with load(files["out.trwkv"]) as model:
        logits, _ = model.forward([0, *model.tokenizer.encode("User: the cat")], logits="all")
        p = np.exp(logits - logits.max(axis=1, keepdims=True)).mean(axis=0)
    assert p[likely].mean() > p[others].mean()


@pytest.mark.parametrize("parts", ["tail", "body,body", "body,all", ""])
def test_parts_that_are_none_are_refused(files, capsys, tmp_path, parts):
    files = files()
    with pytest.raises(SystemExit, match="2"):
        run(files, "--dtype", "int4", "--parts", parts)
    assert f"{parts!r} is not all, or some of body, embedding, head" in capsys.readouterr().err
    with pytest.raises(ArgumentError, match=f"there are no parts {parts!r}"):
        convert(files["model.pth"], tmp_path / "out.trwkv", dtype="int4", parts=parts)


def test_gptq_of_its_own_text(files, capsys):
    files = files()
    assert run(files, "--dtype", "int4", calibrate=False) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["compression"][-1]["params"]["text"] == "own samples"
    check_types(files["out.trwkv"], "body")


@pytest.mark.parametrize("version", ["v4", "v7"])
def test_gptq_of_values_by_rows(files, capsys, version):
    files = files(version)
    assert run(files, "--dtype", "int4", "--sparse-ffn", "exact") == 0
    report = json.loads(capsys.readouterr().out)
    steps = {step["technique"]: step for step in report["compression"]}
    touched = {name: report["figures"]["bytes"][name]["touched"] for name in ("gptq", "sparse ffn")}
    for name, parts in touched.items():
        whole = steps[name]["report"]["touched_bytes_per_token"]
        assert sum(parts.values()) == pytest.approx(whole)
    dense = report["figures"]["bytes"]["dense"]["touched"]["channel_mix"]
    assert touched["sparse ffn"]["channel_mix"] < 0.6 * dense
    assert list(steps) == ["int8", "calibration", "gptq", "sparse ffn"]
    assert steps["gptq"]["params"]["values"] == "by neuron"
    assert abs(steps["sparse ffn"]["report"]["nll_delta"]) < 1e-4  # only the order changes
    of_values = steps["gptq"]["report"]["parts"]["ffn.value"]
    assert 0 < of_values["relative_error"] < of_values["relative_error_to_nearest"] < 0.5
    with open_verified(files["out.trwkv"]) as file:
        C, F = file.config["n_embd"], file.config["n_ffn"]
        rows = file["blocks.1.ffn.value.rows"]
        assert (rows.dtype, rows.shape) == (np.uint8, (F, row_bytes(C)))
        assert "blocks.1.ffn.value.rows.scale" not in file
    check_logits(files["out.trwkv"])


def test_factors_stay_int8(files, capsys):
    files = files()
    assert run(files, "--dtype", "int4", "--low-rank", "4") == 0
    steps = json.loads(capsys.readouterr().out)["compression"]
    assert [step["technique"] for step in steps][-2:] == ["low rank", "gptq"]
    with open_verified(files["out.trwkv"]) as file:
        assert file["blocks.0.att.key.weight.a"].dtype == np.int8
        assert file["blocks.0.att.output.weight"].dtype == np.uint8
    check_logits(files["out.trwkv"])


def test_int8_becomes_int4_by_gptq_only(files, capsys, tmp_path):
    files = files()
    assert run(files, calibrate=False) == 0
    dense = tmp_path / "dense.trwkv"
    (tmp_path / "out.trwkv").rename(dense)
    with pytest.raises(UnsupportedError, match="int8 lost is gone; leave --round out, or"):
        convert(dense, tmp_path / "no.trwkv", dtype="int4")
    assert run({**files, "model.pth": str(dense)}, "--dtype", "int4") == 0
    check_types(files["out.trwkv"], "body")
    with pytest.raises(UnsupportedError, match="is int4 and can't become f32"):
        convert(files["out.trwkv"], tmp_path / "no.trwkv", dtype="f32")
    assert not (tmp_path / "no.trwkv").exists()


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_float_becomes_int4(files, tmp_path, dtype):
    files = files()
    convert(files["model.pth"], tmp_path / "float.trwkv", dtype=dtype)
    convert(tmp_path / "float.trwkv", files["out.trwkv"], dtype="int4")
    check_types(files["out.trwkv"], "body")
    convert(files["out.trwkv"], tmp_path / "again.trwkv", dtype="int4")
    for name, found in matrices(tmp_path / "again.trwkv").items():
        np.testing.assert_array_equal(found, matrices(files["out.trwkv"])[name])


def test_what_int4_cannot_hold_is_named(tmp_path):
    raw = raw_checkpoint("v4", **SIZES)
    raw["blocks.1.att.key.weight"][3, 5] = 1e6
    write_pth(tmp_path / "big.pth", raw)
    with pytest.raises(
        FormatError, match=r"'blocks\.1\.att\.key\.weight' has weights .* apart, but int4 needs"
    ):
        convert(tmp_path / "big.pth", tmp_path / "out.trwkv", dtype="int4")
    assert not (tmp_path / "out.trwkv").exists()


@pytest.mark.parametrize("name", ["blocks.1.ffn.key.weight", "emb.weight"])
def test_what_gptq_cannot_hold_is_named(files, capsys, tmp_path, name):
    files = files("v4")
    raw = raw_checkpoint("v4", **SIZES)
    if name == "emb.weight":  # the layer norm before the first block makes it large
        raw["blocks.0.ln0.weight"][:] = 1e6
    else:
        raw[name][3, 5] = 1e6
    write_pth(tmp_path / "model.pth", raw)
    assert run(files, "--dtype", "int4", "--parts", "all") == 1
    assert f"tensor '{name}' has weights" in capsys.readouterr().err
    assert not os.path.exists(files["out.trwkv"])


def test_a_narrow_model_cannot_be_int4(tmp_path):
    sizes = {**SIZES, "n_embd": 32}
    write_pth(tmp_path / "narrow.pth", raw_checkpoint("v5.2", **sizes))
    found = "matrices as wide as a multiple of 64, which could become int4"
    with pytest.raises(UnsupportedError, match=found):
        convert(tmp_path / "narrow.pth", tmp_path / "out.trwkv", dtype="int4")
    assert not (tmp_path / "out.trwkv").exists()


@pytest.mark.parametrize(
    ("width", "words", "problem"),
    [
        (32, 9, "the model has no matrices in int8, as wide as a multiple of 64"),
        (64, 1, "all documents are empty; give another text with --calibrate"),  # token 0 alone
    ],
)
def test_what_gptq_cannot_round_is_refused(tmp_path, capsys, monkeypatch, width, words, problem):
    monkeypatch.setattr(calibration, "OWN", 200)  # tokens, for a quick test
    sizes = {"n_layer": 1, "n_embd": width, "head_size": 16, "vocab_size": words}
    sizes["n_ffn"] = width
    write_pth(tmp_path / "model.pth", raw_checkpoint("v7", **sizes))
    files = [str(tmp_path / name) for name in ("model.pth", "out.trwkv")]
    assert cli.main([*files, "--dtype", "int4"]) == 1
    error = capsys.readouterr().err
    assert problem in error and "dense.trwkv" not in error
    assert not os.path.exists(files[1])
