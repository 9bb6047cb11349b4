"""What a token costs: bytes of weights that the kernels read, pages that become resident."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tinyrwkv import Model, Sampler, load
from tinyrwkv.file import memory

TOKENS = 200
"""Tokens to sample from a cold start."""


class Cost(NamedTuple):
    """What sampling from a cold start took.

    Attributes
    ----------
    touched : float
        Bytes of weights read for a token, on average, as the kernels count them.
    resident : int or None
        Bytes of the file in the process's memory after the last token; None if the system does
        not tell.
    tokens_s : float
        Tokens per second, from the median of their times.
    """

    touched: float
    resident: int | None
    tokens_s: float


def chosen_bytes(model: Model) -> int:
    """Return the bytes of the weights that kernels have chosen, for all tokens read so far.

    These are weights that only some tokens need; what every token reads does not count.
    """
    return sum(workspace.touched for workspace in model.reader.workspaces)


@contextlib.contextmanager
def cold(path: str, backend: str = "auto", threads: int = 1) -> Iterator[Model]:
    """Give a model that has no page in memory, if the system can forget the pages."""
    with contextlib.suppress(OSError, AttributeError):  # not Linux, or the system refuses
        memory.drop_from_cache(path)
    with contextlib.closing(load(path, backend=backend, threads=threads)) as model:
        yield model


def sample_cold(
    path: str, tokens: int = TOKENS, seed: int = 0, backend: str = "auto", threads: int = 1
) -> Cost:
    """Sample tokens at temperature 1 from a cold start, and tell what that took.

    Parameters
    ----------
    path : str
    tokens : int, optional
    seed : int, optional
    backend, threads
        As for `load`.

    Returns
    -------
    Cost
    """
    with cold(path, backend, threads) as model:
        times = [time.perf_counter() for _ in _sample(model, tokens, seed)]
        seconds = float(np.median(np.diff(times))) if tokens > 1 else 0.0
        every = model.plan()["touched_bytes_per_token"]
        touched = every + chosen_bytes(model) / (tokens + 1)
        return Cost(touched, model.resident(), 1 / seconds if seconds else 0.0)


def _sample(model: Model, tokens: int, seed: int) -> Iterator[int]:
    """Read texts that the model writes itself at temperature 1; yield before each token."""
    sampler = Sampler(temperature=1, seed=seed)
    logits, state = model.forward(0)
    for i in range(tokens):
        yield i
        token, _ = sampler.sample(np.asarray(logits))
        logits, state = model.forward(token, state if token else None)


def pages_per_token(
    path: str, tokens: int = 16, seed: int = 0, backend: str = "auto"
) -> float | None:
    """Return the bytes of the 4 KB pages that one token maps, each token from a cold start.

    These are the pages of all weights that a token reads, and those that the system maps around
    them.

    Parameters
    ----------
    path : str
    tokens : int, optional
    seed : int, optional
    backend : str, optional

    Returns
    -------
    float or None
        None if the system does not tell.
    """
    total = 0
    mapped: int | None = None
    with cold(path, backend) as model:
        for i in _sample(model, tokens + 1, seed):
            mapped = model.resident()
            if i > 0 and mapped is not None:  # the first count has what loading mapped
                total += mapped
            with contextlib.suppress(OSError, AttributeError):
                model.file.drop()
                memory.drop_from_cache(path)
    return None if mapped is None else total / tokens
