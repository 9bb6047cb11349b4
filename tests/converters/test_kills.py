"""Conversions that are killed: nothing broken under the final name, nothing left by the next."""

from __future__ import annotations

import os
import pathlib

import pytest

from tests import kills

posix = pytest.mark.skipif(os.name == "nt", reason="needs fork")
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@posix
def test_killed_conversions_leave_nothing_that_the_next_does_not_remove(
    tmp_path: pathlib.Path,
) -> None:
    found = kills.plain(tmp_path, 12, seed=1)
    assert (found.broken, found.litter) == (0, 0) and found.killed > 0


@posix
@pytest.mark.slow
def test_killed_lite_conversions_leave_nothing_either(tmp_path: pathlib.Path) -> None:
    found = kills.lite(tmp_path, 4, seed=1)
    assert (found.broken, found.litter) == (0, 0) and found.killed > 0
