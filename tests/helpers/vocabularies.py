"""Vocabularies for tests, packed as they lie in a model file."""

from __future__ import annotations

import numpy as np


def pack(tokens: dict[int, bytes]) -> tuple[bytes, np.ndarray, np.ndarray]:
    """Return the tokens, sorted by their bytes.

    Returns
    -------
    data : bytes
        Those of all tokens.
    starts : ndarray, int32, shape (n + 1,)
    ids : ndarray, int32, shape (n,)
    """
    entries = sorted((entry, token) for token, entry in tokens.items())
    starts = np.cumsum([0] + [len(entry) for entry, _ in entries]).astype(np.int32)
    ids = np.array([token for _, token in entries], np.int32)
    return b"".join(entry for entry, _ in entries), starts, ids


def single_bytes() -> dict[int, bytes]:
    """Return the smallest vocabulary that covers every text: 256 single bytes, ids 1 to 256."""
    return {byte + 1: bytes([byte]) for byte in range(256)}
