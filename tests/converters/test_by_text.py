"""Texts that only judge: what each of them tells, and which are refused."""

from __future__ import annotations

import json
import os
import pathlib
import sys

import pytest

from converters import cli
from converters.calibrate import calibration
from converters.calibrate.documents import choose_documents
from converters.compress.presets import PRESETS
from converters.judge.by_text import JUDGED
from tests.helpers.conversions import TEXT, Files, MakeFiles, run
from tinyrwkv import load
from tinyrwkv.file.mapped import open_file

OTHER = "A dog sat; the dog sang. " * 400


def with_texts(files: MakeFiles, folder: pathlib.Path, **texts: str) -> Files:
    """Return the files of a conversion, and texts by their names."""
    found = files()
    for name, text in texts.items():
        path = folder / f"{name}.txt"
        path.write_text(text, encoding="utf-8")
        found[name] = str(path)
    return found


def test_each_text_tells_the_loss_of_all_techniques(files, capsys, tmp_path):
    paths = with_texts(files, tmp_path, other=OTHER, cats="the cat ran " * 99)
    report_path = str(tmp_path / "report.html")
    judge = ("--judge", paths["other"], paths["cats"])
    options = ("--low-rank", "4", "--sparse-ffn", "predict", "--report", report_path)
    assert run(paths, *options, *judge) == 0
    told = json.loads(capsys.readouterr().out)
    names = [step["technique"] for step in told["compression"]]
    assert names == ["int8", "calibration", "low rank", "sparse ffn", *["judge"] * 3]
    _, dense, *lossy = (step["report"] for step in told["compression"][:4])
    held_out, other, cats = (step["report"] for step in told["compression"][4:])
    texts = [step["params"]["text"] for step in told["compression"][4:]]
    assert texts == ["the held-out part of text.txt", "other.txt", "cats.txt"]

    assert held_out["nll"] == lossy[-1]["nll"] and held_out["top1"] == lossy[-1]["top1"]
    assert held_out["nll_delta"] == pytest.approx(sum(one["nll_delta"] for one in lossy))
    assert held_out["nll_delta"] == pytest.approx(held_out["nll"] - dense["nll"])
    assert not any("--judge" in note for note in told["notes"])

    arguments = [paths["model.pth"], str(tmp_path / "dense.trwkv"), "--vocab", paths["vocab.txt"]]
    assert cli.main([*arguments, "--quiet"]) == 0
    nlls = []
    for path in (told["output"], str(tmp_path / "dense.trwkv")):
        with load(path) as model:
            documents = choose_documents(model, OTHER, JUDGED, 0)
            losses = calibration.losses(model, documents)
            nlls.append(sum(one.nll for one in losses) / sum(one.tokens for one in losses))
    assert other["nll"] == pytest.approx(nlls[0])
    assert other["nll_delta"] == pytest.approx(nlls[0] - nlls[1])
    assert other["tokens"] == sum(map(len, documents)) - len(documents)

    with open_file(told["output"]) as file:
        assert file.metadata["compression"] == told["compression"]
    page = pathlib.Path(report_path).read_text("utf-8")
    for text, found in zip(texts, (held_out, other, cats), strict=True):
        assert f"<td>{text}</td><td>{found['tokens']:,}</td>" in page
        assert f"<td>{found['nll_delta']:+.4f}</td>" in page
    assert f"Loss: {held_out['nll_delta']:+.4f} nats a token." in page


def test_the_console_shows_each_text(files, capsys, tmp_path):
    paths = with_texts(files, tmp_path, other=OTHER)
    arguments = [paths["model.pth"], paths["out.trwkv"], "--vocab", paths["vocab.txt"]]
    arguments += ["--calibrate", paths["text.txt"], "--low-rank", "4", "--judge", paths["other"]]
    assert cli.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    begins = ["  low rank: nll ", "  all, on the held-out part of text.txt: nll "]
    begins += ["  all, on other.txt: nll ", "  gain: "]
    assert [line[: len(begin)] for line, begin in zip(lines, begins, strict=True)] == begins
    assert lines[0].partition(": ")[2] == lines[1].partition(": ")[2]


@pytest.mark.parametrize(
    ("calibrate", "name"),
    [(True, "the held-out part of text.txt"), (False, "held-out samples of the model")],
)
def test_without_such_texts_a_note_says_what_judged(files, capsys, monkeypatch, calibrate, name):
    monkeypatch.setattr(calibration, "OWN", 512)
    assert run(files(), "--low-rank", "4", calibrate=calibrate) == 0
    told = json.loads(capsys.readouterr().out)
    tokens = told["compression"][1]["report"]["held_tokens"]
    (note,) = (note for note in told["notes"] if "--judge" in note)
    assert note.startswith(f"the losses were measured on {name}, ")
    assert note.endswith("; other text usually loses more: judge by some with --judge")
    counted = int(note.split(", ")[1].split(" tokens")[0].replace(",", ""))
    assert 0 < counted < tokens  # the token 0 of each document is not scored


def test_only_the_held_out_part_leaves_a_technique_out(files, capsys, monkeypatch, tmp_path):
    lite = PRESETS["lite"]._replace(max_nll_rise=-9.0, head=None, head_rows=None)
    monkeypatch.setitem(PRESETS, "lite", lite)
    paths = with_texts(files, tmp_path, other=OTHER)
    assert run(paths, "--preset", "lite", "--judge", paths["other"]) == 0
    told = json.loads(capsys.readouterr().out)
    low_rank, sparse_ffn, last = told["notes"]
    for note in (low_rank, sparse_ffn):
        assert "left out: it raises the nll of the held-out part of text.txt by " in note
    assert last == "nothing was lost, so no text was judged"
    assert "judge" not in [step["technique"] for step in told["compression"]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TEXT, "{path} has the same text as the calibration text {calibrate}"),
        ("\ufeff" + TEXT.replace("\n", "\r\n"), "the same text as the calibration text"),
        (" \n", "{path} is empty"),
    ],
    ids=["same", "other line ends", "empty"],
)
def test_texts_that_cannot_judge_are_refused(files, capsys, tmp_path, text, said):
    paths = with_texts(files, tmp_path, bad=text, good=OTHER)
    assert run(paths, "--low-rank", "4", "--judge", paths["good"], "--judge", paths["bad"]) == 1
    expected = said.format(path=paths["bad"], calibrate=paths["text.txt"])
    assert expected in capsys.readouterr().err
    assert not pathlib.Path(paths["out.trwkv"]).exists()


def test_no_text_judges_twice(files, capsys, tmp_path):
    paths = with_texts(files, tmp_path, good=OTHER)
    for again in (paths["text.txt"], paths["good"]):
        assert run(paths, "--low-rank", "4", "--judge", paths["good"], again) == 1
        assert f"{again} has the same text as " in capsys.readouterr().err


def test_files_of_one_name_are_told_apart(files, capsys, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "other.txt").write_text("the cat sang " * 99)
    paths = with_texts(files, tmp_path, other=OTHER)
    more = str(tmp_path / "more" / "other.txt")
    assert run(paths, "--low-rank", "4", "--judge", paths["other"], more) == 0
    steps = json.loads(capsys.readouterr().out)["compression"]
    assert [step["params"]["text"] for step in steps[-2:]] == ["other.txt", "other.txt (2)"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text here")
def test_names_that_are_no_text_do_not_end_the_work(files, capsys, tmp_path):
    paths = with_texts(files, tmp_path)
    for name, text in (("text.txt", TEXT), ("other", OTHER)):
        paths[name] = os.fsdecode(bytes(tmp_path) + b"/\xff\x01" + name.encode())
        pathlib.Path(paths[name]).write_text(text)
    assert run(paths, "--low-rank", "4", "--judge", paths["other"]) == 0
    steps = json.loads(capsys.readouterr().out)["compression"]
    texts = [step["params"]["text"] for step in steps if "text" in step["params"]]
    assert texts == ["??text.txt", "the held-out part of ??text.txt", "??other"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--preset", "exact"], "these options lose nothing, so --judge has nothing to judge"),
        ([], "--judge alone does nothing"),
    ],
    ids=["nothing is lost", "nothing is compressed"],
)
def test_nothing_to_judge_is_refused(files, capsys, tmp_path, options, said):
    paths = with_texts(files, tmp_path, other=OTHER)
    arguments = [paths["model.pth"], paths["out.trwkv"], "--vocab", paths["vocab.txt"], *options]
    assert cli.main([*arguments, "--judge", paths["other"]]) == 1
    assert said in capsys.readouterr().err


def test_a_text_that_judges_is_not_replaced(files, capsys, tmp_path):
    paths = with_texts(files, tmp_path, other=OTHER)
    assert (
        run(paths, "--preset", "lite", "--report", paths["other"], "--judge", paths["other"]) == 1
    )
    assert "the report {0} would replace the text to judge by {0}".format(paths["other"]) in (
        capsys.readouterr().err
    )
    assert pathlib.Path(paths["other"]).read_text() == OTHER
