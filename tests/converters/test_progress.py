"""One progress over all stages of a conversion, and the gain that the summary tells."""

from __future__ import annotations

import argparse
import json
import re

import pytest

from converters import cli
from converters.compress import progress
from converters.compress.progress import JUDGE, WEIGHTS, Work
from tests.helpers.conversions import run
from tinyrwkv.cli.terminal import Progress

CASES = [
    ("--low-rank", "4"),
    ("--rank-budget", "60%"),
    ("--preset", "exact"),
    ("--preset", "lite"),
    ("--sparse-ffn", "predict", "--mlp", "8", "--keep", "0.5"),
    ("--dtype", "int4"),
    (),
]


@pytest.mark.parametrize("options", CASES, ids=" ".join)
def test_the_stages_of_a_conversion_are_expected(files, options, monkeypatch):
    told: list[tuple[str, float]] = []
    works = []

    class Watched(Work):
        def __call__(self, stage: str, done: int, total: int) -> float:
            share = super().__call__(stage, done, total)
            told.append((stage, share))
            works.append(self)
            return share

    monkeypatch.setattr(cli, "Work", Watched)
    assert run(files(), *options, calibrate=bool(options)) == 0
    assert {stage for stage, _ in told} == set(works[0]._shares)
    shares = [share for _, share in told]
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1)


def test_every_stage_has_a_weight():
    arguments = argparse.Namespace(output="a.gguf", judge=None, calibrate=None, budget=None)
    assert cli._stages(arguments, None) == ["export"]
    named = progress.stages(cli.Options(), False, ["a.txt"], True)
    assert named == ["convert", "judge dense", "search", "judge a.txt"]
    work = Work(named)
    assert work("search", 1, 1) == WEIGHTS["search"] / (
        WEIGHTS["convert"] + 2 * JUDGE + WEIGHTS["search"]
    )


def test_the_time_that_is_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    work = Work(["convert", "export"])
    assert work.left(0.0) == ""
    now[0] += 30
    assert work.left(work("convert", 1, 2)) == "1:30 left"


def test_the_summary_tells_the_gain(files, capsys):
    files = files()
    arguments = [files[name] for name in ("model.pth", "out.trwkv")]
    given = ["--vocab", files["vocab.txt"], "--calibrate", files["text.txt"]]
    assert cli.main([*arguments, *given, "--preset", "exact"]) == 0
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if line.startswith("  gain: "))
    found = re.fullmatch(
        r"  gain: a token reads (\S+ \S+) instead of (\S+ \S+);(?: \S+ \S+ instead of \S+ \S+ "
        r"resident;)? (\d+) instead of (\d+) tokens/s",
        line,
    )
    assert found is not None and found[1] != found[2] and int(found[3]) > 0
    assert run(files, "--preset", "exact") == 0
    gain = json.loads(capsys.readouterr().out)["gain"]
    before, after = gain["before"], gain["after"]
    assert after["touched_bytes_per_token"] < before["touched_bytes_per_token"]


def test_the_line_fits(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    bar = Progress("")
    bar.shown = True
    bar.label = f"{'judge sparse ffn':<16} {'1:20 left':>12}"
    with bar:
        bar(420, 1000)
    shown = capsys.readouterr().err.split("\r")[1]
    assert (
        len(shown) < 60 and shown.startswith("judge sparse ffn    1:20 left [") and "42 %" in shown
    )
