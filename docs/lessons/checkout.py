"""Imported first by a lesson: finds the packages of this checkout, or says what is missing."""

import importlib
import pathlib
import sys

for _name in ("numpy", "matplotlib"):
    try:
        importlib.import_module(_name)
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is missing: pip install numpy matplotlib")

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
