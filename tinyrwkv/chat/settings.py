"""The settings of a chat that can be changed on the way, as numbers or as what was typed."""

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
}
SAMPLER_SETTINGS = (
    *("temperature", "top_k", "top_p", "min_p", "presence_penalty", "frequency_penalty"),
    *("repetition_penalty", "penalty_decay", "seed"),
)
NAMES = (*SAMPLER_SETTINGS, "max_tokens")
WHOLE = ("top_k", "seed", "max_tokens")
MOST_TOKENS = 10**9


def parse(key: str, value: float | str | None) -> Any:
    """Return the value of a setting as a number; None for the seed "none".

    Parameters
    ----------
    key : str
        temperature, top_k, top_p, min_p, presence_penalty, frequency_penalty, repetition_penalty, penalty_decay, seed
        or max_tokens. The sampler checks the ranges of its own.
    value : number, str or None

    Raises
    ------
    ArgumentError
        There is no such setting, or its value is no number of the right kind.

    Examples
    --------
    >>> parse("temperature", "0.5"), parse("seed", "none")
    (0.5, None)
    """
    if key not in NAMES:
        raise ArgumentError(
            "settings", "name", repr(key), f"one of {', '.join(NAMES)}", "choose one of them"
        )
    number: Any = value
    if isinstance(value, str):
        try:
            number = (
                None
                if (key, value) == ("seed", "none")
                else int(value)
                if key in WHOLE
                else float(value)
            )
        except ValueError:
            expected = "a whole number" if key in WHOLE else "a number"
            raise ArgumentError(
                "settings", key, repr(value), expected, f"write it like /set {key} 1"
            ) from None
    if key == "max_tokens" and not (type(number) is int and 1 <= number <= MOST_TOKENS):
        raise ArgumentError(
            "settings", key, repr(value), f"1 to {MOST_TOKENS:,}", "choose one in that range"
        )
    return number


def check(values: Mapping[str, float | str | None]) -> dict[str, Any]:
    """Return settings as numbers, each within its range; raises ArgumentError as `parse` and `Sampler` do."""
    numbers = {key: parse(key, value) for key, value in values.items()}
    Sampler(**{key: number for key, number in numbers.items() if key != "max_tokens"})
    return numbers


def show(value: float | None) -> str:
    """Return a value as it can be typed.

    Examples
    --------
    >>> show(0.5), show(None)
    ('0.5', 'none')
    """
    return "none" if value is None else f"{value:.15g}"
