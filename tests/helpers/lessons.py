"""The folder of the lessons, and the module there that a lesson imports as its neighbour."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

LESSONS = Path(__file__).resolve().parents[2] / "docs" / "lessons"

sys.path.append(str(LESSONS))  # as `python docs/lessons/5_head.py` has it
head_clusters = importlib.import_module("head_clusters")
