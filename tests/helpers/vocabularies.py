"""Vocabularies for tests, packed as they lie in a model file."""

from __future__ import annotations

import numpy as np


def pack(tokens: dict[int, bytes]) -> tuple[bytes, np.ndarray, np.ndarray]:
    """Return the entries of id -> bytes sorted by their bytes: all bytes, starts (n + 1,) and ids (n,), both int32."""
    entries = sorted((entry, token) for token, entry in tokens.items())
    starts = np.cumsum([0] + [len(entry) for entry, _ in entries]).astype(np.int32)
    ids = np.array([token for _, token in entries], np.int32)
    return b"".join(entry for entry, _ in entries), starts, ids


def single_bytes() -> dict[int, bytes]:
    """Return the 256 single bytes as ids 1 to 256: the smallest vocabulary that covers every text."""
    return {byte + 1: bytes([byte]) for byte in range(256)}
