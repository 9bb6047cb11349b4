"""The README: its tables are the results, its chat is what the model says, its Python runs."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import tinyrwkv
from tinyrwkv.chat.chat import Chat

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "readme_tables", ROOT / "docs" / "readme_tables.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_those_of_the_results(tables: ModuleType) -> None:
    assert tables.written(README) == README, "python docs/readme_tables.py writes them again"
    with pytest.raises(ValueError, match="found 0 tables marked speed"):
        tables.written("# tinyrwkv\n")


def test_the_chat_is_what_the_model_says() -> None:
    (shown,) = re.findall(
        r"^```\n\$ python examples/chat\.py\n(.*?)^```$", README, re.MULTILINE | re.DOTALL
    )
    chat, lines = Chat(tinyrwkv.load()), shown.splitlines()
    assert len(lines) % 2 == 0
    for asked, answer in zip(lines[::2], lines[1::2], strict=True):
        assert asked.startswith("> ")
        assert "".join(piece.text for piece in chat.ask(asked[2:])).strip() == answer


def test_the_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert (
        len([line for line in code.splitlines() if line and not line.startswith("import ")]) <= 10
    )
    names: dict[str, Any] = {}
    exec(code, names)
    assert (tmp_path / "after.state").is_file()
    assert capsys.readouterr().out == " turn(90) stop\n"
    assert names["logits"].shape == (names["model"].config["vocab_size"],)
