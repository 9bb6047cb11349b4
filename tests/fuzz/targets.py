"""All fuzzers by name."""

from __future__ import annotations

from . import checkpoints, folders, models, texts
from .fuzzer import Fuzzer

FUZZERS: dict[str, Fuzzer] = {
    **models.FUZZERS,
    **checkpoints.FUZZERS,
    **folders.FUZZERS,
    **texts.FUZZERS,
}
