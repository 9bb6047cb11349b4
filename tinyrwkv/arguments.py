"""Check the numbers that a caller gives: of Python or NumPy, but no truth values."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from .errors import ArgumentError

NOT_NUMBERS = (bool, np.bool_, str, bytes)
"""Python converts these to numbers, but whoever gives one has confused the arguments."""


def whole_number(
    call: str,
    name: str,
    value: Any,
    low: int = 0,
    high: float = math.inf,
    fix: str = "choose one in that range",
    what: str = "",
) -> int:
    """Return an argument as an int.

    Parameters
    ----------
    call, name : str
        The function and its argument, for the message.
    value : object
        An int or an integer of NumPy.
    low, high : int
        The range, both ends included; `high` may be infinite.
    fix : str, optional
        What the caller can do about it.
    what : str, optional
        What the value is, for the message; without it, `name`.

    Returns
    -------
    int

    Raises
    ------
    ArgumentError
        It is not a whole number, or out of range.

    Examples
    --------
    >>> whole_number("generate", "max_tokens", np.int64(3))
    3
    """
    found = _convert(value, operator.index)
    if not low <= found <= high:
        expected = f"a whole number {_range(low, high)}"
        raise _refusal(call, name, value, expected, fix, what)
    return int(found)


def real_number(
    call: str,
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    fix: str = "choose one in that range",
    what: str = "",
) -> float:
    """Return an argument as a float; the rest is as in `whole_number`.

    Examples
    --------
    >>> real_number("Sampler", "top_p", 1)
    1.0
    """
    found = _convert(value, float)
    if not low <= found <= high:
        expected = f"a number {_range(low, high)}"
        raise _refusal(call, name, value, expected, fix, what)
    return found


def _refusal(call: str, name: str, value: Any, expected: str, fix: str, what: str) -> ArgumentError:
    shown = f"{value!r}"[:80]
    sentence = f"{call}: {what or name} must be {expected}, not {shown}"
    return ArgumentError(call, name, shown, expected, fix, sentence)


def _convert(value: Any, convert: Callable[[Any], float]) -> float:
    """Return a value as a number; NaN, which lies in no range, if it is not a number."""
    if isinstance(value, NOT_NUMBERS):
        return math.nan
    try:
        return convert(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _range(low: float, high: float) -> str:
    if high < math.inf:
        return f"from {_show(low)} to {_show(high)}"
    if low > -math.inf:
        return f"of at least {_show(low)}"
    return "of any size"


def _show(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:,g}"
