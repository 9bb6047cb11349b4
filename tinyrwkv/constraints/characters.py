"""Sets of characters, and the byte sequences of UTF-8 that spell them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Ranges = tuple[tuple[int, int], ...]
"""Pairs of code points, both included. Sorted, with gaps between them, without surrogates."""

LAST = 0x10FFFF
SURROGATES = (0xD800, 0xDFFF)
_ENDS = (0x7F, 0x7FF, 0xFFFF, LAST)  # the last code points of 1, 2, 3 and 4 bytes


def normalise(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Return the same code points as sorted ranges that do not touch.

    Surrogates are left out, because UTF-8 cannot spell them.

    Examples
    --------
    >>> normalise([(98, 99), (97, 97), (120, 122)])
    ((97, 99), (120, 122))
    """
    merged: list[list[int]] = []
    for low, high in sorted(_without_surrogates(ranges)):
        if merged and low <= merged[-1][1] + 1 and not (merged[-1][1] < SURROGATES[0] <= low):
            merged[-1][1] = max(merged[-1][1], high)
        else:
            merged.append([low, high])
    return tuple((low, high) for low, high in merged)


def _without_surrogates(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for low, high in ranges:
        for part in ((low, min(high, SURROGATES[0] - 1)), (max(low, SURROGATES[1] + 1), high)):
            if part[0] <= part[1]:
                yield part


def complement(ranges: Ranges) -> Ranges:
    """Return all other characters."""
    rest = []
    begin = 0
    for low, high in ranges:
        rest.append((begin, low - 1))
        begin = high + 1
    rest.append((begin, LAST))
    return normalise([(low, high) for low, high in rest if low <= high])


def byte_sequences(low: int, high: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """Yield the sequences of byte ranges that together spell the code points from `low` to `high`.

    Parameters
    ----------
    low, high : int
        Both included; no surrogates between them.

    Yields
    ------
    tuple of (int, int)
        For each byte of a character, its lowest and its highest value.

    Examples
    --------
    >>> list(byte_sequences(0x61, 0xFF))
    [((97, 127),), ((194, 195), (128, 191))]
    """
    for end in _ENDS:
        if low <= end < high:  # the first and the last one take different numbers of bytes
            yield from byte_sequences(low, end)
            yield from byte_sequences(end + 1, high)
            return
    for bits in (6, 12, 18):  # of the last byte, the last two, the last three
        # If bytes before them change, the last bytes must run through all of their values.
        rest = (1 << bits) - 1
        if low | rest < high | rest:
            if low & rest:
                yield from byte_sequences(low, low | rest)
                yield from byte_sequences((low | rest) + 1, high)
                return
            if high & rest != rest:
                yield from byte_sequences(low, (high & ~rest) - 1)
                yield from byte_sequences(high & ~rest, high)
                return
    yield tuple(zip(chr(low).encode(), chr(high).encode(), strict=True))
