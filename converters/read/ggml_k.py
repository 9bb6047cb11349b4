"""Decode the "K" types of ggml: 256 numbers share a scale, groups of 16 or 32 have small ones."""

from __future__ import annotations

import numpy as np

from .ggml import Kind, field, half, nibbles

BLOCK = 256


def _bits(raw: np.ndarray, count: int, width: int) -> np.ndarray:
    """Take `count` numbers of `width` bits out of every byte, for 32 bytes at a time.

    Parameters
    ----------
    raw : ndarray, uint8, shape (n, m)
        m is a multiple of 32.
    count, width : int

    Returns
    -------
    ndarray, uint8, shape (n, count m)
        Of 32 bytes first all lowest numbers, then all that follow.
    """
    groups = raw.reshape(len(raw), -1, 1, 32)
    mask = (1 << width) - 1
    taken = [groups >> shift & mask for shift in range(0, count * width, width)]
    return np.concatenate(taken, axis=2).reshape(len(raw), -1)


def _scaled(scale: np.ndarray, q: np.ndarray, shift: np.ndarray | None = None) -> np.ndarray:
    """Return w = scale * q - shift, where each group of neighbours has its scale and shift.

    Parameters
    ----------
    scale, shift : ndarray, float32, shape (n, groups)
    q : ndarray, shape (n, 256)

    Returns
    -------
    ndarray, float32, shape (n, 256)
    """
    n, groups = scale.shape
    w = scale[:, :, None] * q.reshape(n, groups, -1).astype(np.float32)
    if shift is not None:
        w = w - shift[:, :, None]
    return w.reshape(n, -1)


def _six_bits(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 8 scales and 8 shifts, of 6 bits, that 12 bytes hold.

    The last four bytes have the low halves of the later four of both; the high bits of the other
    eight bytes have the rest.
    """
    first = raw[:, 0:4]
    second = raw[:, 4:8]
    low = raw[:, 8:12]
    later_scales = low & 15 | first >> 6 << 4
    later_shifts = low >> 4 | second >> 6 << 4
    scales = np.concatenate([first & 63, later_scales], axis=1)  # (n, 8)
    shifts = np.concatenate([second & 63, later_shifts], axis=1)  # (n, 8)
    return scales, shifts


def _q2_k(raw: np.ndarray) -> np.ndarray:
    """Return w = d s q - e m: 16 pairs of nibbles s and m, 256 q of 2 bits, f16 d, f16 e."""
    d = half(raw, 80)
    e = half(raw, 82)
    pairs = raw[:, :16]
    s = pairs & 15
    m = pairs >> 4
    q = _bits(raw[:, 16:80], 4, 2)
    return _scaled(d * s, q, e * m)


def _q3_k(raw: np.ndarray) -> np.ndarray:
    """Return w = d (s - 32) (q - 4): 256 high bits and 256 pairs of q, 16 s of 6 bits, f16 d."""
    d = half(raw, 108)
    low = nibbles(raw[:, 96:104], 8)  # (n, 16)
    pairs = raw[:, 104:108]
    high = [pairs >> shift & 3 for shift in (0, 2, 4, 6)]
    s = low | np.concatenate(high, axis=1) << 4
    s = s.astype(np.float32) - 32
    q = _bits(raw[:, 32:96], 4, 2)
    q = q | _bits(raw[:, :32], 8, 1) << 2
    q = q.astype(np.float32) - 4
    return _scaled(d * s, q)


def _q4_k(raw: np.ndarray) -> np.ndarray:
    """Return w = d s q - e m: f16 d, f16 e, 8 s and m of 6 bits, 256 nibbles q."""
    d = half(raw, 0)
    e = half(raw, 2)
    s, m = _six_bits(raw[:, 4:16])
    q = nibbles(raw[:, 16:144], 32)
    return _scaled(d * s, q, e * m)


def _q5_k(raw: np.ndarray) -> np.ndarray:
    """Return w = d s q - e m: as Q4_K, with the fifth bits of q before the nibbles."""
    d = half(raw, 0)
    e = half(raw, 2)
    s, m = _six_bits(raw[:, 4:16])
    q = nibbles(raw[:, 48:176], 32)
    q = q | _bits(raw[:, 16:48], 8, 1) << 4
    return _scaled(d * s, q, e * m)


def _q6_k(raw: np.ndarray) -> np.ndarray:
    """Return w = d s (q - 32): 256 nibbles, 256 pairs of high bits, 16 int8 s, f16 d."""
    d = half(raw, 208)
    s = field(raw, 192, 208, "i1")  # (n, 16)
    q = nibbles(raw[:, :128], 64)
    q = q | _bits(raw[:, 128:192], 4, 2) << 4
    q = q.astype(np.float32) - 32
    return _scaled(d * s, q)


Q2_K = Kind("Q2_K", BLOCK, 84, _q2_k)
Q3_K = Kind("Q3_K", BLOCK, 110, _q3_k)
Q4_K = Kind("Q4_K", BLOCK, 144, _q4_k)
Q5_K = Kind("Q5_K", BLOCK, 176, _q5_k)
Q6_K = Kind("Q6_K", BLOCK, 210, _q6_k)
