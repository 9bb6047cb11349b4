"""Compressed files: what is in them, what they compute and record. A failure leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from converters import cli, options
from converters.calibrate import calibration
from converters.compress import compress, stages
from converters.compress.options import Options
from converters.compress.pipeline import Pipeline
from converters.compress.presets import PRESETS
from converters.compress.spectra import Spectra, matrix
from converters.techniques.low_rank import round_factors
from tests.helpers.conversions import TEXT, run
from tests.helpers.tiny_models import Oracle, error
from tinyrwkv import load
from tinyrwkv.errors import ArgumentError, FormatError, TinyRWKVError, UnsupportedError
from tinyrwkv.file.mapped import open_file
from tinyrwkv.file.verify import open_verified

IDS = [0, 5, 99, 250, 7, 7, 130, 64]


def logits(path):
    model = load(path)
    try:
        return model.forward(IDS, logits="all")[0]
    finally:
        model.close()


@pytest.mark.parametrize("version", ["v7a", "v8-rc00"])
def test_a_deep_embedding_stays_right_when_neurons_change_places(files, version):
    files = files(version)
    assert run(files, calibrate=False) == 0
    dense = logits(files["out.trwkv"])
    with open_verified(files["out.trwkv"]) as file:
        places = [tensor.name for tensor in file.tensors.values()]
    assert run(files, "--sparse-ffn", "exact") == 0
    assert logits(files["out.trwkv"]).tobytes() == dense.tobytes()
    with open_verified(files["out.trwkv"]) as file:
        assert "blocks.1.ffn.value.rows" in file
        assert [*file.tensors].index("deep_emb.table") == places.index("deep_emb.table")
        assert file.tensors["deep_emb.table"].offset % 4096 == 0
    assert run(files, "--sparse-ffn", "predict", "--keep", "1") == 0
    model = load(files["out.trwkv"])
    assert "blocks.1.ffn.bundles" in model.file
    found = model.forward(IDS, logits="all")[0]
    model.close()
    assert error(found, dense) < 1e-3


@pytest.mark.parametrize("version", ["v4", "v5.2", "v7"])
def test_low_rank(files, capsys, version):
    files = files(version)
    assert run(files, "--low-rank", "1/4", "--whiten", "--seed", "3") == 0
    report = json.loads(capsys.readouterr().out)
    steps = {step["technique"]: step for step in report["compression"]}
    assert list(steps) == ["int8", "calibration", "low rank"]
    assert steps["calibration"]["params"] == {"text": "text.txt", "seed": 3}
    assert steps["low rank"]["params"] == {"k": 4, "whiten": True}
    found = steps["low rank"]["report"]
    assert set(found["ranks"].values()) == {16}
    assert found["bytes"] < found["bytes_before"]
    assert 0 < found["relative_error"] <= found["worst_relative_error"] < 1
    with open_verified(files["out.trwkv"]) as file:
        names = [name for name in file.tensors if name.endswith(".weight.a")]
        assert sorted(name[:-2] for name in names) == sorted(found["ranks"])
        assert file.metadata["compression"] == report["compression"]
        stored = sum(
            t.nbytes
            for t in file.tensors.values()
            if ".weight.a" in t.name or ".weight.b" in t.name
        )
        assert stored == found["bytes"]
    # the engine computes what the reference does with these factors
    assert error(logits(files["out.trwkv"]), Oracle(files["out.trwkv"]).run(IDS)[0]) < 5e-3


def test_the_recorded_loss_is_that_of_the_file(files, capsys):
    files = files()
    assert run(files, "--low-rank", "4") == 0
    report = json.loads(capsys.readouterr().out)
    before, after = (report["compression"][i]["report"] for i in (1, 2))
    assert after["nll"] == pytest.approx(before["nll"] + after["nll_delta"])
    model = load(files["out.trwkv"])
    held_out = calibration.make(model, "text", TEXT, 0, lambda *step: None).held_out
    assert sum(map(len, held_out)) == before["held_tokens"]
    oracle = Oracle(files["out.trwkv"])
    nll, count = 0.0, 0
    for ids in held_out:
        z = oracle.run(ids[:-1])[0].astype(np.float64)
        z -= z.max(axis=1, keepdims=True)
        nll += (np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), ids[1:]]).sum()
        count += len(z)
    assert after["nll"] == pytest.approx(nll / count, abs=2e-3)


def test_whitening_lowers_the_error_that_it_measures(files, capsys):
    files = files()
    assert (
        cli.main([files["model.pth"], files["out.trwkv"], "--vocab", files["vocab.txt"], "--quiet"])
        == 0
    )
    with Pipeline(
        files["out.trwkv"], os.path.dirname(files["out.trwkv"]), 0, lambda *step: None
    ) as pipeline:
        pipeline.calibrate("text", TEXT)
        metrics = pipeline.metrics()
        plain, white = (
            stages.factor_projections(
                pipeline.dense, pipeline.spectra(whitened), lambda *step: None, k=4
            )
            for whitened in (False, True)
        )
        for name in white.edits:
            weight, metric = matrix(pipeline.dense, name), metrics[name]
            errors = []
            for edits in (plain.edits, white.edits):
                a, a_scale, b, b_scale = edits[name]().values()
                errors.append(metric.error(weight, (b * b_scale[:, None]) @ (a * a_scale[:, None])))
            assert errors[1] < errors[0]


@pytest.mark.parametrize("budget", ["70%", "30kB"])
def test_a_rank_budget_is_kept(files, capsys, budget):
    files = files()
    assert run(files, "--rank-budget", budget) == 0
    found = json.loads(capsys.readouterr().out)["compression"][-1]["report"]
    most = 30_000 if budget == "30kB" else 0.7 * found["bytes_before"]
    assert most - 64 * 68 < found["bytes"] <= most
    assert len(set(found["ranks"].values())) > 1


def test_nothing_is_taken_apart_twice(files, capsys, monkeypatch):
    calls, svd = [], np.linalg.svd

    def counted(*args, **kwargs):
        calls.append(args)
        return svd(*args, **kwargs)

    monkeypatch.setattr(np.linalg, "svd", counted)
    assert run(files(), "--rank-budget", "70%") == 0
    report = json.loads(capsys.readouterr().out)["compression"][-1]["report"]
    assert len(calls) == len(report["ranks"])


def test_terms_that_were_kept_give_the_same_factors(files, capsys, tmp_path):
    files = files()
    arguments = [files["model.pth"], files["out.trwkv"], "--vocab", files["vocab.txt"], "--quiet"]
    assert cli.main(arguments) == 0
    with Pipeline(files["out.trwkv"], str(tmp_path), 0, lambda *step: None) as pipeline:
        pipeline.calibrate("text", TEXT)
        spectra = pipeline.spectra(True)
        for name in stages.projections(pipeline.dense):
            weight, metric = matrix(pipeline.dense, name), spectra.metric(name)
            whole = spectra[name]
            values = spectra.values(name)
            kept = spectra[name]
            assert len(kept.right) < len(whole.right)
            assert np.array_equal(values, whole.values) and np.array_equal(values, kept.values)
            rank = len(kept.right)
            pairs = (round_factors(weight, terms, rank, metric) for terms in (whole, kept))
            assert all(np.array_equal(a, b) for a, b in zip(*pairs, strict=True))


@pytest.mark.parametrize("version", ["v4", "v5.2", "v7"])
def test_preset_exact_gives_the_same_bits(files, capsys, version, tmp_path):
    files = files(version)
    assert run(files, "--preset", "exact", calibrate=False) == 0
    report = json.loads(capsys.readouterr().out)
    found = report["compression"][-1]
    assert found["params"] == {"mode": "exact"}
    assert found["report"]["differing_logits"] == 0
    assert "nll" not in report["compression"][-2]["report"]  # nothing to compare
    assert 0.3 < found["report"]["sparsity"] < 0.7  # random neurons fire for half of the tokens
    dense = str(tmp_path / "dense.trwkv")
    assert cli.main([files["model.pth"], dense, "--quiet"]) == 0
    np.testing.assert_array_equal(logits(dense), logits(files["out.trwkv"]))
    with open_file(files["out.trwkv"]) as file:
        assert sum(name.endswith(".rows") for name in file.tensors) == 2
        assert not any(
            tensor.offset % 4096 for name, tensor in file.tensors.items() if name.endswith(".rows")
        )


@pytest.mark.parametrize(
    "share", [["--keep", "0.5"], ["--recall", "0.9"], ["--recall", "0.9", "--mlp", "5"]]
)
def test_predicted_neurons(files, capsys, share):
    files = files()
    assert run(files, "--low-rank", "4", "--sparse-ffn", "predict", *share) == 0
    report = json.loads(capsys.readouterr().out)
    assert [step["technique"] for step in report["compression"]] == [
        "int8",
        "calibration",
        "low rank",
        "sparse ffn",
    ]
    found = report["compression"][-1]["report"]
    name, least = ("fraction", 0.45) if "--keep" in share else ("energy", 0.9)
    assert least <= found[name] <= least + 0.1
    assert len(found["layers"]) == 2
    assert {"nll", "nll_delta", "top1", "top1_delta"} <= set(found)
    with open_verified(files["out.trwkv"]) as file:
        assert {
            f"blocks.{i}.ffn.{part}" for i in range(2) for part in ("bundles", "predictor.signs")
        } <= set(file.tensors)
        assert not file.tensors["blocks.0.ffn.bundles"].offset % 4096
        assert ("blocks.1.ffn.predictor.fc1.weight" in file.tensors) == ("--mlp" in share)
    assert np.isfinite(logits(files["out.trwkv"])).all()


def test_a_head_by_its_preview(files, capsys, tmp_path):
    files = files()
    assert run(files, "--head", "preview", "--head-rows", "40") == 0
    report = json.loads(capsys.readouterr().out)
    step = report["compression"][-1]
    assert step["params"] == {"form": "preview", "rows": 40, "seed": 0}
    coverage = report["figures"]["head"]["coverage"]
    assert [count for count, _ in coverage] == sorted({count for count, _ in coverage})
    assert coverage[-1] == [300, pytest.approx(1, abs=1e-4)]
    with open_verified(files["out.trwkv"]) as file:
        assert "head.weight" not in file
        assert file.tensors["head.rows.weight"].offset % 4096 == 0
    # the likeliest tokens are mostly those of the dense head
    assert cli.main([files["model.pth"], str(tmp_path / "dense.trwkv"), "--quiet"]) == 0
    found, dense = logits(files["out.trwkv"]), logits(str(tmp_path / "dense.trwkv"))
    assert (
        found.argmax(axis=1) == dense.argmax(axis=1)
    ).sum() >= 5  # of 8; random heads have no few directions
    assert error(found, dense) > 0


def test_all_rows_are_the_dense_head(files, capsys, tmp_path):
    files = files()
    assert run(files, "--head", "preview", "--head-rows", "300") == 0
    assert json.loads(capsys.readouterr().out)["compression"][-1]["report"][
        "nll_delta"
    ] == pytest.approx(0, abs=1e-6)
    assert cli.main([files["model.pth"], str(tmp_path / "dense.trwkv"), "--quiet"]) == 0
    np.testing.assert_array_equal(logits(files["out.trwkv"]), logits(str(tmp_path / "dense.trwkv")))


@pytest.mark.usefixtures("lossy_lite")
@pytest.mark.parametrize("version", ["v4", "v5.2", "v7"])
def test_preset_lite(files, capsys, version):
    files = files(version)
    assert run(files, "--preset", "lite", "--head-rows", "64") == 0
    report = json.loads(capsys.readouterr().out)
    steps = [step["technique"] for step in report["compression"]]
    assert steps == ["int8", "calibration", "gptq", "sparse ffn", "head"]
    sizes = report["figures"]["bytes"]
    assert list(sizes) == ["dense", "gptq", "sparse ffn", "head"]
    touched = [sum(one["touched"].values()) for one in sizes.values()]
    assert touched[0] > touched[1] > touched[2]
    # a head of 300 rows is too small for a preview to pay, and the report says so
    assert touched[3] > touched[2]
    assert any(
        note.startswith("head does not pay for this model: it reads ") for note in report["notes"]
    )
    model = load(files["out.trwkv"])
    assert set(sizes["head"]["touched"]) == {part["part"] for part in model.plan()["parts"]}
    assert np.isfinite(logits(files["out.trwkv"])).all()


@pytest.mark.usefixtures("lossy_lite")
def test_nothing_is_done_twice(files, capsys):
    files = files()
    again = [files["out.trwkv"], files["out.trwkv"] + "2", "--calibrate", files["text.txt"]]
    assert run(files, "--preset", "lite", "--dtype", "int8", "--low-rank", "4") == 0
    for given in (["--low-rank", "4"], ["--sparse-ffn", "exact"], ["--head", "preview"]):
        assert cli.main([*again, *given]) == 1
        assert "already" in capsys.readouterr().err
    assert run(files, "--preset", "lite") == 0
    assert cli.main([*again, "--head", "preview"]) == 1
    assert "what int4 lost is gone; convert the original checkpoint" in capsys.readouterr().err


def test_a_technique_that_costs_too_much_is_left_out(files, capsys, monkeypatch):
    files = files()
    monkeypatch.setitem(
        PRESETS, "lite", PRESETS["lite"]._replace(max_nll_rise=-9.0, head=None, head_rows=None)
    )
    assert run(files, "--preset", "lite") == 0
    report = json.loads(capsys.readouterr().out)
    assert [step["technique"] for step in report["compression"]] == ["int8", "calibration"]
    assert [note.split(":")[0] for note in report["notes"]] == [
        "gptq was left out",
        "sparse ffn was left out",
    ]
    with open_file(files["out.trwkv"]) as file:
        assert "blocks.0.att.key.weight" in file


def test_options_overrule_a_preset(files, capsys):
    files = files()
    assert run(files, "--preset", "exact", "--low-rank", "4", "--whiten") == 0
    steps = json.loads(capsys.readouterr().out)["compression"]
    assert [step["technique"] for step in steps] == [
        "int8",
        "calibration",
        "low rank",
        "sparse ffn",
    ]
    parser = cli.parser()
    paths = ["a", "b", "--preset", "lite"]
    wanted = options.read(parser.parse_args([*paths, "--low-rank", "1/3", "--sparse-ffn", "exact"]))
    assert wanted == PRESETS["lite"]._replace(low_rank=3, sparse_ffn="exact", keep=None)
    assert wanted.int4 == "body"
    wanted = options.read(parser.parse_args([*paths, "--dtype", "int8"]))
    assert wanted == PRESETS["lite"]._replace(int4=None)
    wanted = options.read(parser.parse_args([*paths, "--parts", "all"]))
    assert wanted == PRESETS["lite"]._replace(int4="all")
    wanted = options.read(parser.parse_args([*paths, "--recall", "0.99"]))
    assert (wanted.keep, wanted.recall) == (None, 0.99)


@pytest.mark.parametrize(
    ("head_rows", "vocab_size", "expected"),
    [
        (None, 65536, 3072),
        (None, 12288, 3072),
        (None, 4096, 1024),
        (None, 3, 1),
        (2000, 4096, 2000),
        (0, 65536, 0),
    ],
)
def test_candidates_are_few_in_a_small_vocabulary(head_rows, vocab_size, expected):
    given = Options(head="preview", head_rows=head_rows)
    assert given.candidates(vocab_size) == expected


@pytest.mark.parametrize(
    ("likely_rows", "vocab_size", "head", "expected"),
    [
        (None, 65536, None, 4096),
        (None, 4096, None, 1024),
        (None, 3, None, 0),
        (0, 65536, None, 0),
        (70000, 65536, None, 65535),
        (None, 65536, "preview", 0),
    ],
)
def test_likely_rows_are_few_in_a_small_vocabulary(likely_rows, vocab_size, head, expected):
    given = Options(int4="all", likely_rows=likely_rows, head=head)
    assert given.likely(vocab_size) == expected


def test_a_head_without_a_number_of_rows_has_a_quarter(files, capsys):
    assert run(files(), "--head", "preview") == 0
    assert json.loads(capsys.readouterr().out)["compression"][-1]["params"]["rows"] == 75


def test_zero_is_not_the_default(files, capsys):
    files = files()
    paths = files["model.pth"], files["out.trwkv"]
    with pytest.raises(ArgumentError, match="fraction"):
        compress.compress(*paths, Options(sparse_ffn="predict", keep=0.0))
    report = compress.compress(*paths, Options(head="preview", head_rows=0))
    assert report["compression"][-1]["params"]["rows"] == 0
    assert Options(keep=0.0).as_arguments() == "--keep 0.0"


def test_its_own_samples_do(files, capsys):
    files = files()
    assert run(files, "--low-rank", "4", "--whiten", calibrate=False) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["compression"][1]["params"] == {"text": "own samples", "seed": 0}
    with open(files["out.trwkv"], "rb") as file:
        data = file.read()
    assert run(files, "--low-rank", "4", "--whiten", calibrate=False) == 0
    with open(files["out.trwkv"], "rb") as file:
        assert file.read() == data
    capsys.readouterr()


def test_a_model_file_is_as_good_as_its_checkpoint(files, capsys, tmp_path):
    files = files()
    dense = str(tmp_path / "dense.trwkv")
    assert cli.main([files["model.pth"], dense, "--quiet", "--vocab", files["vocab.txt"]]) == 0
    options = ["--low-rank", "4", "--calibrate", files["text.txt"], "--json"]
    assert run(files, "--low-rank", "4") == 0
    assert cli.main([dense, str(tmp_path / "two.trwkv"), *options]) == 0
    with open_file(files["out.trwkv"]) as one, open_file(tmp_path / "two.trwkv") as two:
        assert list(one.tensors.values()) == list(two.tensors.values())
        assert one.metadata["compression"] == two.metadata["compression"]


def test_factors_are_not_factored_again(files, capsys, tmp_path):
    files = files()
    assert run(files, "--low-rank", "4") == 0
    capsys.readouterr()
    assert cli.main([files["out.trwkv"], str(tmp_path / "b.trwkv"), "--low-rank", "4"]) == 1
    assert "factors already" in capsys.readouterr().err
    assert (
        cli.main([files["out.trwkv"], str(tmp_path / "b.trwkv"), "--preset", "exact", "--quiet"])
        == 0
    )


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["--whiten"], "--whiten alone does nothing; add what is to be fitted"),
        (["--seed", "1"], "--seed alone"),
        (["--seed", "0"], "--seed alone"),
        (["--calibrate", "text.txt"], "--calibrate alone"),
        (["--low-rank", "2"], "does not save memory"),
        (["--low-rank", "1.5"], "--low-rank above 2"),
        (
            ["--low-rank", "4", "--rank-budget", "70%"],
            "--low-rank and --rank-budget do not go together",
        ),
        (["--rank-budget", "1kB"], "raise the budget"),
        (["--keep", "0.2"], "--keep, --recall and --mlp are for neurons that are predicted; add"),
        (
            ["--sparse-ffn", "predict", "--keep", "0.2", "--recall", "0.9"],
            "--keep and --recall do not go together",
        ),
        (["--low-rank", "4", "--head-rows", "9"], "--head-rows is for a head with a preview; add"),
        (["--likely-rows", "9"], "--likely-rows is for int4; add --dtype int4"),
        (
            ["--dtype", "int4", "--likely-rows", "9"],
            "--likely-rows is for a dense head in int4; add --dtype int4 --parts body,head",
        ),
        (
            ["--preset", "lite", "--parts", "all", "--likely-rows", "0"],
            "--likely-rows is for a dense head in int4",
        ),
        (["--head-clusters", "200"], "--head preview reads fewer bytes for the same loss"),
        (
            ["--budget", "1MB", "--low-rank", "4"],
            "--budget and --low-rank do not go together; leave --low-rank out",
        ),
        (["--budget", "1MB", "--preset", "exact"], "--budget and --preset"),
        (
            ["--low-rank", "4", "--dtype", "f16"],
            "compressed models are int8 or int4, and --dtype is f16; leave --dtype out",
        ),
        (["--round"], "--round is for int4; add --dtype int4"),
        (["--parts", "all", "--low-rank", "4"], "--parts is for int4; add --dtype int4"),
        (
            ["--dtype", "int4", "--round", "--low-rank", "4"],
            "--round does not go with options that compress; leave --round out",
        ),
        (["--dtype", "int4", "--round", "--seed", "1"], "--seed alone"),
        (["--dtype", "int4", "--budget", "1MB"], "--budget and --dtype int4 do not go together"),
        (["--preset", "exact", "--parts", "all"], "--parts is for int4; add --dtype int4"),
        (
            ["--preset", "lite", "--round"],
            "--round does not go with options that compress; leave --round out",
        ),
        (
            ["--preset", "lite", "--dtype", "int8", "--parts", "all"],
            "--parts is for int4; add --dtype int4",
        ),
    ],
)
def test_options_that_make_no_sense(files, capsys, given, found):
    files = files()
    assert run(files, *given, calibrate=False) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert found in err
    assert sorted(os.listdir(os.path.dirname(files["out.trwkv"]))) == [
        "model.pth",
        "text.txt",
        "vocab.txt",
    ]


@pytest.mark.parametrize(
    "option",
    [
        ["--low-rank", "a"],
        ["--low-rank", "0"],
        ["--low-rank", "nan"],
        ["--rank-budget", "much"],
        ["--rank-budget", "0%"],
        ["--rank-budget", "101%"],
        ["--preset", "best"],
        ["--sparse-ffn", "some"],
        ["--keep", "2"],
        ["--recall", "x"],
        ["--head-rows", "0"],
        ["--budget", "24 apples"],
        ["--seed", "-1"],
    ],
)
def test_options_that_argparse_refuses(files, capsys, option):
    with pytest.raises(SystemExit) as ended:
        run(files(), *option)
    assert ended.value.code == 2
    assert option[0] in capsys.readouterr().err


def test_texts_that_do_not_do(files, tmp_path):
    files = files()
    paths = files["model.pth"], files["out.trwkv"]
    (tmp_path / "short.txt").write_text("abc")
    with pytest.raises(ArgumentError, match="two pieces"):
        compress.compress(
            *paths,
            Options(low_rank=4, whiten=True),
            calibrate=tmp_path / "short.txt",
            vocab=files["vocab.txt"],
        )
    with pytest.raises(FormatError, match=r"no such file: .*none"):
        compress.compress(*paths, Options(low_rank=4), calibrate=tmp_path / "none.txt")
    with pytest.raises(UnsupportedError, match="tokenizer"):
        compress.compress(*paths, Options(low_rank=4), calibrate=files["text.txt"])
    with pytest.raises(FormatError, match="cannot write"):
        compress.compress(files["model.pth"], tmp_path / "no" / "folder", PRESETS["exact"])
    with pytest.raises(ArgumentError, match="would replace the input"):
        compress.compress(files["model.pth"], files["model.pth"], PRESETS["exact"])
    assert not os.path.exists(paths[1])


@pytest.mark.parametrize(
    "stage",
    ["convert", "sample", "moments", "low rank", "judge low rank", "int4", "judge gptq", "write"],
)
def test_an_interrupt_leaves_nothing(files, tmp_path, monkeypatch, stage):
    files = files()
    before = sorted(os.listdir(tmp_path))
    seen = []

    def tell(name, done, total):
        seen.append(name)
        if name == stage:
            raise KeyboardInterrupt

    if stage == "write":
        edit = compress.edit

        def interrupted(file, path, edits, metadata):
            edit(file, path + "-part", edits, metadata)
            if path == files["out.trwkv"]:
                os.unlink(path + "-part")
                raise KeyboardInterrupt
            os.replace(path + "-part", path)

        monkeypatch.setattr(compress, "edit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compress.compress(
            files["model.pth"],
            files["out.trwkv"],
            Options(low_rank=4, whiten=True, int4="body"),
            vocab=files["vocab.txt"],
            tell=tell,
        )
    assert sorted(os.listdir(tmp_path)) == before
    assert seen


def test_an_older_file_stays_until_the_new_one_is_complete(files, tmp_path):
    files = files()
    (tmp_path / "out.trwkv").write_text("old")
    with pytest.raises(TinyRWKVError):
        compress.compress(files["model.pth"], files["out.trwkv"], Options(low_rank=2))
    assert (tmp_path / "out.trwkv").read_text() == "old"


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing(files, tmp_path, number):
    files = files()
    before = sorted(os.listdir(tmp_path))
    command = [
        sys.executable,
        "-m",
        "converters",
        files["model.pth"],
        files["out.trwkv"],
        "--low-rank",
        "4",
        "--whiten",
    ]
    root = os.path.dirname(os.path.dirname(os.path.abspath(cli.__file__)))
    process = subprocess.Popen(
        command,
        cwd=root,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    until = time.monotonic() + 60
    while sorted(os.listdir(tmp_path)) == before and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert sorted(os.listdir(tmp_path)) == before


def test_a_signal_while_the_folder_is_made_leaves_nothing(files, tmp_path, monkeypatch):
    files = files()
    before, mkdir = sorted(os.listdir(tmp_path)), os.mkdir

    def interrupted(folder: str, mode: int) -> None:
        mkdir(folder, mode)
        assert os.path.dirname(folder) == os.path.dirname(files["out.trwkv"])
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "mkdir", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compress.compress(files["model.pth"], files["out.trwkv"], Options(low_rank=4))
    assert sorted(os.listdir(tmp_path)) == before


def test_stages_of_large_models_read_in_groups(files, monkeypatch, capsys):
    """However little memory statistics may take, they come out the same."""
    files = files()
    results = []
    for memory in (1 << 30, 1 << 15):
        monkeypatch.setattr(calibration, "MEMORY", memory)
        assert run(files, "--rank-budget", "70%") == 0
        with open_file(files["out.trwkv"]) as file:
            results.append(list(file.tensors.values()))
    assert results[0] == results[1]
    capsys.readouterr()


def test_a_stage_for_what_is_there(files, capsys):
    """The names of a stage's edits are tensors of the model."""
    files = files()
    assert cli.main([files["model.pth"], files["out.trwkv"], "--quiet"]) == 0
    model = load(files["out.trwkv"])
    text = calibration.Calibration("text", [IDS], [IDS])

    def quiet(*step):
        pass

    spectra = Spectra(model, None, os.path.dirname(files["out.trwkv"]))
    for stage in (
        stages.sparsify_ffn(model, text, quiet),
        stages.factor_projections(model, spectra, quiet, k=4),
    ):
        assert set(stage.edits) <= set(model.file.tensors)
        assert stage.edits
    model.close()
