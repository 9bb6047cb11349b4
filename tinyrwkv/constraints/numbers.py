"""Patterns of the decimal numbers between two bounds."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from ..arguments import whole_number
from ..errors import ArgumentError, attempt, show

MOST_DIGITS = 15
"""Before and after the point together; a float64 does not keep more."""


def pattern(low: float | Decimal, high: float | Decimal, decimals: int = 0) -> str:
    r"""Return a pattern of the decimal numbers from `low` to `high`.

    The numbers have no leading and no trailing zeros.

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
    decimals = whole_number("constraint", "decimals", decimals, 0, MOST_DIGITS)
    unit = Decimal(1).scaleb(-decimals)
    first = attempt(lambda: int((exact(low) / unit).to_integral_value(ROUND_CEILING)))
    last = attempt(lambda: int((exact(high) / unit).to_integral_value(ROUND_FLOOR)))
    if (
        first is None
        or last is None
        or first > last
        or max(abs(first), abs(last)) >= 10**MOST_DIGITS
    ):
        found = f"{_short(low)} to {_short(high)} with {decimals} decimals"
        expected = f"a number between them, of {MOST_DIGITS} digits at most"
        sentence = f"the bounds {found} do not have {expected}"
        what = ("constraint", "bounds", found, expected)
        raise ArgumentError(*what, "choose other bounds", sentence)
    return units(first, last, decimals)


def units(first: int, last: int, decimals: int, zeros: bool = False) -> str:
    r"""Return a pattern of the decimal numbers from `first` to `last`.

    Parameters
    ----------
    first, last : int
        Both included, in units of the last decimal. At least one number lies between them.
    decimals : int
        Digits after the point at most.
    zeros : bool, optional
        Allow zeros at the end, as in 2.50.

    Returns
    -------
    str

    Examples
    --------
    >>> units(5, 10, 1), units(5, 10, 1, zeros=True)
    ('(?:0\\.[5-9]|1)', '(?:0\\.[5-9]|1(?:\\.0)?)')
    """
    parts = []
    if first < 0:
        parts.append("-" + _positive(max(1, -last), -first, decimals, zeros))
    if last >= 0:
        parts.append(_positive(max(0, first), last, decimals, zeros))
    return _either(parts)


def exact(number: float | Decimal) -> Decimal:
    """Return a number as it is written, 0.1 for 0.1.

    An integer need not be written: Python refuses that for thousands of digits.
    """
    return Decimal(number if isinstance(number, int) else str(number))


def _short(number: object) -> str:
    return show(number if type(number) is not Decimal else f"{number:.15g}").strip("'")


def _positive(first: int, last: int, decimals: int, zeros: bool) -> str:
    """Return a pattern of the numbers from `first` to `last`, 0 <= first <= last.

    Both are in units of the last decimal.
    """
    scale = 10**decimals
    # Whole parts begin <= n < end have every fraction.
    begin = -(-first // scale)
    end = (last + 1) // scale
    parts = []
    if begin < end:
        parts.append(_whole(begin, end - 1) + _optional_fraction(0, scale - 1, decimals, zeros))
    for whole in sorted({first // scale, last // scale}):
        if not begin <= whole < end:
            low = max(first - whole * scale, 0)
            high = min(last - whole * scale, scale - 1)
            if low == 0:
                parts.append(f"{whole}{_optional_fraction(low, high, decimals, zeros)}")
            else:
                parts.append(f"{whole}\\.{_fraction(low, high, decimals, zeros)}")
    return _either(parts)


def _optional_fraction(low: int, high: int, decimals: int, zeros: bool) -> str:
    fraction = _fraction(low, high, decimals, zeros)
    return f"(?:\\.{fraction})?" if fraction else ""


def _fraction(low: int, high: int, digits: int, zeros: bool) -> str:
    """Return a pattern of the digits after the point.

    `low` and `high` have this number of digits. The pattern is empty if there is none: without
    zeros at the end, there is none for 0.
    """
    if digits == 0 or (high == 0 and not zeros):
        return ""
    if low == 0 and high == 10**digits - 1:
        if zeros:
            return f"[0-9]{{1,{digits}}}"
        return "[1-9]" if digits == 1 else f"[0-9]{{0,{digits - 1}}}[1-9]"
    parts = []
    scale = 10 ** (digits - 1)
    for first in range(low // scale, high // scale + 1):
        least = max(low - first * scale, 0)
        most = min(high - first * scale, scale - 1)
        rest = _fraction(least, most, digits - 1, zeros)
        if least == 0 and (first or zeros):
            parts.append(f"{first}(?:{rest})?" if rest else str(first))
        elif rest:
            parts.append(f"{first}{rest}")
    return _either(_merged(parts))


def _merged(parts: list[str]) -> list[str]:
    """Put neighbours that differ in their first digit only into one set."""
    merged: list[tuple[str, str, str]] = []  # first digits from, to, and what follows
    for part in parts:
        if merged and merged[-1][2] == part[1:]:
            merged[-1] = (merged[-1][0], part[0], part[1:])
        else:
            merged.append((part[0], part[0], part[1:]))
    return [_digits(first, last) + rest for first, last, rest in merged]


def _digits(first: str, last: str) -> str:
    return first if first == last else f"[{first}-{last}]"


def _whole(first: int, last: int) -> str:
    """Return a pattern of the whole numbers from `first` to `last`."""
    parts = []
    begin = first
    full = len(str(last + 1)) - 1  # up to this length, all numbers are small enough
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
        return _digits(low, high)
    if low == "0" * len(low) and high == "9" * len(low):
        return f"[0-9]{{{len(low)}}}"
    parts = []
    for first in range(int(low[0]), int(high[0]) + 1):
        least = low[1:] if first == int(low[0]) else "0" * (len(low) - 1)
        most = high[1:] if first == int(high[0]) else "9" * (len(low) - 1)
        parts.append(str(first) + _same_length(least, most))
    return _either(_merged(parts))


def _either(parts: list[str]) -> str:
    if len(parts) <= 1:
        return "".join(parts)
    return f"(?:{'|'.join(parts)})"
