"""The scripts of .ci as modules, and the folder of the project."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def ci_script(name: str) -> ModuleType:
    """Import one of the scripts in .ci; what it imports there is found too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / ".ci"))
        return importlib.import_module(name)
