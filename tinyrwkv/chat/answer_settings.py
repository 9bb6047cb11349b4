"""The settings that say how a chat answers: those of its sampler, and the length of what it says.

They come as numbers from a program, or as text from what a user types.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ArgumentError
from ..sampling import Sampler

DEFAULTS = {
    "temperature": 1.0,
    "top_p": 0.5,
    "presence_penalty": 0.2,
    "frequency_penalty": 0.2,
    "max_tokens": 400,
    "max_thought": 1000,
}
OF_SAMPLER = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "penalty_decay",
    "seed",
)
LENGTHS = {"max_tokens": 1, "max_thought": 0}
"""The settings that are numbers of tokens, and their smallest values."""
NAMES = (*OF_SAMPLER, *LENGTHS)
WHOLE = ("top_k", "seed", *LENGTHS)
"""The settings whose values are whole numbers."""
MOST_TOKENS = 10**9


def parse(key: str, value: float | str | None) -> Any:
    """Return the value of a setting as a number; None for the seed "none".

    Parameters
    ----------
    key : str
        One of `NAMES`. The sampler checks the ranges of its settings itself.
    value : number, str or None

    Raises
    ------
    ArgumentError
        There is no such setting, or its value is not a number of the right kind.

    Examples
    --------
    >>> parse("temperature", "0.5"), parse("seed", "none")
    (0.5, None)
    """
    if key not in NAMES:
        expected = f"one of {', '.join(NAMES)}"
        sentence = f"there is no setting {key!r}, only {', '.join(NAMES)}"
        what = ("settings", "name", repr(key), expected)
        raise ArgumentError(*what, "choose one of them", sentence)
    number = _number(key, value) if isinstance(value, str) else value
    least = LENGTHS.get(key)
    if least is not None and not (type(number) is int and least <= number <= MOST_TOKENS):
        expected = f"{least} to {MOST_TOKENS:,}"
        sentence = f"{key}={value!r} is not a whole number from {expected}"
        what = ("settings", key, repr(value), expected)
        raise ArgumentError(*what, "choose one in that range", sentence)
    return number


def _number(key: str, text: str) -> float | None:
    if (key, text) == ("seed", "none"):
        return None
    try:
        return int(text) if key in WHOLE else float(text)
    except ValueError:
        expected = "a whole number" if key in WHOLE else "a number"
        fix = f"write it like /set {key} 1"
        sentence = f"{key}={text!r} is not {expected}"
        raise ArgumentError("settings", key, repr(text), expected, fix, sentence) from None


def check(values: Mapping[str, float | str | None]) -> dict[str, Any]:
    """Return settings as numbers, each within its range.

    Raises
    ------
    ArgumentError
        As `parse` and `Sampler` raise it.
    """
    numbers = {key: parse(key, value) for key, value in values.items()}
    Sampler(**of_sampler(numbers))
    return numbers


def of_sampler(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the sampler alone."""
    return {key: value for key, value in values.items() if key not in LENGTHS}


def show(value: float | None) -> str:
    """Return a value as it can be typed.

    Examples
    --------
    >>> show(0.5), show(None)
    ('0.5', 'none')
    """
    return "none" if value is None else f"{value:.15g}"
