"""Rows of int4 made at random, and their products in the order that the kernels fix."""

from __future__ import annotations

import numpy as np

from tinyrwkv.file import int4
from tinyrwkv.file.int4 import GROUP, LARGEST

F32 = np.float32
LARGEST_ACTIVATION = 127 * 256


def random_rows(
    rng: np.random.Generator, rows: int, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return random q, scales and zero points of rows of `count` groups."""
    q = rng.integers(0, LARGEST + 1, (rows, count * GROUP), dtype=np.uint8)
    scale = rng.uniform(1e-4, 2, (rows, count)).astype(np.float16)
    zero = rng.integers(0, LARGEST + 1, (rows, count), dtype=np.uint8)
    return q, scale, zero


def exact_dot(rows: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the products of rows with x, (T, rows), in the order that the kernels fix."""
    q, scale, zero = int4.unpack(rows)
    count = scale.shape[1]
    by_group = int4.order(q.shape[1])
    w = q[:, by_group].reshape(len(rows), count, GROUP).astype(np.int64)
    w -= zero[..., None]
    inputs = x[:, by_group].reshape(len(x), count, GROUP).astype(np.int64)
    sums = np.einsum("rgj,tgj->trg", w, inputs)  # (T, rows, groups)
    assert np.abs(sums).max() < 2**31
    lanes = np.zeros((len(x), len(rows), 4), F32)
    for start, stop in spans(count):
        terms = sums[..., start:stop].astype(F32) * scale[:, start:stop].astype(F32)
        lanes[..., : stop - start] += terms
    even, odd = lanes[..., 0] + lanes[..., 2], lanes[..., 1] + lanes[..., 3]
    return even + odd


def spans(count: int) -> list[tuple[int, int]]:
    """Return where the spans of a row begin and end, in groups."""
    found, start = [], 0
    for in_span in (4, 2, 1):
        while count - start >= in_span:
            found.append((start, start + in_span))
            start += in_span
    return found
