"""Predictors and previews on a model whose layers are int4, and weights that were int4 before."""

from __future__ import annotations

import contextlib
import json
import os
import re

import numpy as np
import pytest

from converters.calibrate.calibration import make
from converters.judge.cost import chosen_bytes
from converters.techniques.round_int4 import round_int4
from tests.helpers.checkpoints import raw_checkpoint
from tests.helpers.conversions import SIZES, TEXT, Files, run
from tests.helpers.pth_writer import write_pth
from tests.helpers.tiny_models import BOUNDS, Oracle, error
from tinyrwkv import load
from tinyrwkv.file.int4 import dequantize, row_bytes
from tinyrwkv.file.table import FILE_PAGE
from tinyrwkv.file.verify import open_verified

IDS = [0, 5, 99, 250, 7, 7, 130, 64, 257, 12, 3, 3, 201, 18, 77, 5, 260, 41]
C, V, LAYERS = SIZES["n_embd"], SIZES["vocab_size"], SIZES["n_layer"]
BODY = re.compile(
    r"blocks\.\d+\.(att\.(receptance|key|value|gate|output)|ffn\.(receptance|key))\.weight"
)

versions = pytest.mark.parametrize("version", ["v4", "v5.2", "v7"])


def logits(path: str) -> np.ndarray:
    """Return the logits after each of IDS; read together and one by one, they are the same."""
    with contextlib.closing(load(path)) as model:
        together, _ = model.forward(IDS, logits="all")
        state = None
        for token, row in zip(IDS, together, strict=True):
            alone, state = model.forward(token, state)
            assert np.array_equal(alone, row)
        return together


def converted(files: Files, name: str, *options: str) -> str:
    """Convert, give the file another name, and return its path."""
    assert run(files, *options) == 0
    path = os.path.join(os.path.dirname(files["out.trwkv"]), name)
    os.replace(files["out.trwkv"], path)
    return path


def steps_of(path: str) -> dict[str, dict]:
    with open_verified(path) as file:
        return {step["technique"]: step for step in file.metadata["compression"]}


def neurons(path: str, layer: int) -> tuple[np.ndarray, np.ndarray]:
    """Return keys and values of bundles in int4, each (F, C), in the order of the file."""
    with open_verified(path) as file:
        bundles, F = file[f"blocks.{layer}.ffn.bundles"], file.config["n_ffn"]
        pair = 2 * row_bytes(C)
        per_page = FILE_PAGE // pair
        rows = bundles[:, : per_page * pair].reshape(-1, pair)[:F]
        return dequantize(rows[:, : pair // 2]), dequantize(rows[:, pair // 2 :])


def sorted_rows(matrix: np.ndarray) -> list[bytes]:
    return sorted(row.tobytes() for row in np.ascontiguousarray(matrix + 0.0))


@versions
def test_predicted_neurons(files, capsys, version):
    files = files(version)
    path = converted(files, "a.trwkv", "--dtype", "int4", "--sparse-ffn", "predict", "--keep", ".5")
    report = json.loads(capsys.readouterr().out)
    steps = steps_of(path)
    assert list(steps) == ["int8", "calibration", "gptq", "sparse ffn"]
    assert report["dtype"] == "int4"
    assert steps["gptq"]["params"]["values"] == "by neuron"
    assert steps["sparse ffn"]["report"]["fraction"] == pytest.approx(0.5, abs=0.1)
    with open_verified(path) as file:
        assert file.metadata["dtype"] == "int4"
        assert file["blocks.1.ffn.bundles"].dtype == np.uint8
        assert not file.tensors["blocks.1.ffn.bundles"].offset % FILE_PAGE
        assert not any("bundles." in name for name in file.tensors)
        assert file["blocks.1.att.key.weight"].dtype == np.uint8
    assert np.isfinite(logits(path)).all()
    touched = {
        name: sum(one["touched"].values()) for name, one in report["figures"]["bytes"].items()
    }
    assert touched["dense"] > touched["gptq"] > touched["sparse ffn"]


@versions
def test_if_nothing_is_left_out_it_is_the_model_of_int4(files, capsys, version):
    files = files(version)
    exact = converted(files, "exact.trwkv", "--dtype", "int4", "--sparse-ffn", "exact")
    whole = converted(files, "a.trwkv", "--dtype", "int4", "--sparse-ffn", "predict", "--keep", "1")
    expected = Oracle(exact).run(IDS)[0]
    assert error(logits(exact), expected) < BOUNDS["int4"]
    assert error(logits(whole), expected) < BOUNDS["int4"]
    with open_verified(exact) as file:
        for layer in range(LAYERS):
            ffn = f"blocks.{layer}.ffn."
            found = zip(neurons(whole, layer), ("key.weight", "value.rows"), strict=True)
            for rows, name in found:
                assert sorted_rows(rows) == sorted_rows(dequantize(file[ffn + name]))


def test_the_engine_chooses_what_the_predictors_were_fitted_to(files, capsys):
    """What is read for a token is what the report of the stage tells."""
    files = files()
    path = converted(files, "a.trwkv", "--dtype", "int4", "--sparse-ffn", "predict", "--keep", ".3")
    with contextlib.closing(load(path)) as model:
        fit = make(model, "text", TEXT, 0, lambda *step: None).fit
        for document in fit:
            model.forward(document, logits=None)
        found = chosen_bytes(model) / sum(map(len, fit))
        layers = steps_of(path)["sparse ffn"]["report"]["layers"]
        told = sum(
            one["neurons"] * (one["fraction"] + one["recall"] * (1 - one["sparsity"]))
            for one in layers
        )
        assert found == pytest.approx(told * row_bytes(C), rel=0.1)


@pytest.mark.parametrize("parts", ["body", "all"])
@pytest.mark.parametrize("version", ["v5.2", "v7"])
def test_a_preview(files, capsys, version, parts):
    files = files(version)
    options = ("--dtype", "int4", "--parts", parts)
    in_one = ("--likely-rows", "0") if parts == "all" else ()  # as the exact rows of a preview are
    dense = converted(files, "dense.trwkv", *options, *in_one)
    every = converted(files, "every.trwkv", *options, "--head", "preview", "--head-rows", str(V))
    few = converted(files, "few.trwkv", *options, "--head", "preview", "--head-rows", "40")
    assert np.array_equal(logits(every), logits(dense))
    found, expected = logits(few), logits(dense)
    assert 0 < error(found, expected)
    assert (found == expected).any(axis=1).all()  # some rows are exact for each token
    params = steps_of(few)["head"]["params"]
    assert params.get("dtype") == ("int4" if parts == "all" else None)
    with open_verified(few) as file:
        rows = file["head.rows.weight"]
        assert rows.dtype == (np.uint8 if parts == "all" else np.int8)
        assert ("head.rows.weight.scale" in file) == (parts == "body")
        assert file["emb.weight"].dtype == (np.uint8 if parts == "all" else np.int8)
        report = steps_of(few)["head"]["report"]
        row = rows.shape[1] + (0 if parts == "all" else 4)
        assert report["bytes"]["rows"] == 40 * row


@pytest.mark.usefixtures("lossy_lite")
@pytest.mark.parametrize("version", ["v5.2", "v7"])
def test_the_preset_with_all_parts(files, capsys, version):
    files = files(version)
    path = converted(files, "a.trwkv", "--preset", "lite", "--parts", "all")
    assert list(steps_of(path)) == ["int8", "calibration", "gptq", "sparse ffn", "head"]
    assert steps_of(path)["head"]["params"]["dtype"] == "int4"
    assert np.isfinite(logits(path)).all()


@pytest.mark.usefixtures("lossy_lite")
def test_the_preset_in_int8(files, capsys):
    path = converted(files(), "a.trwkv", "--preset", "lite", "--dtype", "int8")
    assert list(steps_of(path)) == ["int8", "calibration", "sparse ffn", "head"]
    with open_verified(path) as file:
        assert file.metadata["dtype"] == "int8"


# Weights that were trained in int4.


def recover(files: Files, version: str, values: str) -> dict[str, np.ndarray]:
    """Write a checkpoint whose layers hold values of int4, as recovery does; return them."""
    raw = raw_checkpoint(version, **SIZES)
    held = {}
    for name, weight in raw.items():
        if BODY.fullmatch(name):
            held[name] = raw[name] = round_int4(weight).weights()
        elif name.endswith("ffn.value.weight"):
            rows = weight.T if values == "neurons" else weight
            weights = round_int4(np.ascontiguousarray(rows)).weights()
            raw[name] = np.ascontiguousarray(weights.T) if values == "neurons" else weights
            held[name] = raw[name]
    write_pth(files["model.pth"], raw)
    return held


def check_kept(path: str, held: dict[str, np.ndarray]) -> None:
    """Check that all matrices but those of the channel mixes are the same."""
    with open_verified(path) as file:
        for name, weight in held.items():
            if ".ffn.key." not in name and ".ffn.value." not in name:
                assert np.array_equal(dequantize(file[name]), weight), name


@pytest.mark.usefixtures("lossy_lite")
@pytest.mark.parametrize("version", ["v5.2", "v7"])
def test_recovered_weights_are_kept_by_the_preset(files, capsys, version):
    files = files(version)
    held = recover(files, version, "neurons")
    path = converted(files, "a.trwkv", "--preset", "lite")
    report = json.loads(capsys.readouterr().out)
    assert f"{len(held)} matrices hold values of int4 already" in "".join(report["notes"])
    steps = steps_of(path)
    assert list(steps) == ["int8", "int4", "calibration", "sparse ffn", "head"]
    assert steps["int4"]["report"] == {"kept": len(held)}
    check_kept(path, held)
    for layer in range(LAYERS):
        ffn = f"blocks.{layer}.ffn."
        key, value = neurons(path, layer)
        pairs = np.concatenate([held[ffn + "key.weight"], held[ffn + "value.weight"].T], axis=1)
        assert sorted_rows(np.concatenate([key, value], axis=1)) == sorted_rows(pairs)
    logits(path)


@pytest.mark.parametrize(
    ("values", "options"),
    [("rows", []), ("neurons", []), ("neurons", ["--sparse-ffn", "exact"])],
)
def test_recovered_weights_are_kept_in_all_forms(files, capsys, values, options):
    files = files("v7")  # whose values have rows of a multiple of 64
    held = recover(files, "v7", values)
    path = converted(files, "a.trwkv", "--dtype", "int4", *options)
    report = json.loads(capsys.readouterr().out)
    assert "gptq" not in steps_of(path)
    touched = report["figures"]["bytes"]["dense"]["touched"]
    assert touched["channel_mix"] > 0
    check_kept(path, held)
    with open_verified(path) as file:
        for layer in range(LAYERS):
            ffn = f"blocks.{layer}.ffn."
            named = ffn + "value." + ("rows" if values == "neurons" else "weight")
            found = dequantize(file[named])
            expected = held[ffn + "value.weight"]
            rows = expected.T if values == "neurons" else expected
            assert sorted_rows(found) == sorted_rows(rows)
    assert error(logits(path), Oracle(path).run(IDS)[0]) < BOUNDS["int4"]


@pytest.mark.usefixtures("lossy_lite")
def test_values_grouped_by_outputs_are_rounded_again_for_predictors(files, capsys):
    files = files("v7")
    held = recover(files, "v7", "rows")
    path = converted(files, "a.trwkv", "--preset", "lite")
    steps = steps_of(path)
    assert list(steps) == ["int8", "int4", "calibration", "gptq", "sparse ffn", "head"]
    assert list(steps["gptq"]["report"]["parts"]) == ["ffn.value"]
    check_kept(path, held)
    key, value = neurons(path, 1)
    assert sorted_rows(key) == sorted_rows(held["blocks.1.ffn.key.weight"])
    expected = held["blocks.1.ffn.value.weight"].T
    order = [sorted_rows(held["blocks.1.ffn.key.weight"]).index(one.tobytes()) for one in key + 0.0]
    by_key = np.argsort([row.tobytes() for row in held["blocks.1.ffn.key.weight"] + 0.0])
    difference = value - expected[by_key[order]]
    assert 0 < np.linalg.norm(difference) < 0.2 * np.linalg.norm(expected)


def test_factors_are_made_of_int8(files, capsys):
    files = files()
    recover(files, "v5.2", "neurons")
    path = converted(files, "a.trwkv", "--dtype", "int4", "--low-rank", "4")
    assert list(steps_of(path)) == ["int8", "calibration", "low rank", "gptq"]


def test_without_int4_nothing_is_kept(files, capsys):
    files = files()
    recover(files, "v5.2", "neurons")
    path = converted(files, "a.trwkv", "--sparse-ffn", "exact")
    with open_verified(path) as file:
        assert file.metadata["dtype"] == "int8"


def test_other_matrices_of_a_recovered_model_are_rounded(files, capsys):
    """A matrix that training has not touched goes the usual way."""
    files = files()
    held = recover(files, "v5.2", "neurons")
    raw = raw_checkpoint("v5.2", **SIZES) | {
        name: weight for name, weight in held.items() if "blocks.0." in name
    }
    write_pth(files["model.pth"], raw)
    path = converted(files, "a.trwkv", "--dtype", "int4", "--sparse-ffn", "predict")
    steps = steps_of(path)
    assert list(steps) == ["int8", "int4", "calibration", "gptq", "sparse ffn"]
    check_kept(path, {name: weight for name, weight in held.items() if "blocks.0." in name})
    with open_verified(path) as file:
        assert file["blocks.1.att.key.weight"].dtype == np.uint8
