"""Check the numbers that a caller gives: of Python or NumPy, but no truth values."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from .errors import ArgumentError, attempt, show

NOT_NUMBERS = (bool, np.bool_, str, bytes, bytearray, memoryview)
"""Python converts these to numbers, but whoever gives one has confused the arguments."""

Text = str | bytes | bytearray | memoryview

BYTES = (bytes, bytearray, memoryview)

TEXTS = (str, *BYTES)
"""These are texts, although Python reads numbers from most of them."""


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
    found = _convert(value, lambda one: int(operator.index(one)))
    if not low <= found <= high:
        expected = f"a whole number {_range(low, high)}"
        raise refusal(call, name, value, expected, fix, what)
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
        raise refusal(call, name, value, expected, fix, what)
    return found


def items(call: str, name: str, value: Any, expected: str, fix: str) -> list[Any]:
    """Return what an argument yields, as a list.

    Parameters
    ----------
    call, name, expected, fix : str
        For the message, as in `refusal`.
    value : object
        An iterable, but not a text.

    Raises
    ------
    ArgumentError
        It is a text or cannot be iterated. What its iterator raises is passed on.
    """
    iterator = None if isinstance(value, TEXTS) else attempt(lambda: iter(value))
    if iterator is None:
        raise refusal(call, name, value, expected, fix)
    return list(iterator)


def refusal(
    call: str, name: str, value: object, expected: str, fix: str, what: str = ""
) -> ArgumentError:
    """Return the error for an argument that is not what it must be.

    Parameters
    ----------
    call, name : str
        The function, or the file, and the argument.
    value : object
        What was given; anything.
    expected, fix : str
    what : str, optional
        What the value is, for the message; without it, `name`.
    """
    shown = show(value)
    sentence = f"{call}: {what or name} must be {expected}, not {shown}"
    return ArgumentError(call, name, shown, expected, fix, sentence)


def _convert(value: Any, convert: Callable[[Any], float]) -> float:
    """Return a value as a number; NaN, which lies in no range, if it is not a number."""
    if isinstance(value, NOT_NUMBERS):
        return math.nan
    found = attempt(lambda: convert(value) if getattr(value, "shape", ()) == () else None)
    return math.nan if found is None else found


def _range(low: float, high: float) -> str:
    if high < math.inf:
        return f"from {_show(low)} to {_show(high)}"
    if low > -math.inf:
        return f"of at least {_show(low)}"
    return "within the range of a float"


def _show(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:,g}"
