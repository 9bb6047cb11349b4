"""Fuzzers of which some executions end as none may: with them the worker itself is tested."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from .fuzzer import Fuzzer, Random


def _make(rng: Random) -> bytes:
    return rng.choice((b"good", b"bad"))


def _fuzzer(end: Callable[[], object]) -> Fuzzer:
    def run(data: bytes, folder: str) -> None:
        if data == b"bad":
            end()

    return Fuzzer(_make, run)


def _hang() -> None:
    while True:
        pass


FUZZERS = {
    "dies": _fuzzer(lambda: ctypes.string_at(0)),
    "hangs": _fuzzer(_hang),
    "raises": _fuzzer(lambda: {}["i8"]),
    "eats": _fuzzer(lambda: bytearray(1 << 34)),
}
