"""Ways in which the data of a state can be of the wrong kind: each takes good data, gives bad."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

MISSHAPEN: dict[str, Callable[[np.ndarray], Any]] = {
    "too short": lambda data: data[:-1],
    "empty": lambda data: data[:0],
    "float64": lambda data: data.astype(np.float64),
    "not contiguous": lambda data: np.repeat(data, 2)[::2],
    "a matrix": lambda data: data.reshape(2, -1),
    "a list": lambda data: data.tolist(),
    "big-endian": lambda data: data.astype(">f4"),
}
