"""What a fuzzer is: a maker of hostile inputs, and what is done with each."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

Random = random.Random


class Fuzzer(NamedTuple):
    """A kind of input and what reads it.

    Attributes
    ----------
    make : callable
        ``make(rng)`` returns an input as bytes; the same for the same state of `rng`.
    run : callable
        ``run(data, folder)`` reads it. It may return, or raise a TinyRWKVError, and nothing else.
    """

    make: Callable[[Random], bytes]
    run: Callable[[bytes, str], None]


def rng_of(name: str, seed: int, index: int) -> Random:
    """Return the random numbers of one execution, so that each can be repeated alone."""
    return random.Random(f"{name} {seed} {index}")
