"""Patterns of the decimal numbers between two bounds, each number written in one way only."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from ..errors import ArgumentError

MOST_DIGITS = 15
"""Before and after the point together; more do not survive a float64."""


def pattern(low: float | Decimal, high: float | Decimal, decimals: int = 0) -> str:
    r"""Return a pattern of the decimal numbers from `low` to `high`, without leading or trailing zeros.

    Parameters
    ----------
    low, high : float or Decimal
        Both included.
    decimals : int, optional
        Digits after the point at most.

    Returns
    -------
    str

    Raises
    ------
    ArgumentError
        No such number lies between the bounds, or they have more than 15 digits.

    Examples
    --------
    >>> pattern(0, 59), pattern(-1, 1, 1)
    ('(?:[0-9]|[1-5][0-9])', '(?:-(?:0\\.[1-9]|1)|(?:0(?:\\.[1-9])?|1))')
    """
    try:
        unit = Decimal(1).scaleb(-decimals)
        first = int((Decimal(str(low)) / unit).to_integral_value(ROUND_CEILING))
        last = int((Decimal(str(high)) / unit).to_integral_value(ROUND_FLOOR))
    except (ArithmeticError, ValueError, TypeError):
        first, last = 10**MOST_DIGITS, 0
    if first > last or max(abs(first), abs(last)) >= 10**MOST_DIGITS:
        found = f"{str(low)[:30]} to {str(high)[:30]} with {decimals} decimals"
        expected = f"a number between them, of {MOST_DIGITS} digits at most"
        raise ArgumentError("constraint", "bounds", found, expected, "choose other bounds")
    parts = []
    if first < 0:
        parts.append("-" + _positive(max(1, -last), -first, decimals))
    if last >= 0:
        parts.append(_positive(max(0, first), last, decimals))
    return _either(parts)


def _positive(first: int, last: int, decimals: int) -> str:
    """Return a pattern of the numbers from `first` to `last` in units of the last decimal, 0 <= first <= last."""
    scale = 10**decimals
    begin, end = (
        -(-first // scale),
        (last + 1) // scale,
    )  # whole parts with every fraction: begin <= n < end
    parts = []
    if begin < end:
        parts.append(_whole(begin, end - 1) + _any_fraction(decimals))
    for whole in sorted({first // scale, last // scale}):
        if not begin <= whole < end:
            low, high = max(first - whole * scale, 0), min(last - whole * scale, scale - 1)
            fraction = _fraction(low, high, decimals)
            parts += [str(whole)] if low == 0 else []
            parts += [f"{whole}\\.{fraction}"] if fraction else []
    return _either(parts)


def _any_fraction(decimals: int) -> str:
    return f"(?:\\.{_fraction(0, 10**decimals - 1, decimals)})?" if decimals else ""


def _fraction(low: int, high: int, digits: int) -> str:
    """Return a pattern of numbers of so many digits without the zeros at their ends; "" where only 0 is one."""
    if digits == 0 or high == 0:
        return ""
    if low == 0 and high == 10**digits - 1:
        return "[1-9]" if digits == 1 else f"[0-9]{{0,{digits - 1}}}[1-9]"
    scale, parts = 10 ** (digits - 1), []
    for first in range(low // scale, high // scale + 1):
        least, most = max(low - first * scale, 0), min(high - first * scale, scale - 1)
        rest = _fraction(least, most, digits - 1)
        if first and least == 0:
            parts.append(f"{first}(?:{rest})?" if rest else str(first))
        elif rest:
            parts.append(f"{first}{rest}")
    return _either(_merged(parts))


def _merged(parts: list[str]) -> list[str]:
    """Put neighbours that differ in their first digit only into one set."""
    merged: list[tuple[str, str, str]] = []
    for part in parts:
        if merged and merged[-1][2] == part[1:]:
            merged[-1] = (merged[-1][0], part[0], part[1:])
        else:
            merged.append((part[0], part[0], part[1:]))
    return [(one if one == other else f"[{one}-{other}]") + rest for one, other, rest in merged]


def _whole(first: int, last: int) -> str:
    """Return a pattern of the whole numbers from `first` to `last`."""
    parts, begin = [], first
    full = len(str(last + 1)) - 1  # digits of the longest numbers that are all within
    while begin <= last:
        length = len(str(begin))
        if begin == 10 ** (length - 1) and length < full:
            parts.append(f"[1-9][0-9]{{{length - 1},{full - 1}}}")
            end = 10**full - 1
        else:
            end = min(last, 10**length - 1)
            parts.append(_same_length(str(begin), str(end)))
        begin = end + 1
    return _either(parts)


def _same_length(low: str, high: str) -> str:
    if len(low) == 1:
        return low if low == high else f"[{low}-{high}]"
    if low == "0" * len(low) and high == "9" * len(low):
        return f"[0-9]{{{len(low)}}}"
    parts = []
    for first in range(int(low[0]), int(high[0]) + 1):
        least = low[1:] if first == int(low[0]) else "0" * (len(low) - 1)
        most = high[1:] if first == int(high[0]) else "9" * (len(low) - 1)
        parts.append(str(first) + _same_length(least, most))
    return _either(_merged(parts))


def _either(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"(?:{'|'.join(parts)})" if parts else ""
