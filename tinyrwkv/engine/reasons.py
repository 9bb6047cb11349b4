"""Tell why each backend can or cannot run here."""

from __future__ import annotations

import os

from ..native.load import choose
from .backends import has_numba


def reasons() -> dict[str, str]:
    """Return for each backend why it can or cannot run here."""
    native = choose()
    return {
        "native": f"{os.path.basename(native.path)}, {native.reason}"
        if native.path
        else native.reason,
        "numba": "numba is installed" if has_numba() else "numba is not installed",
        "numpy": "runs everywhere",
    }
