"""The user's folders, by the XDG specification."""

from __future__ import annotations

import os
import pathlib

import pytest

from tinyrwkv import paths as places


@pytest.mark.parametrize(
    ("folder", "variable"),
    [(places.cache_folder, "XDG_CACHE_HOME"), (places.state_folder, "XDG_STATE_HOME")],
)
def test_what_the_environment_says(
    folder, variable, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "x"))
    assert folder() == str(tmp_path / "x" / "tinyrwkv")


@pytest.mark.skipif(os.name == "nt", reason="Windows tells its folders in LOCALAPPDATA")
def test_otherwise_in_the_home_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(places.sys, "platform", "linux")
    for told in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", told)
        assert places.cache_folder() == str(tmp_path / ".cache" / "tinyrwkv")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert places.state_folder() == str(tmp_path / ".local" / "state" / "tinyrwkv")
    monkeypatch.setattr(places.sys, "platform", "darwin")
    assert places.cache_folder() == str(tmp_path / "Library" / "Caches" / "tinyrwkv")
    monkeypatch.setenv("HOME", str(tmp_path / "gone"))
    assert places.cache_folder() is None
