"""What tests of compression may use."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from converters.calibrate import calibration
from converters.compress.presets import PRESETS
from tests.helpers.conversions import MakeFiles, write_files


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeFiles:
    """Write files to convert: ``files(version)`` gives their paths. Few tokens are fitted to."""
    for name, tokens in (("FIT", 1500), ("OWN", 300), ("HELD_OUT", 200)):
        monkeypatch.setattr(calibration, name, tokens)
    return functools.partial(write_files, tmp_path)


@pytest.fixture
def lossy_lite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the preset leave nothing out: random weights lose much."""
    monkeypatch.setitem(PRESETS, "lite", PRESETS["lite"]._replace(max_nll_rise=None))
