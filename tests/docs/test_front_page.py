"""The front page: its figures are those of benchmarks/results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "index.md").read_text("utf-8")


def results(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text("utf-8"))


def test_memory_and_speed_are_those_of_the_peers() -> None:
    runs = {run["name"]: run for run in results("peers")["runs"] if run["threads"] == 1}
    own = runs.pop("tinyrwkv")
    official = next(run for run in runs.values() if run["engine"].startswith("rwkv "))
    llama = next(run for run in runs.values() if run["engine"].startswith("llama-cpp"))
    assert f"**{own['anon'] / 1e6:.0f} MB** of its memory" in PAGE
    assert f"The official package takes {official['anon'] / 1e6:.0f} MB." in PAGE
    assert f"**{own['decode_tok_s']:.0f} tokens/s** with one thread." in PAGE
    assert f"reaches {llama['decode_tok_s']:.0f} in the same run" in PAGE


def test_bytes_are_those_of_the_compression() -> None:
    forms = results("compression")["models"]["rwkv5-world-66m.pth"]
    lite = next(form for name, form in forms.items() if name.startswith("lite"))
    touched, dense = (form["touched_bytes"] / 1e6 for form in (lite, forms["int8"]))
    assert f"**{touched:.1f} MB** are read for a token" in PAGE
    assert f"{dense:.1f} MB in int8" in PAGE
    assert f"rises by {lite['nll'] - forms['int8']['nll']:.4f}." in PAGE
