"""The parameters of a request, taken from it one by one; what is left over is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..errors import show
from .refusal import Refusal, unsupported, wrong

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "function_call": ("none",),
    "functions": ([],),
    "modalities": (["text"],),
    "n": (1,),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "reasoning_effort": ("none",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": (),
    "web_search_options": (),
}
"""Parameters of OpenAI that are not supported, and their values that ask for nothing."""

IGNORED = ("metadata", "prompt_cache_key", "safety_identifier", "user")
"""Parameters of OpenAI that change no answer."""


class Fields:
    """A JSON object whose values are taken one by one; null counts as left out.

    Parameters
    ----------
    told : object
        What was parsed from JSON.
    place : str, optional
        Where the object stands in the request, for messages.

    Raises
    ------
    Refusal
        It is not an object; the methods raise it if a value is not what they return.
    """

    def __init__(self, told: object, place: str = "") -> None:
        if not isinstance(told, dict):
            raise wrong(place or "the request", show(told), "a JSON object")
        self._left = {key: value for key, value in told.items() if value is not None}
        self._place = place

    def name(self, key: str) -> str:
        """Return the name of a parameter in the whole request."""
        return f"{self._place}.{key}" if self._place else key

    def take(self, key: str, default: Any = None) -> Any:
        """Return a value as it is."""
        return self._left.pop(key, default)

    def needed(self, key: str) -> Any:
        """Return a value that must be there."""
        if key not in self._left:
            name = self.name(key)
            sentence = f"{name} is missing"
            what = (name, "nothing", "a value", "give it", sentence)
            raise Refusal(400, *what, "missing_required_parameter")
        return self._left.pop(key)

    def flag(self, key: str) -> bool:
        """Return a truth value; false if it is left out."""
        value = self.take(key, False)
        if not isinstance(value, bool):
            raise wrong(self.name(key), show(value), "true or false")
        return value

    def whole(self, key: str, low: int, high: int, default: int | None = None) -> int | None:
        """Return a whole number from `low` to `high`."""
        value = self.take(key)
        if value is None:
            return default
        if type(value) is not int or not low <= value <= high:
            raise wrong(self.name(key), show(value), f"a whole number from {low:,} to {high:,}")
        return value

    def number(self, key: str) -> float | None:
        """Return a finite number."""
        value = self.take(key)
        if value is None:
            return None
        if type(value) not in (int, float) or not abs(value) < 1e30 or not math.isfinite(value):
            raise wrong(self.name(key), show(value), "a number")
        return float(value)

    def text(self, key: str, default: str | None = None) -> str | None:
        """Return a text."""
        value = self.take(key, default)
        if value is not None and not isinstance(value, str):
            raise wrong(self.name(key), show(value), "a text")
        return value

    def finish(self) -> None:
        """Refuse what nobody has taken, unless it asks for nothing."""
        for key, value in self._left.items():
            if key in IGNORED and not self._place:
                continue
            name = self.name(key) if key in NEUTRAL else show(self.name(key))[1:-1]
            if key not in NEUTRAL or self._place:
                what = (name, show(value), "a parameter that is known", "leave it out")
                raise Refusal(400, *what, f"unknown parameter {name}", "unknown_parameter")
            if not any(type(value) is type(one) and value == one for one in NEUTRAL[key]):
                raise unsupported(name, show(value), f"{name}={show(value)} is not supported")
