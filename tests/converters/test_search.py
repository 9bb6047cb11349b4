"""A search keeps its budget, and what it says is what was measured."""

from __future__ import annotations

import json
import os
import re

import pytest

from converters.compress import search
from converters.compress.options import Options
from converters.compress.pipeline import Pipeline
from converters.judge.cost import sample_cold
from tests.helpers.conversions import run
from tinyrwkv import load


@pytest.fixture
def sizes(files, capsys, linux):
    """Bytes in memory of the dense model and of the smallest one that options give."""
    paths = files()
    found = []
    for options in (
        ["--preset", "exact"],
        ["--rank-budget", "35%", "--sparse-ffn", "predict", "--keep", "0.14"],
    ):
        assert run(paths, *options) == 0
        found.append(sample_cold(paths["out.trwkv"]).resident)
    capsys.readouterr()
    return paths, found


@pytest.fixture(autouse=True)
def few_options(monkeypatch):
    monkeypatch.setattr(search, "RANKS", ({}, {"rank_budget": 0.5}))
    monkeypatch.setattr(
        search, "NEURONS", ({"sparse_ffn": "exact"}, {"sparse_ffn": "predict", "keep": 0.2})
    )
    monkeypatch.setattr(search, "HEADS", ({},))


def test_a_large_budget_costs_nothing(sizes, capsys):
    paths, (dense, _) = sizes
    assert run(paths, "--budget", str(2 * dense)) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["search"]["chosen"] == "--sparse-ffn exact"
    assert found["compression"][-1]["report"]["differing_logits"] == 0


def test_the_best_that_fits_is_built(sizes, capsys):
    paths, (dense, _) = sizes
    budget = dense - 4096
    assert run(paths, "--budget", str(budget)) == 0
    report = json.loads(capsys.readouterr().out)
    found = report["search"]
    assert found["budget"] == budget
    assert found["resident"] <= budget
    (chosen,) = [
        one
        for one in found["tried"]
        if one["options"] == found["chosen"] and one["resident"] <= budget
    ][-1:]
    assert (
        chosen["nll"]
        == [s["report"]["nll"] for s in report["compression"] if "nll" in s["report"]][-1]
    )
    load(paths["out.trwkv"]).close()


@pytest.mark.parametrize("off", [-8192, 8192])
def test_what_sums_get_wrong_is_corrected(sizes, capsys, monkeypatch, off):
    """Alone, options seem to save more or less than together: what was built tells how much."""
    paths, (dense, _) = sizes
    right = search.estimate
    monkeypatch.setattr(
        search,
        "estimate",
        lambda *given: (one := right(*given))._replace(resident=one.resident + off),
    )
    assert run(paths, "--budget", str(dense - 4096)) == 0
    found = json.loads(capsys.readouterr().out)["search"]
    sizes = [one["resident"] for one in found["tried"] if one["options"] == found["chosen"]]
    assert found["resident"] == sizes[-1] <= dense - 4096


def test_a_budget_out_of_reach_is_refused(files, capsys, linux):
    paths = files()
    before = sorted(os.listdir(os.path.dirname(paths["out.trwkv"])))
    assert run(paths, "--budget", "4kB") == 1
    assert "; give --budget " in capsys.readouterr().err
    assert sorted(os.listdir(os.path.dirname(paths["out.trwkv"]))) == before


@pytest.mark.parametrize("budget", ["24", "512", " 7 "])
def test_a_small_budget_without_a_unit_lacks_one(files, capsys, budget):
    with pytest.raises(SystemExit) as ended:
        run(files(), "--budget", budget)
    assert ended.value.code == 2
    said = f"argument --budget: {budget} means {budget} bytes"
    assert said in capsys.readouterr().err.replace("\n", " ")


def test_a_budget_out_of_reach_is_refused_before_the_search(files, capsys, linux, monkeypatch):
    """Only the smallest model is made, and the budget that is named then works."""
    monkeypatch.setattr(search, "RANKS", ({}, *({"rank_budget": x / 10} for x in (8, 7, 6, 5))))
    neurons = [{"sparse_ffn": "predict", "keep": keep} for keep in (0.4, 0.3, 0.2)]
    monkeypatch.setattr(search, "NEURONS", ({"sparse_ffn": "exact"}, *neurons))
    made = []
    stages = Pipeline.stages
    monkeypatch.setattr(
        Pipeline, "stages", lambda *given: (made.append(one) or one for one in stages(*given))
    )
    paths = files()
    assert run(paths, "--budget", "20kB") == 1
    assert [stage.technique for stage in made] == ["sparse ffn", "low rank", "sparse ffn"]
    enough = re.search(r"give --budget (\S+)", capsys.readouterr().err)[1]
    assert run(paths, "--budget", enough) == 0


@pytest.mark.parametrize(("most", "notes"), [(-1.0, True), (9.0, False)])
def test_what_the_preset_would_refuse_is_told(sizes, capsys, monkeypatch, most, notes):
    paths, (_, least) = sizes
    monkeypatch.setattr(search, "LITE", search.LITE._replace(max_nll_rise=most))
    assert run(paths, "--budget", str(least + 4096)) == 0
    report = json.loads(capsys.readouterr().out)
    told = [note for note in report["notes"] if "--preset lite leaves out" in note]
    steps = [step for step in report["compression"] if "nll_rise" in step["report"]]
    assert steps and len(told) == notes * len(steps)


def test_options_are_written_as_they_are_given():
    options = Options(
        rank_budget=0.65, sparse_ffn="predict", keep=0.22, head="preview", head_rows=640
    )
    expected = "--rank-budget 65% --sparse-ffn predict --keep 0.22 --head preview --head-rows 640"
    assert options.as_arguments() == expected
    whitened = Options(rank_budget=4e6, whiten=True)
    assert whitened.as_arguments() == "--rank-budget 4000000 --whiten"
    assert Options().as_arguments() == "none"
    assert Options(seed=3).as_arguments() == "--seed 3"
