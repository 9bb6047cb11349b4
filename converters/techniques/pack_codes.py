"""Codes of a few bits, packed as the kernels read them: 64 rows side by side.

`reference.unpack` undoes it.
"""

from __future__ import annotations

import numpy as np

from tinyrwkv.kernels.abi import BLOCK


def pack_codes(codes: np.ndarray, bits: int) -> np.ndarray:
    """Put codes in the order of a model file.

    Parameters
    ----------
    codes : ndarray, uint8, shape (rows, rank)
        Each below 2^bits; rank a multiple of 8 / bits.
    bits : int
        1, 2 or 4.

    Returns
    -------
    ndarray, uint8, shape (rows / 64 rounded up, rank bits / 8, 64)
        The first code of a byte is in its low bits; missing rows of the last block are zeros.
    """
    rows, rank = codes.shape
    blocks = -(-rows // BLOCK)
    row_bytes = rank * bits // 8
    per_byte = 8 // bits
    padded = np.zeros((blocks, BLOCK, row_bytes, per_byte), np.uint8)
    padded.reshape(-1, rank)[:rows] = codes
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    packed = np.bitwise_or.reduce(padded << shifts, axis=3)  # (blocks, 64, row_bytes)
    return np.ascontiguousarray(packed.transpose(0, 2, 1))
