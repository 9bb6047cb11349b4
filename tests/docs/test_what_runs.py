"""What public checkpoints need: placeholders are planned as real files; the page is right."""

from __future__ import annotations

import json
import math
import os
import pathlib

import pytest

import tinyrwkv
from benchmarks import common, random_model, what_runs
from tinyrwkv.versions.layout import VERSIONS

ROOT = pathlib.Path(__file__).resolve().parents[2]
SAVED = json.loads((ROOT / "benchmarks" / "results" / "what_runs.json").read_text())


@pytest.mark.parametrize("arch", VERSIONS)
@pytest.mark.parametrize("dtype", ["f16", "int8", "int4"])
def test_a_placeholder_is_planned_as_the_file_it_stands_for(
    arch: str, dtype: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(what_runs, "VOCABULARY", {})
    monkeypatch.setattr(
        what_runs,
        "ranks",
        lambda width: dict.fromkeys(("low", "low w", "w", "a", "v", "g"), 8) | {"5 low": 40},
    )
    config = random_model.sizes(arch, 3, 128, 1000)
    random_model.write(str(tmp_path / "real"), config, dtype, low=8)
    count = what_runs.placeholder(str(tmp_path / "hole"), config, dtype)
    real, hole = (tinyrwkv.load(tmp_path / name, backend="numpy") for name in ("real", "hole"))
    whole = {
        "file_bytes": 0,
        "resident_bytes_max": 0,
        "resident_bytes_typical": 0,
    }  # with the table, in which checksums have more or fewer digits
    assert hole.plan() | whole == real.plan() | whole
    assert [t._replace(crc32=0) for t in real.file.tensors.values()] == list(
        hole.file.tensors.values()
    )
    if dtype == "int4":
        return  # its rows hold scales too, and nothing tells how many weights they have
    sizes = {"f16": 2, "int8": 1}
    matrices = [t for t in real.file.tensors.values() if t.dtype in ("f16", "i8")]
    others = [
        t for t in real.file.tensors.values() if t.dtype == "f32" and not t.name.endswith(".scale")
    ]
    tables = [
        math.prod(t.shape[:-1]) * (t.shape[-1] - 4)
        for t in real.file.tensors.values()
        if t.dtype == "u8"
    ]
    assert count == sum(t.nbytes // sizes[dtype] for t in matrices) + sum(
        t.nbytes // 4 for t in others
    ) + sum(tables)


def test_ranks_are_those_of_the_smallest_model() -> None:
    assert {key: what_runs.ranks(768)[key] for key in "wavg"} == {
        "w": 64,
        "a": 64,
        "v": 32,
        "g": 128,
    }


def test_a_placeholder_takes_no_room(tmp_path: pathlib.Path) -> None:
    what_runs.placeholder(str(tmp_path / "m"), random_model.sizes("v7", 32, 4096, 65536), "int8")
    about = os.stat(tmp_path / "m")
    if not hasattr(about, "st_blocks") or about.st_blocks * 512 >= about.st_size:
        pytest.skip("this file system has no holes")
    assert about.st_size > 7e9 and about.st_blocks * 512 < 1 << 20


def test_the_page_has_what_the_program_prints(tmp_path: pathlib.Path) -> None:
    page = (ROOT / "docs" / "what-runs.md").read_text("utf-8")
    assert what_runs.markdown(SAVED["models"], SAVED["process_bytes"]) in page
    assert f"{SAVED['process_bytes'] / 1e6:.1f} MB" in page
    assert [(row["arch"], row["size"]) for row in SAVED["models"]] == what_runs.MODELS
    for saved in SAVED["models"]:
        row = what_runs.needs(saved["arch"], saved["size"], str(tmp_path))
        for key, value in row.items():
            close = (
                value == saved[key]
                if isinstance(value, str)
                else value == pytest.approx(saved[key], rel=0.05)
            )
            assert close, (
                f"{key}: run benchmarks/what_runs.py --save; its table goes into docs/what-runs.md"
            )


def test_it_prints_and_saves(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(what_runs, "MODELS", [("v7", "0.1B")])
    what_runs.main(["--save"])
    assert "| RWKV-7 0.1B, 12 x 768 |" in capsys.readouterr().out
    told = json.loads((tmp_path / "what_runs.json").read_text())
    if tinyrwkv.file.system.LINUX:
        assert 5e6 < told["process_bytes"] < 500e6
    assert [what_runs.fits(size) for size in (0, 400 << 20, 30 << 30)] == ["512 MB", "1 GB", "more"]
